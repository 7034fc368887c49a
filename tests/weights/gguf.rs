//! GGUF files that are not what they should be.

use crate::files::{
    array, entry, expect_refused, folder, ggml, gguf, gguf_string, head, kind, open, row,
    valid_gguf, write,
};

const F32: u32 = ggml::F32;

#[test]
fn damaged_files_are_refused_with_the_reason() {
    let valid = valid_gguf();
    let key = |key: &str, kind: u32, value: &[u8]| gguf(&[entry(key, kind, value)], &[], 0);
    let table = |rows: &[Vec<u8>]| gguf(&[], rows, 64);
    let cut_after_key = [head(3, 0, 1), gguf_string("general.name")].concat();
    let nested = array(kind::ARRAY, 1, []).repeat(100_000);
    let many = [head(3, 0, 1 << 17), vec![0; 1 << 21]].concat();
    let huge_string = [(1_u64 << 62).to_le_bytes().as_slice(), &[0; 32]].concat();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty file", vec![], &["the file is empty"]),
        ("wrong magic", b"GGML\x03\0\0\0".to_vec(), &["expected `GGUF` at its start, got `GGML`"]),
        ("half a magic", b"GG".to_vec(), &["got `GG`"]),
        ("magic only", b"GGUF".to_vec(), &["the version at byte 4 needs 4 bytes, but 0 are left"]),
        ("version 99", head(99, 0, 0), &["version 99 is not supported, only 2 and 3"]),
        ("version 1", head(1, 0, 0), &["version 1 is not supported"]),
        ("big-endian", head(3_u32.swap_bytes(), 0, 0), &["big-endian"]),
        ("no counts", head(3, 0, 0)[..12].to_vec(), &["number of tensors at byte 8 needs 8 bytes"]),
        ("2^63 tensors", head(3, 1 << 63, 0), &["number of tensors", "9223372036854775808"]),
        ("2^63 keys", head(3, 0, 1 << 63), &["number of metadata keys", "9223372036854775808"]),
        ("too many keys", many, &["131072 metadata keys, at most 65536"]),
        ("cut in a key", cut_after_key.clone(), &["type of metadata key `general.name`"]),
        (
            "cut in a value",
            [cut_after_key, vec![4, 0, 0, 0, 1]].concat(),
            &["value of metadata key `general.name` at byte"],
        ),
        (
            "string of 2^62",
            key("general.name", kind::STRING, &huge_string),
            &["value of metadata key `general.name`", "4611686018427387904 bytes"],
        ),
        (
            "key of 2^62",
            [head(3, 0, 1), huge_string.clone()].concat(),
            &["metadata key 0", "at most 65535"],
        ),
        (
            "key not UTF-8",
            [head(3, 0, 1), gguf_string(b"\xff\xfe"), vec![0; 5]].concat(),
            &["metadata key 0", "not UTF-8"],
        ),
        ("unknown value type", key("k", 13, &[0; 8]), &["type of metadata key `k`", "is 13"]),
        (
            "array of 2^61 u64",
            key("k", kind::ARRAY, &array(10, 1 << 61, [0; 8])),
            &["length of the value of metadata key `k`"],
        ),
        (
            "array of 2^62 strings",
            key("k", kind::ARRAY, &array(kind::STRING, 1 << 62, [0; 8])),
            &["length of the value of metadata key `k`"],
        ),
        (
            "array of unknown type",
            key("k", kind::ARRAY, &array(99, 1, [0; 8])),
            &["element type of the value of metadata key `k`", "99"],
        ),
        (
            "cut array",
            key("k", kind::ARRAY, &array(kind::STRING, 4, gguf_string("a"))),
            &["metadata key `k`"],
        ),
        (
            "nested arrays",
            key("k", kind::ARRAY, &nested),
            &["metadata key `k`", "more than 4 deep"],
        ),
        (
            "doubled key",
            gguf(&[entry("k", kind::U8, [1]), entry("k", kind::U8, [1])], &[], 0),
            &["key `k` occurs twice"],
        ),
        ("alignment 0", key("general.alignment", kind::U32, &[0; 4]), &["general.alignment` is 0"]),
        (
            "alignment 24",
            key("general.alignment", kind::U32, &[24, 0, 0, 0]),
            &["general.alignment` is 24"],
        ),
        (
            "alignment as text",
            key("general.alignment", kind::STRING, &gguf_string("x")),
            &["general.alignment", "string"],
        ),
        (
            "alignment 2^31",
            gguf(
                &[entry("general.alignment", kind::U32, (1_u32 << 31).to_le_bytes())],
                &[row("a", &[1], F32, 0)],
                8,
            ),
            &["tensor `a` lies outside"],
        ),
        (
            "split file",
            key("split.count", kind::U16, &[3, 0]),
            &["one of 3 parts", "not supported"],
        ),
        ("cut table", valid[..valid.len() - 192 - 40].to_vec(), &["tensor"]),
        (
            "cut data",
            valid[..valid.len() - 140].to_vec(),
            &["tensor `blk.0.attn_q.weight` lies outside"],
        ),
        (
            "doubled tensor",
            table(&[row("a", &[1], F32, 0), row("a", &[1], F32, 32)]),
            &["tensor `a` occurs twice"],
        ),
        ("name of 2^62", [head(3, 1, 0), huge_string].concat(), &["name of tensor 0"]),
        (
            "name not UTF-8",
            [head(3, 1, 0), gguf_string(b"\xff"), vec![0; 64]].concat(),
            &["name of tensor 0", "not UTF-8"],
        ),
        (
            "2,000 axes",
            table(&[row("a", &[1; 2_000], F32, 0)]),
            &["tensor `a` has 2000 axes, at most 8"],
        ),
        (
            "2^32 - 1 axes",
            [head(3, 1, 0), gguf_string("a"), vec![0xff; 64]].concat(),
            &["4294967295 axes"],
        ),
        (
            "axis of size 0",
            table(&[row("a", &[4, 0], F32, 0)]),
            &["tensor `a` has an axis of size 0: shape [0, 4]"],
        ),
        (
            "shape overflow",
            table(&[row("a", &[1 << 33, 1 << 33], F32, 0)]),
            &["tensor `a` has more elements"],
        ),
        ("byte overflow", table(&[row("a", &[1 << 62], F32, 0)]), &["tensor `a` has more bytes"]),
        (
            "not whole blocks",
            table(&[row("a", &[33], ggml::Q4_1, 0)]),
            &["rows of 33 elements, but q4_1 needs whole blocks of 32"],
        ),
        (
            "off the alignment",
            table(&[row("a", &[1], F32, 4)]),
            &["tensor `a` begins at offset 4", "multiple of 32"],
        ),
        (
            "past the end",
            table(&[row("a", &[1], F32, 64)]),
            &["tensor `a` lies outside of the file: 4 bytes at offset 64"],
        ),
        (
            "offset overflow",
            table(&[row("a", &[1], F32, u64::MAX - 31)]),
            &["tensor `a` lies outside"],
        ),
        (
            "foreign past the end",
            table(&[row("a", &[256], ggml::IQ2_XXS, 96)]),
            &["tensor `a` lies outside"],
        ),
        (
            "overlap",
            table(&[row("a", &[9], F32, 0), row("b", &[1], F32, 32)]),
            &["tensors `a` and `b` overlap"],
        ),
        (
            "two names for one tensor",
            table(&[row("output.weight", &[1], F32, 0), row("lm_head.weight", &[1], F32, 32)]),
            &["`lm_head.weight`", "two names"],
        ),
    ];
    let folder = folder();
    for (case, bytes, wanted) in cases {
        let path = write(folder.path(), "model.gguf", bytes);
        expect_refused(case, &path, wanted);
    }
}

