//! A device that computes nothing: it accepts every graph and returns zeros. With it, what a step
//! costs is what everything but the device costs.
//!
//! ```text
//! signature.txt        cairn null 1
//!                      input s0            one line per input, in order: sizes, `s0` is symbol 0
//!                      input s1,s2
//!                      output s3,49152
//! ```
//!
//! It still holds callers to the contract: inputs must be as many and as long as the graph says.
//! The largest of equal logits are the first ones, and it says so itself: whoever wants no more costs
//! it no rows of zeros. Token 0 may end a sequence; whoever wants long ones ignores that.
//!
//! What this module deliberately does not do: it keeps no weights and no states, so that the blocks
//! of its KV pool have no bytes and as many as one likes may be copied.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Write as _;

use super::artifact::{Artifact, Files, io_of};
use super::{
    Backend, BackendError, Capabilities, Executable, Memory, Output, Rows, StateSpec, Step, Wanted,
    Weight,
};
use crate::ir::{Dim, Graph, Shape, SymbolId, Verified};

const NAME: &str = "null";
/// First line of an artifact; the number changes with the format.
const HEADER: &str = "cairn null 1";
/// The one file of an artifact.
pub const FILE: &str = "signature.txt";

/// Accepts everything, computes nothing.
#[derive(Clone, Copy, Debug)]
pub struct NullBackend {
    /// What its capabilities claim: with `false` it is given one graph per bucket.
    pub dynamic_shapes: bool,
}

impl Backend for NullBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self, _: &Graph) -> Capabilities {
        Capabilities { dynamic_shapes: self.dynamic_shapes, ..Capabilities::ANY }
    }

    fn fingerprint(&self) -> Vec<(Cow<'static, str>, String)> {
        vec![("artifact".into(), HEADER.to_string())]
    }

    fn compile(&self, graph: &Verified<Graph>) -> Result<Artifact, BackendError> {
        Ok(Artifact::single(FILE, Signature::of(graph)?.encode().into_bytes(), io_of(graph)))
    }

    fn load(&self, files: &Files<'_>) -> Result<Box<dyn Executable>, BackendError> {
        let bad = |what: String| BackendError::BadArtifact { backend: NAME, what };
        Ok(Box::new(Signature::decode(files.file(FILE, NAME)?).map_err(bad)?))
    }

    fn place(&self, _: Vec<Weight>, _: &[StateSpec]) -> Result<Box<dyn Memory>, BackendError> {
        Ok(Box::new(NullMemory))
    }
}

/// Holds nothing.
#[derive(Debug)]
struct NullMemory;

impl Memory for NullMemory {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }

    fn copy_blocks(&mut self, _: &[(u32, u32)]) -> Result<(), BackendError> {
        Ok(())
    }

    fn read_block(&mut self, _: u32, bytes: &mut [u8]) -> Result<(), BackendError> {
        check_no_bytes(bytes)
    }

    fn write_block(&mut self, _: u32, bytes: &[u8]) -> Result<(), BackendError> {
        check_no_bytes(bytes)
    }
}

fn check_no_bytes(bytes: &[u8]) -> Result<(), BackendError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let len = bytes.len();
    Err(BackendError::BadInput(format!(
        "a block of the KV pool has 0 bytes, the buffer for it {len}"
    )))
}

/// What a graph takes and returns: all that this backend keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature {
    inputs: Vec<Shape>,
    output: Shape,
}

impl Signature {
    fn of(graph: &Graph) -> Result<Self, BackendError> {
        let shape_of = |id| graph.ty(id).shape.clone();
        let [output] = graph.outputs() else {
            let what = format!("a graph with {} outputs, only with one", graph.outputs().len());
            return Err(BackendError::Unsupported { backend: NAME, what });
        };
        Ok(Self { inputs: graph.inputs().map(shape_of).collect(), output: shape_of(*output) })
    }

