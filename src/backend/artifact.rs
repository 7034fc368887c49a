//! What a backend makes of a graph: named files, and what is to be known about them.
//!
//! ```text
//! compile --> Artifact { files: plan.json | model.om io_table.json | ..., io, log_tail }
//! load    <-- Files: the same files, borrowed from wherever they are kept
//! ```
//!
//! | Backend | Files |
//! | --- | --- |
//! | `cpu` | `plan.json` |
//! | `ascend` | `model.om`, `io_table.json` |
//! | `null` | `signature.txt` |
//!
//! Names are lower-case letters, digits, `.`, `_` and `-`: they become names of files.
//!
//! What this module deliberately does not do: it knows neither where artifacts are kept nor what is
//! in their files.

use serde_json::{Value, json};

use super::BackendError;
use crate::ir::{Dim, Graph, Shape, ValueId};

/// One file of an [`Artifact`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactFile {
    /// Its name.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A compiled graph: plain files in the backend's own formats, without weights and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The files, each name once.
    pub files: Vec<ArtifactFile>,
    /// What goes in and comes out, for people; see [`io_of`].
    pub io: Value,
    /// The end of what the compiler said; may be empty.
    pub log_tail: String,
}

impl Artifact {
    /// An artifact of one file, by a compiler that has nothing to say.
    pub fn single(name: &str, bytes: Vec<u8>, io: Value) -> Self {
        let files = vec![ArtifactFile { name: name.to_owned(), bytes }];
        Self { files, io, log_tail: String::new() }
    }

    /// The files, to load them.
    pub fn files(&self) -> Files<'_> {
        Files::new(self.files.iter().map(|file| (file.name.as_str(), file.bytes.as_slice())))
    }
}

/// The files of an artifact, borrowed.
#[derive(Clone, Debug)]
pub struct Files<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Files<'a> {
    /// Files by their names.
    pub fn new(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        Self(files.into_iter().collect())
    }

    /// The content of the file of that name, which a backend needs.
    ///
    /// # Errors
    /// [`BackendError::BadArtifact`] when there is none.
    pub fn file(&self, name: &str, backend: &'static str) -> Result<&'a [u8], BackendError> {
        let found = self.0.iter().find(|(found, _)| *found == name);
        found.map(|(_, bytes)| *bytes).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
            let what = format!("expected a file `{name}`, got {names:?}");
            BackendError::BadArtifact { backend, what }
        })
    }
}

/// Names, types and shapes of all that goes into a graph and comes out of it, in binding order:
///
/// ```json
/// { "inputs": [ {"name": "token_ids", "dtype": "i32", "shape": "[tokens]"} ], "weights": [ ... ],
///   "states": [ ... ], "outputs": [ ... ] }
/// ```
pub fn io_of(graph: &Graph) -> Value {
    let table = |ids: &mut dyn Iterator<Item = ValueId>| -> Vec<Value> {
        let row = |id| {
            let value = graph.value(id);
            let shape = shape_text(graph, &value.ty.shape);
            json!({"name": value.name, "dtype": value.ty.dtype.name(), "shape": shape})
        };
        ids.map(row).collect()
    };
    json!({
        "inputs": table(&mut graph.inputs()),
        "weights": table(&mut graph.weights().map(|(id, _)| id)),
        "states": table(&mut graph.states()),
        "outputs": table(&mut graph.outputs().iter().copied()),
    })
}

/// The shape with the names of its symbols, as in `[tokens, 576]`.
fn shape_text(graph: &Graph, shape: &Shape) -> String {
    let dim = |dim: &Dim| match *dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Symbolic(id) => match graph.symbols().get(id.0 as usize) {
            Some(symbol) => symbol.name.clone(),
            None => id.to_string(),
        },
    };
    let dims: Vec<String> = shape.dims().iter().map(dim).collect();
    format!("[{}]", dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, DType, Op};

    #[test]
    fn files_are_found_by_name_or_said_to_be_missing() {
        let artifact = Artifact::single("plan.json", b"{}".to_vec(), Value::Null);
        let files = artifact.files();
        assert_eq!(files.file("plan.json", "cpu").unwrap(), b"{}");
        assert_eq!(
            files.file("model.om", "ascend").unwrap_err().to_string(),
            "the ascend backend cannot use the compiled graph: expected a file `model.om`, got \
             [\"plan.json\"]"
        );
    }

    #[test]
    fn io_is_a_table_for_people() {
        let mut builder = Builder::new("g");
        let tokens = builder.symbol("tokens", 1, 8);
        let x = builder.input("x", DType::F32, Shape::new([tokens.into(), Dim::Fixed(3)]));
        let w = builder.weight("w", DType::BF16, Shape::fixed(&[5, 3]));
        let y = builder.op("y", Op::Linear, &[x, w]).unwrap();
        let row = |name: &str, dtype: &str, shape: &str| json!({"name": name, "dtype": dtype, "shape": shape});
        assert_eq!(
            io_of(&builder.finish(&[y])),
            json!({
                "inputs": [row("x", "f32", "[tokens, 3]")],
                "weights": [row("w", "bf16", "[5, 3]")],
                "states": [],
                "outputs": [row("y", "f32", "[tokens, 5]")],
            })
        );
    }
}
