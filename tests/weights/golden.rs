//! What the reference libraries wrote, and what they make of it.

use std::path::{Path, PathBuf};

use cairn::ir::DType;
use cairn::weights::{Checkpoint, Format, Optional, Tensor, WeightsError, dequantise};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/weights").join(name)
}

fn block_file(dtype: DType, ending: &str) -> Vec<u8> {
    std::fs::read(golden(&format!("blocks/{}.{ending}", dtype.name()))).expect("the file is there")
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&golden(name)).expect("the file is valid")
}

#[test]
fn every_float_and_block_type_dequantises_to_the_same_bits_as_the_reference() {
    for dtype in DType::ALL.into_iter().filter(|&dtype| dtype != DType::I32) {
        let blocks = block_file(dtype, "blocks");
        let expected = block_file(dtype, "f32");
        let mut values = vec![0.0_f32; expected.len() / 4];
        dequantise(dtype, &blocks, &mut values).unwrap();
        assert!(!values.is_empty());
        for (idx, (value, expected)) in values.iter().zip(expected.as_chunks().0).enumerate() {
            let expected = f32::from_le_bytes(*expected);
            assert_eq!(
                value.to_bits(),
                expected.to_bits(),
                "{dtype} element {idx}: {value} is not {expected}"
            );
        }
    }
}

