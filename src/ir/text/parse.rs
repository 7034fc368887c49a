//! Text to graph. The result is as unchecked as any graph: `verify` decides.

use crate::ir::{
    Constant, DType, Dim, Graph, Node, Op, RopeStyle, Shape, Symbol, SymbolId, Value, ValueId,
    ValueType, WeightPart,
};

/// Where and why text is not a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (line {line}, column {column})")]
pub struct ParseError {
    /// What was expected and got.
    pub message: String,
    /// From 1.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
}

/// Reads the text form.
///
/// # Errors
/// The first place where the text is not one.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut graph = Graph::default();
    let mut has_returned = false;
    let mut values: Vec<Option<Value>> = Vec::new();
    for (idx, line) in text.lines().enumerate() {
        let mut cursor = Cursor { line, at: 0, line_number: idx + 1 };
        cursor.skip_spaces();
        if cursor.is_at_end() {
            continue;
        }
        if has_returned {
            return Err(cursor.error("nothing may follow `return`"));
        }
        if cursor.eat("graph ") {
            graph.name = cursor.string()?;
        } else if cursor.eat("symbol ") {
            symbol(&mut cursor, &mut graph)?;
        } else if cursor.eat("return ") {
            graph.outputs = cursor.list(Cursor::value_id)?;
            has_returned = true;
        } else {
            node(&mut cursor, &mut graph, &mut values)?;
        }
        cursor.skip_spaces();
        if !cursor.is_at_end() {
            return Err(cursor.error("expected the end of the line"));
        }
    }
    let error = |message: String| ParseError { message, line: text.lines().count(), column: 1 };
    if !has_returned {
        return Err(error("expected a `return` line at the end".to_owned()));
    }
    graph.values = values
        .into_iter()
        .enumerate()
        .map(|(idx, value)| value.ok_or_else(|| error(format!("%{idx} is never defined"))))
        .collect::<Result<_, _>>()?;
    Ok(graph)
}

fn symbol(cursor: &mut Cursor<'_>, graph: &mut Graph) -> Result<(), ParseError> {
    let id = cursor.symbol_id()?;
    if id.0 as usize != graph.symbols.len() {
        return Err(cursor.error(&format!("expected symbol s{}", graph.symbols.len())));
    }
    cursor.skip_spaces();
    let name = cursor.string()?;
    cursor.skip_spaces();
    let min = cursor.u64()?;
    cursor.expect("..=")?;
    let max = cursor.u64()?;
    graph.symbols.push(Symbol { name, min, max });
    Ok(())
}

fn node(
    cursor: &mut Cursor<'_>,
    graph: &mut Graph,
    values: &mut Vec<Option<Value>>,
) -> Result<(), ParseError> {
    // One node per line, so the line count bounds what ids can be and what is allocated.
    let results = cursor.list(|cursor| {
        let id = cursor.value_id()?;
        cursor.skip_spaces();
        let name = cursor.string()?;
        cursor.expect(": ")?;
        let dtype = cursor.dtype()?;
        let shape = cursor.shape()?;
        Ok((id, Value { name, ty: ValueType { dtype, shape } }))
    })?;
    let mut outputs = Vec::with_capacity(results.len());
    for (id, value) in results {
        let idx = id.0 as usize;
        if idx > values.len() + 1024 {
            return Err(cursor.error(&format!("%{idx} is far beyond the values defined so far")));
        }
        if idx >= values.len() {
            values.resize(idx + 1, None);
        }
        if values[idx].replace(value).is_some() {
            return Err(cursor.error(&format!("%{idx} is defined twice")));
        }
        outputs.push(id);
    }
    cursor.expect(" = ")?;
    let name = cursor.word();
    cursor.expect("(")?;
    let inputs =
        if cursor.peek() == Some('%') { cursor.list(Cursor::value_id)? } else { Vec::new() };
    // Ops without attributes have none; the op decides what it expects.
    cursor.eat("; ");
    let op = op(cursor, name)?;
    cursor.expect(")")?;
    graph.nodes.push(Node { op, inputs, outputs });
    Ok(())
}

