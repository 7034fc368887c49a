//! Safetensors files that are not what they should be.

use std::fmt::Write;

use cairn::ir::DType;
use cairn::weights::Checkpoint;

use crate::files::{expect_refused, folder, open, safetensors, valid_safetensors, write};

/// A header with one tensor, `a`.
fn one(dtype: &str, shape: &str, begin: &str, end: &str) -> String {
    format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#)
}

fn with_length(length: u64, rest: &[u8]) -> Vec<u8> {
    [length.to_le_bytes().as_slice(), rest].concat()
}

#[test]
fn damaged_files_are_refused_with_the_reason() {
    let valid = valid_safetensors();
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
        )
    };
    let nested = |lead: &str| format!("{lead}{}", "[".repeat(100_000));
    let dims = format!("[{}1]", "1,".repeat(2_000));
    let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty file", vec![], &["the file is empty"]),
        ("seven bytes", vec![1; 7], &["too short", "7 bytes"]),
        (
            "header length 2^63",
            with_length(1 << 63, b"{}"),
            &["9223372036854775808 bytes, at most 100000000"],
        ),
        ("header length of ones", vec![0xff; 16], &["18446744073709551615"]),
        ("header over 100 MB", with_length(100_000_001, b"{}"), &["at most 100000000"]),
        ("header length 0", with_length(0, b"{}"), &["header of 0 bytes"]),
        ("header longer than the file", with_length(50, b"{}"), &["cut off", "50 bytes, but 2"]),
        ("not JSON", safetensors("{hello}", 0), &["header", "line 1 column"]),
        ("JSON array", safetensors("[1, 2]", 0), &["does not begin with `{`"]),
        ("leading space", safetensors(" {}", 0), &["does not begin with `{`"]),
        ("invalid UTF-8", safetensors(b"{\"\xff\xfe\":1}", 0), &["header", "unicode"]),
        ("nested header", safetensors(nested(""), 0), &["does not begin"]),
        ("nested tensor", safetensors(nested("{\"a\":"), 0), &["tensor `a`"]),
        ("nested shape", safetensors(nested("{\"a\":{\"shape\":"), 0), &["tensor `a`"]),
        ("nested field", safetensors(nested("{\"a\":{\"x\":"), 0), &["tensor `a`"]),
        (
            "nested metadata",
            safetensors(nested("{\"__metadata__\":{\"a\":"), 0),
            &["expected a string"],
        ),
        (
            "doubled name",
            safetensors(format!("{{\"a\":{tensor},\"a\":{tensor}}}"), 4),
            &["tensor `a` occurs twice"],
        ),
        (
            "doubled field",
            safetensors(r#"{"a":{"dtype":"F32","dtype":"F16"}}"#, 4),
            &["duplicate field `dtype`"],
        ),
        (
            "missing field",
            safetensors(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 4),
            &["tensor `a`", "data_offsets"],
        ),
        (
            "begin after end",
            safetensors(one("F32", "[1]", "8", "4"), 8),
            &["tensor `a`", "offset 8, after its end 4"],
        ),
        (
            "past the end",
            safetensors(one("F32", "[2]", "0", "8"), 4),
            &["tensor `a`", "offset 8, past the end", "4 bytes"],
        ),
        (
            "far past the end",
            safetensors(one("F32", "[1]", "0", "18446744073709551615"), 4),
            &["past the end"],
        ),
        ("overlap", safetensors(two("[0,8]", "[4,12]"), 12), &["tensors `a` and `b` overlap"]),
        ("same place", safetensors(two("[0,8]", "[0,8]"), 8), &["overlap"]),
        (
            "hole",
            safetensors(two("[0,8]", "[12,20]"), 20),
            &["a hole of 4 bytes before tensor `b`"],
        ),
        (
            "hole at the start",
            safetensors(one("F32", "[1]", "4", "8"), 8),
            &["a hole of 4 bytes before tensor `a`"],
        ),
        ("negative offset", safetensors(one("F32", "[1]", "-4", "0"), 4), &["tensor `a`", "-4"]),
        ("float offset", safetensors(one("F32", "[1]", "0", "4.0"), 4), &["tensor `a`", "4.0"]),
        ("three offsets", safetensors(one("F32", "[1]", "0,4", "4"), 4), &["tensor `a`"]),
        ("negative size", safetensors(one("F32", "[-1]", "0", "4"), 4), &["tensor `a`", "-1"]),
        (
            "shape overflow",
            safetensors(one("F32", "[4294967296,4294967296,4]", "0", "4"), 4),
            &["tensor `a`", "more elements"],
        ),
        (
            "byte overflow",
            safetensors(one("F32", "[9223372036854775807]", "0", "4"), 4),
            &["tensor `a`", "more bytes"],
        ),
        (
            "foreign overflow",
            safetensors(one("I64", "[9223372036854775807]", "0", "4"), 4),
            &["tensor `a`"],
        ),
        (
            "too few bytes",
            safetensors(one("F32", "[2]", "0", "4"), 4),
            &["tensor `a` has 4 bytes, but [2] of F32 needs 8"],
        ),
        (
            "too many bytes",
            safetensors(one("F16", "[2]", "0", "8"), 8),
            &["has 8 bytes, but [2] of F16 needs 4"],
        ),
        (
            "unknown type",
            safetensors(one("F7", "[4]", "0", "4"), 4),
            &["unknown type `F7`, supported are F32, F16, BF16"],
        ),
        (
            "number as type",
            safetensors(r#"{"a":{"dtype":1,"shape":[],"data_offsets":[0,4]}}"#, 4),
            &["tensor `a`"],
        ),
        (
            "axis of size 0",
            safetensors(one("F32", "[2,0]", "0", "0"), 0),
            &["tensor `a` has an axis of size 0"],
        ),
        ("2,001 axes", safetensors(one("F32", &dims, "0", "4"), 4), &["tensor `a`", "at most 8"]),
        ("cut header", valid[..40].to_vec(), &["cut off"]),
        ("cut data", valid[..valid.len() - 1].to_vec(), &["tensor `b`", "past the end"]),
        ("trailing bytes", [valid.as_slice(), &[0]].concat(), &["1 bytes after the last tensor"]),
        ("data without tensors", safetensors("{}", 1), &["1 bytes after the last tensor"]),
    ];
    let folder = folder();
    for (case, bytes, wanted) in cases {
        let path = write(folder.path(), "model.safetensors", bytes);
        expect_refused(case, &path, wanted);
    }
}

