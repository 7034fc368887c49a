//! Folders, shards, and things that are no files.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::files::{
    expect_refused, folder, open, safetensors, valid_gguf, valid_safetensors, write,
};

const INDEX: &str = "model.safetensors.index.json";

/// A folder with one shard and an index of this text.
fn sharded(folder: &Path, index: &str) {
    write(folder, "one.safetensors", valid_safetensors());
    write(folder, INDEX, index);
}

/// The message of the error of opening a folder.
fn refusal(folder: &Path) -> String {
    open(folder).expect_err("there is no checkpoint").to_string()
}

fn expect_folder_refused(case: &str, folder: &Path, wanted: &[&str]) {
    let message = refusal(folder);
    for part in wanted {
        assert!(message.contains(part), "{case}: no `{part}` in: {message}");
    }
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = folder();
    sharded(
        folder.path(),
        r#"{"metadata":{"total_size":28},"weight_map":{"a":"one.safetensors","c":"two.safetensors"}}"#,
    );
    let header = r#"{"c":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    write(folder.path(), "two.safetensors", safetensors(header, 4));
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(checkpoint.tensor("a").unwrap().shape, [2, 2]);
    assert_eq!(checkpoint.tensor("c").unwrap().shape, [1]);
    assert_eq!(checkpoint.files().len(), 2);
    assert_eq!(checkpoint.path(), folder.path());
}

#[test]
fn a_single_file_goes_before_an_index() {
    let folder = folder();
    sharded(folder.path(), "broken");
    write(folder.path(), "model.safetensors", valid_safetensors());
    assert_eq!(open(folder.path()).unwrap().names().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn bad_indices_are_refused_with_the_reason() {
    let nested = format!("{{\"metadata\":{}", "[".repeat(100_000));
    let cases: [(&str, &str, &[&str]); 16] = [
        (
            "missing shard",
            r#"{"weight_map":{"a":"none.safetensors"}}"#,
            &["shard `none.safetensors`", "missing"],
        ),
        (
            "parent folder",
            r#"{"weight_map":{"a":"../../etc/passwd"}}"#,
            &["`../../etc/passwd` of tensor `a`", "plain name"],
        ),
        (
            "absolute path",
            r#"{"weight_map":{"a":"/etc/passwd"}}"#,
            &["`/etc/passwd` of tensor `a`", "plain name"],
        ),
        ("backslashes", r#"{"weight_map":{"a":"..\\x"}}"#, &["plain name"]),
        ("empty name", r#"{"weight_map":{"a":""}}"#, &["plain name"]),
        ("dots", r#"{"weight_map":{"a":".."}}"#, &["plain name"]),
        ("NUL", r#"{"weight_map":{"a":"x\u0000"}}"#, &["plain name"]),
        ("number as shard", r#"{"weight_map":{"a":5}}"#, &["expected a string"]),
        ("list as map", r#"{"weight_map":["a"]}"#, &["expected a map"]),
        ("no map", r#"{"metadata":{}}"#, &["weight_map"]),
        ("not an object", "[]", &["not an index"]),
        ("not JSON", "{", &["not an index"]),
        ("empty", "", &["the file is empty"]),
        ("nested", &nested, &["not an index"]),
        (
            "lacking tensor",
            r#"{"weight_map":{"z":"one.safetensors"}}"#,
            &["tensor `z`", "shard `one.safetensors`, which lacks it"],
        ),
        ("index as shard", r#"{"weight_map":{"a":"model.safetensors.index.json"}}"#, &[]),
    ];
    for (case, index, wanted) in cases {
        let folder = folder();
        sharded(folder.path(), index);
        expect_folder_refused(case, folder.path(), &[wanted, &[INDEX]].concat());
    }
}

#[test]
fn a_damaged_shard_is_named() {
    let folder = folder();
    sharded(folder.path(), r#"{"weight_map":{"a":"one.safetensors"}}"#);
    write(folder.path(), "one.safetensors", [0; 7]);
    expect_folder_refused("damaged shard", folder.path(), &["one.safetensors", "too short"]);
}

#[test]
fn folders_without_weights_say_what_was_looked_for_and_what_to_do() {
    let cases: [(&str, &[&str]); 5] = [
        ("config.json", &["looked for `model.safetensors` and `model.safetensors.index.json`"]),
        (
            "pytorch_model.bin",
            &["`pytorch_model.bin`", "pickle files are never read", "runs code", "convert it"],
        ),
        ("consolidated.00.pth", &["`consolidated.00.pth`", "pickle files are never read"]),
        ("smol.gguf", &["there is `smol.gguf`: give the path of that file"]),
        ("other.safetensors", &["there is `other.safetensors`: give the path of that file"]),
    ];
    for (name, wanted) in cases {
        let folder = folder();
        write(folder.path(), name, "{}");
        expect_folder_refused(name, folder.path(), wanted);
    }
    let empty = folder();
    expect_folder_refused("empty folder", empty.path(), &["no weights in", "looked for"]);
}

#[test]
fn files_that_are_no_checkpoints_are_refused() {
    let folder = folder();
    let cases: [(&str, &[u8], &[&str]); 4] = [
        ("model.bin", b"\x80\x02}q\x00.", &["pickle files are never read"]),
        ("model", b"PK\x03\x04archive", &["pickle files are never read"]),
        ("notes.txt", b"hello", &["neither a GGUF file", "`*.safetensors`"]),
        ("model.gguf", b"hello", &["expected `GGUF` at its start, got `hell`"]),
    ];
    for (name, bytes, wanted) in cases {
        expect_refused(name, &write(folder.path(), name, bytes), wanted);
    }
    expect_refused("missing", &folder.path().join("none.gguf"), &["No such file"]);
}

#[test]
fn things_that_are_no_files_are_refused_and_never_waited_for() {
    for name in ["model.safetensors", INDEX] {
        let is_a_folder = folder();
        std::fs::create_dir(is_a_folder.path().join(name)).unwrap();
        expect_folder_refused("folder", is_a_folder.path(), &[name, "got a folder"]);

        let dangling = folder();
        symlink("nowhere", dangling.path().join(name)).unwrap();
        expect_folder_refused("dangling link", dangling.path(), &[name, "No such file"]);

        let looping = folder();
        symlink(name, looping.path().join(name)).unwrap();
        expect_folder_refused("looping link", looping.path(), &[name]);

        let pipe = folder();
        make_pipe(&pipe.path().join(name));
        expect_folder_refused("pipe", pipe.path(), &[name, "expected a regular file, got a pipe"]);
    }
    let pipe = folder();
    make_pipe(&pipe.path().join("model.gguf"));
    expect_refused("pipe", &pipe.path().join("model.gguf"), &["got a pipe"]);
    expect_refused("device", Path::new("/dev/zero"), &["expected a regular file"]);
}

fn make_pipe(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(status.success());
}

#[test]
fn links_to_files_are_followed() {
    let folder = folder();
    let target = write(folder.path(), "blob", valid_gguf());
    symlink(&target, folder.path().join("model.gguf")).unwrap();
    assert!(open(&folder.path().join("model.gguf")).is_ok());
}