#[test]
fn a_safetensors_file_of_the_reference_library_reads_back() {
    let checkpoint = open("tiny.safetensors");
    assert_eq!(checkpoint.format(), Format::Safetensors);
    assert_eq!(checkpoint.format().to_string(), "safetensors");
    let names: Vec<_> = checkpoint.names().collect();
    assert_eq!(names, ["lm_head.weight", "model.norm.weight", "position_ids", "scalar"]);

    let norm = checkpoint.tensor("model.norm.weight").unwrap();
    assert_eq!((norm.dtype, norm.shape.as_slice()), (DType::F32, [3].as_slice()));
    assert_eq!(norm.bytes.as_f32(), Some([0.5, -1.0, 2.0].as_slice()));
    let head = checkpoint.tensor("lm_head.weight").unwrap();
    assert_eq!((head.dtype, head.shape.as_slice()), (DType::F16, [2, 3].as_slice()));
    assert_eq!(head.to_f32_vec(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let scalar = checkpoint.tensor("scalar").unwrap();
    assert_eq!((scalar.shape.as_slice(), scalar.to_f32_vec()), ([].as_slice(), vec![7.0]));

    assert!(checkpoint.contains("position_ids"));
    let error = checkpoint.tensor("position_ids").unwrap_err().to_string();
    assert!(error.contains("stored as I64") && error.contains("bf16"), "{error}");
    assert!(checkpoint.gguf().is_none());
}

#[test]
fn a_gguf_file_of_the_reference_library_reads_back_under_the_names_of_transformers() {
    let checkpoint = open("tiny.gguf");
    assert_eq!(checkpoint.format(), Format::Gguf);
    let shape =
        |name: &str| checkpoint.tensor(name).map(|Tensor { dtype, shape, .. }| (dtype, shape));
    assert_eq!(shape("model.embed_tokens.weight").unwrap(), (DType::F32, vec![4, 32]));
    assert_eq!(shape("model.layers.0.self_attn.q_proj.weight").unwrap(), (DType::F16, vec![2, 32]));
    assert_eq!(shape("model.layers.0.mlp.down_proj.weight").unwrap(), (DType::Q4_1, vec![3, 64]));
    assert_eq!(shape("rope_freqs.weight").unwrap(), (DType::F32, vec![8]));
    let norm = checkpoint.tensor("model.norm.weight").unwrap();
    assert!(norm.bytes.is_mapped());
    assert_eq!(norm.bytes.as_f32(), Some([1.0; 32].as_slice()));
    let error = shape("model.layers.0.mlp.up_proj.weight").unwrap_err();
    assert!(matches!(error, WeightsError::Unsupported { .. }));
    assert!(error.to_string().contains("IQ2_XXS"), "{error}");
    assert_eq!(checkpoint.names().len(), 6);
    assert_eq!(checkpoint.total_bytes(), std::fs::metadata(golden("tiny.gguf")).unwrap().len());
}

#[test]
fn metadata_of_every_type_is_read() {
    let checkpoint = open("tiny.gguf");
    let metadata = checkpoint.gguf().unwrap();
    assert_eq!(metadata.string("general.architecture").unwrap(), "llama");
    for (key, expected) in [
        ("test.u8", 255),
        ("test.u16", 65_535),
        ("test.u32", 4_294_967_295),
        ("test.u64", 18_446_744_073_709_551_615),
    ] {
        assert_eq!(metadata.u64(key).unwrap(), expected, "{key}");
    }
    for key in ["test.i8", "test.i16", "test.i32", "test.i64"] {
        let error = metadata.u64(key).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(" -"), "{error}");
    }
    for key in ["test.f32", "test.f64"] {
        assert_eq!(metadata.f32(key).unwrap().to_bits(), 0.1_f32.to_bits());
    }
    assert!(metadata.bool("test.true").unwrap());
    assert!(!metadata.bool("test.false").unwrap());
    assert_eq!(metadata.string("test.string").unwrap(), "h\u{e9}llo \u{4e16}\u{754c} \u{1f600}");
    assert_eq!(metadata.strings("test.strings").unwrap(), ["", "a", "\u{4e16}"]);
    assert_eq!(metadata.f32s("test.f32s").unwrap(), [0.5, -1.5]);
    assert_eq!(metadata.i32s("test.i32s").unwrap(), [1, -2, 3]);
    assert!(metadata.contains("test.u8") && metadata.keys().any(|key| key == "test.i32s"));
}

#[test]
fn metadata_errors_name_the_key_what_was_expected_and_what_was_found() {
    let checkpoint = open("tiny.gguf");
    let metadata = checkpoint.gguf().unwrap();
    let messages = [
        (
            metadata.u64("test.f32").unwrap_err(),
            "`test.f32` should be an integer that is not negative, but is f32 0.1",
        ),
        (
            metadata.f32("test.string").unwrap_err(),
            "`test.string` should be a floating-point number, but is string",
        ),
        (metadata.bool("test.u8").unwrap_err(), "`test.u8` should be a bool, but is u8 255"),
        (
            metadata.string("test.true").unwrap_err(),
            "`test.true` should be a string, but is bool 1",
        ),
        (
            metadata.strings("test.i32s").unwrap_err(),
            "should be an array of strings, but is array of 3 i32",
        ),
        (metadata.i32s("test.strings").unwrap_err(), "but is array of 3 string"),
        (metadata.f32s("test.i32s").unwrap_err(), "should be an array of floating-point numbers"),
        (metadata.i32s("test.u8").unwrap_err(), "but is u8 255"),
        (
            metadata.u64("llama.block_count").unwrap_err(),
            "metadata key `llama.block_count` is missing",
        ),
    ];
    for (error, expected) in messages {
        let message = error.to_string();
        assert!(message.contains(expected) && message.contains("tiny.gguf"), "{message}");
    }
    assert_eq!(metadata.u64("llama.block_count").optional().unwrap(), None);
    assert!(metadata.u64("test.f32").optional().is_err());
}

#[test]
fn a_missing_tensor_is_reported_with_the_nearest_names() {
    let error = open("tiny.gguf").tensor("model.layers.0.self_attn.q_porj.weight").unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("tensor `model.layers.0.self_attn.q_porj.weight` is not in"),
        "{message}"
    );
    assert!(
        message.contains(
            "which has 6 tensors; most like it: `model.layers.0.self_attn.q_proj.weight`"
        ),
        "{message}"
    );
    assert!(message.contains("tiny.gguf"), "{message}");
}