    fn encode(&self) -> String {
        let mut text = format!("{HEADER}\n");
        let inputs = self.inputs.iter().map(|shape| ("input", shape));
        for (kind, shape) in inputs.chain([("output", &self.output)]) {
            let dims: Vec<String> = shape.dims().iter().map(ToString::to_string).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{kind} {}", dims.join(","));
        }
        text
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let body = text.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let body = body.ok_or_else(|| format!("expected the first line to be `{HEADER}`"))?;
        let (inputs, output) = body
            .strip_suffix('\n')
            .and_then(|body| body.rsplit_once("output "))
            .ok_or("expected it to end with an output line")?;
        let inputs = inputs.lines().map(|line| {
            let dims = line.strip_prefix("input ");
            decode_shape(dims.ok_or_else(|| format!("expected an input line, got `{line}`"))?)
        });
        Ok(Self { inputs: inputs.collect::<Result<_, _>>()?, output: decode_shape(output)? })
    }
}

fn decode_shape(text: &str) -> Result<Shape, String> {
    if text.is_empty() {
        return Ok(Shape::default());
    }
    let dims = text.split(',').map(|dim| {
        let parsed = match dim.strip_prefix('s') {
            Some(id) => id.parse().map(|id| Dim::Symbolic(SymbolId(id))),
            None => dim.parse().map(Dim::Fixed),
        };
        parsed.map_err(|error| format!("expected a size or a symbol, got `{dim}`: {error}"))
    });
    Ok(Shape(dims.collect::<Result<_, _>>()?))
}

/// The product of sizes in this step; `None` when a symbol has no value or it overflows.
fn product(dims: &[Dim], symbols: &[u64]) -> Option<usize> {
    dims.iter().try_fold(1_usize, |product, dim| {
        let size = match *dim {
            Dim::Fixed(size) => size,
            Dim::Symbolic(SymbolId(id)) => *symbols.get(usize::try_from(id).ok()?)?,
        };
        product.checked_mul(usize::try_from(size).ok()?)
    })
}

impl Signature {
    /// Holds a step to the contract.
    fn check(&self, step: &Step<'_>) -> Result<(), BackendError> {
        if step.inputs.len() != self.inputs.len() {
            let (expected, got) = (self.inputs.len(), step.inputs.len());
            return Err(BackendError::BadInput(format!("expected {expected} inputs, got {got}")));
        }
        for (idx, (input, shape)) in step.inputs.iter().zip(&self.inputs).enumerate() {
            if product(shape.dims(), step.symbols) != Some(input.len()) {
                let (got, symbols) = (input.len(), step.symbols);
                return Err(BackendError::BadInput(format!(
                    "expected input {idx} to have shape {shape} with symbols {symbols:?}, got {got} elements"
                )));
            }
        }
        Ok(())
    }

    /// Rows and columns of the output.
    fn output_size(&self, step: &Step<'_>) -> Result<(usize, usize), BackendError> {
        let (rows, columns) = match self.output.dims().split_last() {
            Some((columns, rows)) => (rows, std::slice::from_ref(columns)),
            None => (&[][..], &[][..]),
        };
        let size = product(rows, step.symbols).zip(product(columns, step.symbols));
        let size = size.filter(|(rows, columns)| rows.checked_mul(*columns).is_some());
        size.ok_or_else(|| {
            BackendError::BadInput(format!("the output shape {} has no size", self.output))
        })
    }

    /// Makes room for that many numbers of four bytes in an emptied buffer, which keeps it.
    fn reserve<T>(&self, values: &mut Vec<T>, len: usize) -> Result<(), BackendError> {
        values.clear();
        values.try_reserve_exact(len).map_err(|_| BackendError::OutOfMemory {
            what: format!("the output of shape {}", self.output),
            needed: Some((len as u64).saturating_mul(4)),
            detail: String::new(),
        })
    }
}

impl Executable for Signature {
    fn run(
        &mut self,
        _: &mut dyn Memory,
        step: &Step<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        self.check(step)?;
        let (rows, columns) = self.output_size(step)?;
        self.reserve(output, rows * columns)?;
        output.resize(rows * columns, 0.0);
        Ok(())
    }

    /// There are none.
    fn use_weights(&mut self, _: &[usize]) -> Result<(), BackendError> {
        Ok(())
    }

