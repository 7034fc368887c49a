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
//!
//! What this module deliberately does not do: it keeps no weights and no states.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Write as _;

use super::artifact::{Artifact, Files, io_of};
use super::{Backend, BackendError, Capabilities, Executable, Memory, StateSpec, Step, Weight};
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

/// Number of elements of a shape in this step; `None` when a symbol has no value or it overflows.
fn num_elements(shape: &Shape, step: &Step<'_>) -> Option<usize> {
    let sizes = shape.resolve(step.symbols)?;
    sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))
}

impl Executable for Signature {
    fn run(
        &mut self,
        _: &mut dyn Memory,
        step: &Step<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        if step.inputs.len() != self.inputs.len() {
            let (expected, got) = (self.inputs.len(), step.inputs.len());
            return Err(BackendError::BadInput(format!("expected {expected} inputs, got {got}")));
        }
        for (idx, (input, shape)) in step.inputs.iter().zip(&self.inputs).enumerate() {
            if num_elements(shape, step) != Some(input.len()) {
                let (got, symbols) = (input.len(), step.symbols);
                return Err(BackendError::BadInput(format!(
                    "expected input {idx} to have shape {shape} with symbols {symbols:?}, got {got} elements"
                )));
            }
        }
        let num_logits = num_elements(&self.output, step).ok_or_else(|| {
            BackendError::BadInput(format!("the output shape {} has no size", self.output))
        })?;
        output.clear();
        output.try_reserve_exact(num_logits).map_err(|_| BackendError::OutOfMemory {
            what: format!("the output of shape {}", self.output),
            needed: Some((num_logits as u64).saturating_mul(4)),
            detail: String::new(),
        })?;
        output.resize(num_logits, 0.0);
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