#[test]
fn the_valid_file_that_the_damaged_ones_stem_from_opens_whatever_its_name() {
    let folder = folder();
    let path = write(folder.path(), "model.bin", valid_gguf());
    let checkpoint = open(&path).unwrap();
    let tensor = checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert_eq!(tensor.shape, [2, 32]);
    let metadata = checkpoint.gguf().unwrap();
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap(), ["a", "bc"]);
}

#[test]
fn types_that_are_not_ours_are_errors_only_when_asked_for() {
    let folder = folder();
    let rows =
        [row("a", &[256], ggml::IQ2_XXS, 0), row("b", &[1], 77, 32), row("c", &[1], F32, 64)];
    let path = write(folder.path(), "model.gguf", gguf(&[], &rows, 68));
    let checkpoint = open(&path).unwrap();
    assert!(checkpoint.tensor("c").is_ok());
    for (name, kind) in [("a", "IQ2_XXS"), ("b", "ggml type 77")] {
        let message = checkpoint.tensor(name).unwrap_err().to_string();
        assert!(
            message.contains(&format!("tensor `{name}` is stored as {kind}, supported are f32")),
            "{message}"
        );
    }
}

#[test]
fn text_that_is_not_utf8_is_an_error_only_when_asked_for() {
    let folder = folder();
    let bad = gguf_string(b"\xff");
    let entries = [
        entry("bad", kind::STRING, &bad),
        entry(
            "bads",
            kind::ARRAY,
            array(kind::STRING, 2, [gguf_string("fine"), bad.clone()].concat()),
        ),
        entry("odd", kind::BOOL, [7]),
    ];
    let path = write(folder.path(), "model.gguf", gguf(&entries, &[], 0));
    let checkpoint = open(&path).unwrap();
    let metadata = checkpoint.gguf().unwrap();
    for (message, wanted) in [
        (metadata.string("bad").unwrap_err().to_string(), "metadata key `bad`"),
        (metadata.strings("bads").unwrap_err().to_string(), "element 1 of metadata key `bads`"),
        (metadata.bool("odd").unwrap_err().to_string(), "should be a bool, but is bool 7"),
    ] {
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn version_2_and_another_alignment_are_read() {
    let folder = folder();
    let mut file = head(2, 2, 1);
    file.extend(entry("general.alignment", kind::U32, 64_u32.to_le_bytes()));
    file.extend(row("a", &[1], F32, 0));
    file.extend(row("b", &[1], F32, 64));
    file.resize(file.len().next_multiple_of(64) + 64, 0);
    file.extend(1.5_f32.to_le_bytes());
    let path = write(folder.path(), "model.gguf", file);
    assert_eq!(open(&path).unwrap().tensor("b").unwrap().to_f32_vec(), [1.5]);
}