    /// Of equal logits, the largest are those of the lowest indices.
    fn run_wanted(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        wanted: Wanted,
        output: &mut Output,
    ) -> Result<(), BackendError> {
        let (rows, columns) = self.output_size(step)?;
        let k = match wanted {
            Wanted::Logits => 0,
            Wanted::TopK(k) => k.clamp(1, columns.max(1)),
            Wanted::Argmax => 1,
        };
        let Some(last) = i32::try_from(k.min(columns)).ok().filter(|&last| last > 0) else {
            output.rows = Rows::Logits;
            return self.run(memory, step, &mut output.logits);
        };
        self.check(step)?;
        self.reserve(&mut output.values, rows * k)?;
        self.reserve(&mut output.indices, rows * k)?;
        output.values.resize(rows * k, 0.0);
        output.indices.extend((0..rows).flat_map(|_| 0..last));
        output.rows = if wanted == Wanted::Argmax { Rows::Argmax } else { Rows::TopK { k } };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, DType, verify};

    /// A graph whose output is its one input.
    fn graph() -> (Graph, SymbolId) {
        let mut builder = Builder::new("echo");
        let rows = builder.symbol("rows", 1, 8);
        let shape = Shape::new([rows.into(), Dim::Fixed(5)]);
        let input = builder.input("x", DType::F32, shape);
        (builder.finish(&[input]), rows)
    }

    #[test]
    fn compiles_a_graph_with_or_without_symbols() {
        let backend = NullBackend { dynamic_shapes: true };
        let (graph, rows) = graph();
        let bucket = verify(graph.specialise(&[(rows, 4)]).unwrap()).unwrap();
        let artifact = backend.compile(&verify(graph).unwrap()).unwrap();
        assert_eq!(artifact.files[0].bytes, b"cairn null 1\ninput s0,5\noutput s0,5\n");
        let artifact = backend.compile(&bucket).unwrap();
        assert_eq!(artifact.files[0].bytes, b"cairn null 1\ninput 4,5\noutput 4,5\n");
    }

    fn load(bytes: &[u8]) -> Result<Box<dyn Executable>, BackendError> {
        NullBackend { dynamic_shapes: true }.load(&Files::new([(FILE, bytes)]))
    }

    fn signature() -> Signature {
        let symbol = |id| Dim::Symbolic(SymbolId(id));
        Signature {
            inputs: vec![Shape::new([symbol(0)]), Shape::new([symbol(1), symbol(2)])],
            output: Shape::new([symbol(1), Dim::Fixed(5)]),
        }
    }

    fn run(symbols: &[u64], inputs: &[&[i32]]) -> Result<Vec<f32>, BackendError> {
        let backend = NullBackend { dynamic_shapes: true };
        let mut executable = load(signature().encode().as_bytes())?;
        let mut memory = backend.place(Vec::new(), &[])?;
        let mut output = vec![1.0; 3];
        executable.run(memory.as_mut(), &Step { symbols, inputs }, &mut output)?;
        Ok(output)
    }

    #[test]
    fn the_artifact_says_what_it_is_and_round_trips() {
        let text = signature().encode();
        assert_eq!(text, "cairn null 1\ninput s0\ninput s1,s2\noutput s1,5\n");
        assert_eq!(Signature::decode(text.as_bytes()), Ok(signature()));
        let scalar = Signature { inputs: vec![Shape::default()], output: Shape::default() };
        assert_eq!(Signature::decode(scalar.encode().as_bytes()), Ok(scalar));
    }

    #[test]
    fn returns_zeros_as_large_as_the_output() {
        assert_eq!(run(&[3, 2, 1], &[&[7; 3], &[0; 2]]).unwrap(), [0.0; 10]);
    }

