//! The `tojson` filter of chat templates, as Python's `json.dumps` writes it.
//!
//! Templates write tool definitions and arguments with it, and models were trained on every space:
//! `{"a": 1, "b": [1, 2]}`. The engine's own filter also escapes for HTML, which must not happen.
//!
//! The result is bounded: a list that holds one list many times, a few levels deep, is tiny in
//! memory and endless in writing.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// No tool definition is longer.
const MAX_BYTES: usize = 16 << 20;
const MAX_DEPTH: usize = 100;
/// The engine counts the work of writing by this many bytes.
const BYTES_PER_FUEL: u64 = 4;

/// `value | tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`
pub(super) fn tojson(state: &State<'_, '_>, value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent = indent_of(kwargs.get("indent")?)?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let mut writer = Writer {
        out: String::new(),
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        item_separator: (if indent.is_some() { "," } else { ", " }).to_owned(),
        key_separator: ": ".to_owned(),
        indent,
    };
    kwargs.assert_all_used()?;
    match separators.as_deref() {
        None => {}
        Some([item, key]) => {
            writer.item_separator.clone_from(item);
            writer.key_separator.clone_from(key);
        }
        Some(_) => return Err(invalid("`separators` must be two strings")),
    }
    writer.value(&value, 0)?;
    state.consume_fuel(writer.out.len() as u64 / BYTES_PER_FUEL)?;
    Ok(writer.out)
}

fn invalid(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// The text of one level: as many spaces as the number says, or the string itself.
fn indent_of(indent: Option<Value>) -> Result<Option<String>, Error> {
    let Some(indent) = indent.filter(|indent| !indent.is_none() && !indent.is_undefined()) else {
        return Ok(None);
    };
    if let Some(text) = indent.as_str() {
        return Ok(Some(text.to_owned()));
    }
    match indent.as_i64() {
        Some(count) if count <= 64 => Ok(Some(" ".repeat(count.max(0) as usize))),
        _ => Err(invalid("`indent` must be a string or a number of at most 64")),
    }
}

struct Writer {
    out: String,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("the value is nested too deeply for JSON"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            kind => {
                let problem = format!("a value of type {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::BadSerialization, problem));
            }
        }
        if self.out.len() > MAX_BYTES {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        Ok(())
    }

    fn list(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut is_empty = true;
        for item in list.try_iter()? {
            self.begin_item(is_empty, depth);
            self.value(&item, depth + 1)?;
            is_empty = false;
        }
        self.end(is_empty, depth, ']');
        Ok(())
    }

    fn map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        for (index, key) in keys.iter().enumerate() {
            self.begin_item(index == 0, depth);
            if let Some(key) = key.as_str() {
                self.string(key);
            } else {
                // Other keys are written as the JSON value would be, in quotes.
                self.out.push('"');
                self.value(key, depth + 1)?;
                self.out.push('"');
            }
            self.out.push_str(&self.key_separator);
            self.value(&map.get_item(key)?, depth + 1)?;
        }
        self.end(keys.is_empty(), depth, '}');
        Ok(())
    }

    fn begin_item(&mut self, is_first: bool, depth: usize) {
        if !is_first {
            self.out.push_str(&self.item_separator);
        }
        self.new_line(depth + 1);
    }

    fn end(&mut self, is_empty: bool, depth: usize, bracket: char) {
        if !is_empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            self.out.push_str(&value.to_string());
        } else {
            self.out.push_str(&float(f64::try_from(value.clone())?));
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        use std::fmt::Write;
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                other if other < ' ' || (self.ensure_ascii && other > '~') => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}")
                            .expect("invariant: writing to a string succeeds");
                    }
                }
                other => self.out.push(other),
            }
        }
        self.out.push('"');
    }
}

/// A float as Python prints it: shortest digits that read back the same, with an exponent of at
/// least two digits where it is below -4 or above 15.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return (if value > 0.0 { "Infinity" } else { "-Infinity" }).to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_look_like_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5e-7, "-2.5e-07"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::INFINITY, "Infinity"),
        ];
        for (value, text) in cases {
            assert_eq!(float(value), text);
        }
    }
}
