//! Builders of files, and one way to open them.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cairn::weights::{Checkpoint, WeightsError};
use tempfile::TempDir;

/// A folder that goes away with the test.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Writes a file and gives its path.
pub(crate) fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("the folder takes files");
    path
}

/// Opens a checkpoint in another thread: one that hangs fails the test instead of stopping it.
pub(crate) fn open(path: &Path) -> Result<Checkpoint, WeightsError> {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    thread::spawn(move || sender.send(Checkpoint::open(&path)));
    let patience = Duration::from_mins(2);
    receiver.recv_timeout(patience).expect("open neither panics nor hangs")
}

/// The message of the error of opening `path`, which must name the file and hold every `wanted`.
pub(crate) fn expect_refused(case: &str, path: &Path, wanted: &[&str]) {
    let message = match open(path) {
        Ok(_) => panic!("{case}: was opened"),
        Err(error) => error.to_string(),
    };
    let file_name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
    for part in wanted.iter().copied().chain([file_name]) {
        assert!(message.contains(part), "{case}: no `{part}` in: {message}");
    }
    assert!(message.len() < 1000, "{case}: a message of {} bytes", message.len());
}

/// A safetensors file: the length of the header, the header, so many bytes of data.
pub(crate) fn safetensors(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend((0..data).map(|idx| idx as u8));
    file
}

/// A valid safetensors file of two f32 tensors, `a` of 4 and `b` of 2 elements.
pub(crate) fn valid_safetensors() -> Vec<u8> {
    let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}"#;
    safetensors(header, 24)
}

/// Codes of the types of metadata values.
pub(crate) mod kind {
    pub(crate) const U8: u32 = 0;
    pub(crate) const U16: u32 = 2;
    pub(crate) const U32: u32 = 4;
    pub(crate) const I32: u32 = 5;
    pub(crate) const BOOL: u32 = 7;
    pub(crate) const STRING: u32 = 8;
    pub(crate) const ARRAY: u32 = 9;
}

/// Codes of element types.
pub(crate) mod ggml {
    pub(crate) const F32: u32 = 0;
    pub(crate) const Q4_1: u32 = 3;
    pub(crate) const IQ2_XXS: u32 = 16;
}

/// A string as GGUF has it.
pub(crate) fn gguf_string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [(text.len() as u64).to_le_bytes().as_slice(), text].concat()
}

/// A metadata entry.
pub(crate) fn entry(key: &str, kind: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [gguf_string(key).as_slice(), &kind.to_le_bytes(), value.as_ref()].concat()
}

/// The value of an array: type, length, elements.
pub(crate) fn array(kind: u32, len: u64, elements: impl AsRef<[u8]>) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &len.to_le_bytes(), elements.as_ref()].concat()
}

/// A row of the table of tensors; `dims` innermost first, as in the file.
pub(crate) fn row(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut row = gguf_string(name);
    row.extend((dims.len() as u32).to_le_bytes());
    row.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    row.extend(kind.to_le_bytes());
    row.extend(offset.to_le_bytes());
    row
}

/// The head of a GGUF file.
pub(crate) fn head(version: u32, num_tensors: u64, num_keys: u64) -> Vec<u8> {
    let mut head = b"GGUF".to_vec();
    head.extend(version.to_le_bytes());
    head.extend(num_tensors.to_le_bytes());
    head.extend(num_keys.to_le_bytes());
    head
}

/// A GGUF file of version 3 with the default alignment and so many bytes of data.
pub(crate) fn gguf(entries: &[Vec<u8>], rows: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut file = head(3, rows.len() as u64, entries.len() as u64);
    file.extend(entries.concat());
    file.extend(rows.concat());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend((0..data).map(|idx| idx as u8));
    file
}

/// A valid GGUF file: metadata of several types, an f32, a quantised and a foreign tensor.
pub(crate) fn valid_gguf() -> Vec<u8> {
    let words = [gguf_string("a"), gguf_string("bc")].concat();
    let entries = [
        entry("general.architecture", kind::STRING, gguf_string("llama")),
        entry("llama.block_count", kind::U32, 1_u32.to_le_bytes()),
        entry("tokenizer.ggml.tokens", kind::ARRAY, array(kind::STRING, 2, words)),
        entry(
            "tokenizer.ggml.token_type",
            kind::ARRAY,
            array(kind::I32, 2, [1, 0, 0, 0, 3, 0, 0, 0]),
        ),
        entry("tokenizer.ggml.add_bos_token", kind::BOOL, [1]),
    ];
    let rows = [
        row("output_norm.weight", &[4], ggml::F32, 0),
        row("blk.0.attn_q.weight", &[32, 2], ggml::Q4_1, 32),
        row("blk.0.attn_k.weight", &[256], ggml::IQ2_XXS, 96),
    ];
    gguf(&entries, &rows, 192)
}