    #[test]
    fn the_largest_of_equals_are_the_first() {
        let backend = NullBackend { dynamic_shapes: true };
        let mut executable = load(signature().encode().as_bytes()).unwrap();
        let mut memory = backend.place(Vec::new(), &[]).unwrap();
        let step = Step { symbols: &[3, 2, 1], inputs: &[&[7; 3], &[0; 2]] };
        let mut output = Output::default();
        let mut run = |wanted| {
            executable.run_wanted(memory.as_mut(), &step, wanted, &mut output).unwrap();
            output.clone()
        };
        let argmax = run(Wanted::Argmax);
        assert_eq!(
            (argmax.rows, argmax.indices, argmax.values.len()),
            (Rows::Argmax, vec![0; 2], 2)
        );
        let top = run(Wanted::TopK(3));
        assert_eq!((top.rows, top.values), (Rows::TopK { k: 3 }, vec![0.0; 6]));
        assert_eq!(top.indices, [0, 1, 2, 0, 1, 2]);
        // A row has five; and nothing at all is not asked for.
        assert_eq!(run(Wanted::TopK(9)).rows, Rows::TopK { k: 5 });
        assert_eq!(run(Wanted::TopK(0)).rows, Rows::TopK { k: 1 });
        let all = run(Wanted::Logits);
        assert_eq!((all.rows, all.logits), (Rows::Logits, vec![0.0; 10]));
        let bad = Step { inputs: &[], ..step };
        let result = executable.run_wanted(memory.as_mut(), &bad, Wanted::Argmax, &mut output);
        assert!(matches!(result, Err(BackendError::BadInput(_))));
    }

    #[test]
    fn a_larger_step_than_any_before_is_all_that_allocates() {
        let backend = NullBackend { dynamic_shapes: true };
        let mut executable = load(signature().encode().as_bytes()).unwrap();
        let mut memory = backend.place(Vec::new(), &[]).unwrap();
        let mut output = Output::default();
        let mut run = |rows: u64, wanted| {
            let input = vec![0; rows as usize];
            let step = Step { symbols: &[3, rows, 1], inputs: &[&[7; 3], &input] };
            executable.run_wanted(memory.as_mut(), &step, wanted, &mut output).unwrap();
            (output.values.as_ptr(), output.indices.as_ptr())
        };
        let places = run(64, Wanted::TopK(5));
        for (rows, wanted) in [(1, Wanted::Argmax), (64, Wanted::TopK(5)), (40, Wanted::TopK(3))] {
            assert_eq!(run(rows, wanted), places);
        }
    }

    #[test]
    fn blocks_have_no_bytes_and_may_be_copied() {
        let mut memory = NullBackend { dynamic_shapes: true }.place(Vec::new(), &[]).unwrap();
        assert_eq!(memory.block_bytes(), 0);
        memory.copy_blocks(&[(0, 7), (u32::MAX, 0)]).unwrap();
        memory.read_block(3, &mut []).unwrap();
        memory.write_block(3, &[]).unwrap();
        assert!(matches!(memory.read_block(3, &mut [0]), Err(BackendError::BadInput(_))));
        assert!(matches!(memory.write_block(3, &[0]), Err(BackendError::BadInput(_))));
    }

    #[test]
    fn refuses_inputs_that_do_not_match() {
        for (symbols, inputs) in [
            (&[3, 2, 1][..], &[&[7; 3][..]][..]),
            (&[3, 2, 1], &[&[7; 2], &[0; 2]]),
            (&[3, 2], &[&[7; 3], &[0; 2]]),
        ] {
            assert!(matches!(run(symbols, inputs), Err(BackendError::BadInput(_))));
        }
        let huge = run(&[3, u64::MAX, 1], &[&[7; 3], &[0; 2]]);
        assert!(matches!(huge, Err(BackendError::BadInput(_))));
    }

    #[test]
    fn an_output_that_cannot_be_allocated_is_an_error() {
        let bytes = format!("{HEADER}\noutput {}\n", u64::MAX / 8);
        let mut executable = load(bytes.as_bytes()).unwrap();
        let step = Step { symbols: &[], inputs: &[] };
        let result = executable.run(&mut NullMemory, &step, &mut Vec::new());
        assert!(matches!(result, Err(BackendError::OutOfMemory { .. })));
    }

    #[test]
    fn bytes_that_are_not_an_artifact_are_refused() {
        let good = signature().encode();
        for len in 0..good.len() {
            // A truncation inside the last number cannot be seen without its line's end.
            assert!(load(&good.as_bytes()[..len]).is_err(), "accepted {len} bytes");
        }
        for bad in ["cairn null 2\noutput 1\n", "cairn null 1\ninput x\noutput 1\n", "\u{0}"] {
            let error = load(bad.as_bytes()).err().unwrap();
            assert!(matches!(error, BackendError::BadArtifact { .. }), "{bad:?}");
        }
        assert!(load(&[0xff; 40]).is_err());
    }
}