#[test]
fn a_header_that_is_really_over_100_mb_is_refused_before_it_is_read() {
    let folder = folder();
    let path = write(folder.path(), "model.safetensors", with_length(100_000_001, b"{}"));
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(100_000_100).unwrap();
    expect_refused("sparse", &path, &["at most 100000000"]);
}

#[test]
fn names_are_only_names() {
    let folder = folder();
    let header = one("F32", "[1]", "0", "4").replace("\"a\"", r#""../../etc/passwd""#);
    let path = write(folder.path(), "model.safetensors", safetensors(header, 4));
    assert!(open(&path).unwrap().tensor("../../etc/passwd").is_ok());
}

#[test]
fn a_tensor_with_another_shape_is_told_apart_though_its_bytes_are_as_many() {
    let folder = folder();
    let header = one("F32", "[2,3]", "0", "24");
    let path = write(folder.path(), "model.safetensors", safetensors(header, 24));
    let tensor = open(&path).unwrap().tensor("a").unwrap();
    let message = tensor.with_shape(&[3, 2]).unwrap_err().to_string();
    assert_eq!(message, "tensor `a` has shape [2, 3], expected [3, 2]");
}

#[test]
fn weights_that_are_not_finite_are_found() {
    let folder = folder();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut file = safetensors(one("F32", "[2,3]", "0", "24"), 0);
        file.extend([1.0, 2.0, 3.0, 4.0, value, value].map(f32::to_le_bytes).concat());
        let path = write(folder.path(), "model.safetensors", file);
        let tensor = open(&path).unwrap().tensor("a").unwrap();
        assert_eq!(tensor.first_non_finite(), Some((1, 1)));
        assert_eq!(tensor.convert(DType::BF16).first_non_finite(), Some((1, 1)));
    }
}

#[test]
fn a_tensor_that_the_file_does_not_align_has_typed_views_all_the_same() {
    let folder = folder();
    for padding in 0..4 {
        let header = one("F32", "[2]", "0", "8") + &" ".repeat(padding);
        let path = write(folder.path(), "model.safetensors", safetensors(header, 8));
        let tensor = Checkpoint::open(&path).unwrap().tensor("a").unwrap();
        assert_eq!(tensor.bytes.as_f32().unwrap(), tensor.to_f32_vec());
    }
}

#[test]
fn a_million_tensors_are_opened() {
    let mut header = String::from("{");
    for idx in 0..1_000_000 {
        let lead = if idx == 0 { "" } else { "," };
        write!(
            header,
            r#"{lead}"{idx}":{{"dtype":"U8","shape":[1],"data_offsets":[{idx},{}]}}"#,
            idx + 1
        )
        .unwrap();
    }
    header.push('}');
    let folder = folder();
    let path = write(folder.path(), "model.safetensors", safetensors(header, 1_000_000));
    let checkpoint = open(&path).unwrap();
    assert_eq!(checkpoint.names().len(), 1_000_000);
    assert!(checkpoint.tensor("1000000").is_err());
}