fn op(cursor: &mut Cursor<'_>, name: &str) -> Result<Op, ParseError> {
    Ok(match name {
        "input" => Op::Input,
        "weight" => Op::Weight {
            parts: cursor.list(|cursor| {
                let name = cursor.string()?;
                cursor.expect("=")?;
                Ok(WeightPart { name, rows: cursor.dim()? })
            })?,
        },
        "state" => Op::State,
        "constant" => {
            cursor.expect("shape=")?;
            let at = cursor.at;
            let shape = cursor.shape()?.as_fixed();
            let shape = shape.ok_or_else(|| cursor.error_at(at, "a constant's shape is fixed"))?;
            cursor.expect(", values=[")?;
            let values =
                if cursor.peek() == Some(']') { Vec::new() } else { cursor.list(Cursor::f32)? };
            cursor.expect("]")?;
            Op::Constant(Constant { shape, values })
        }
        "gather" | "cast" => {
            cursor.expect("dtype=")?;
            let dtype = cursor.dtype()?;
            if name == "gather" { Op::Gather { dtype } } else { Op::Cast { dtype } }
        }
        "linear" => Op::Linear,
        "add" => Op::Add,
        "mul" => Op::Mul,
        "silu" => Op::Silu,
        "silu_mul" => Op::SiluMul,
        "rms_norm" | "add_rms_norm" => {
            cursor.expect("eps=")?;
            let eps = cursor.f32()?;
            if name == "rms_norm" { Op::RmsNorm { eps } } else { Op::AddRmsNorm { eps } }
        }
        "slice" => {
            cursor.expect("start=")?;
            let start = cursor.u64()?;
            cursor.expect(", len=")?;
            Op::Slice { start, len: cursor.u64()? }
        }
        "reshape" => {
            cursor.expect("shape=")?;
            Op::Reshape { shape: cursor.shape()? }
        }
        "rope" => {
            cursor.expect("style=")?;
            let at = cursor.at;
            let style = match cursor.word() {
                "halves" => RopeStyle::Halves,
                "interleaved" => RopeStyle::Interleaved,
                _ => return Err(cursor.error_at(at, "expected `halves` or `interleaved`")),
            };
            Op::Rope { style }
        }
        "kv_write" => Op::KvWrite,
        "paged_attention" => {
            cursor.expect("scale=")?;
            let scale = cursor.f32()?;
            let window = if cursor.eat(", window=") { Some(cursor.u64()?) } else { None };
            Op::PagedAttention { scale, window }
        }
        _ => return Err(cursor.error(&format!("unknown op `{name}`"))),
    })
}

/// A position in a line.
struct Cursor<'a> {
    line: &'a str,
    at: usize,
    line_number: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.line[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn is_at_end(&self) -> bool {
        self.rest().is_empty()
    }

    fn error(&self, message: &str) -> ParseError {
        self.error_at(self.at, message)
    }

    fn error_at(&self, at: usize, message: &str) -> ParseError {
        ParseError { message: message.to_owned(), line: self.line_number, column: at + 1 }
    }

    fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), ParseError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(&format!("expected `{token}`"))) }
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let len = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn word(&mut self) -> &'a str {
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    fn u64(&mut self) -> Result<u64, ParseError> {
        let at = self.at;
        let digits = self.take_while(|c| c.is_ascii_digit());
        digits.parse().map_err(|_| self.error_at(at, "expected a whole number"))
    }

    fn u32(&mut self) -> Result<u32, ParseError> {
        let at = self.at;
        u32::try_from(self.u64()?).map_err(|_| self.error_at(at, "the number is too large"))
    }

    fn f32(&mut self) -> Result<f32, ParseError> {
        let at = self.at;
        let text = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
        text.parse().map_err(|_| self.error_at(at, "expected a number"))
    }

    fn value_id(&mut self) -> Result<ValueId, ParseError> {
        self.expect("%")?;
        Ok(ValueId(self.u32()?))
    }

    fn symbol_id(&mut self) -> Result<SymbolId, ParseError> {
        self.expect("s")?;
        Ok(SymbolId(self.u32()?))
    }

    fn dtype(&mut self) -> Result<DType, ParseError> {
        let at = self.at;
        let word = self.word();
        DType::from_name(word).ok_or_else(|| self.error_at(at, &format!("unknown dtype `{word}`")))
    }

    fn dim(&mut self) -> Result<Dim, ParseError> {
        if self.peek() == Some('s') {
            Ok(Dim::Symbolic(self.symbol_id()?))
        } else {
            Ok(Dim::Fixed(self.u64()?))
        }
    }

    fn shape(&mut self) -> Result<Shape, ParseError> {
        self.expect("[")?;
        let dims = if self.peek() == Some(']') { Vec::new() } else { self.list(Self::dim)? };
        self.expect("]")?;
        Ok(Shape(dims))
    }

    /// A JSON string: the escapes that names may need are defined there.
    fn string(&mut self) -> Result<String, ParseError> {
        let at = self.at;
        let mut stream = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
        let parsed = stream.next();
        let consumed = stream.byte_offset();
        match parsed {
            Some(Ok(text)) => {
                self.at += consumed;
                Ok(text)
            }
            Some(Err(_)) | None => Err(self.error_at(at, "expected a quoted name")),
        }
    }

    fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        let mut items = vec![item(self)?];
        while self.eat(", ") {
            items.push(item(self)?);
        }
        Ok(items)
    }
}
