//! Files of models: what their header says, and damage of every kind.

use ascendcl::ge::memory;
use ascendcl::om::{self, HEADER_BYTES, OmParts};

use super::models::mlp;

fn model(is_dynamic: bool) -> Vec<u8> {
    let prepared = mlp().prepare().unwrap();
    let memory = memory::plan(&prepared.graph);
    om::write(&OmParts {
        name: "a model with a name that is too long for its field",
        graph: &prepared.graph,
        soc: "Ascend910B3",
        cann: "9.0.0",
        memory_size: memory.total,
        zero_copy_memory_size: memory.zero_copy,
        weight_size: memory.weights,
        is_dynamic,
        has_tiling_sink: !is_dynamic,
        cmdline: "atc --model=g.air",
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn the_header_is_that_of_real_models() {
    let bytes = model(false);
    assert_eq!(&bytes[..4], b"IMOD");
    assert_eq!((u32_at(&bytes, 4), u32_at(&bytes, 8)), (256, 0x2000_0000));
    assert_eq!(u32_at(&bytes, 76), 0, "length gives way to model_length");
    let length = u64::from_le_bytes(bytes[184..192].try_into().unwrap());
    assert_eq!(length as usize, bytes.len() - HEADER_BYTES);
    assert_eq!((u32_at(&bytes, 156), bytes[193]), (1, 0), "model_num, is_unknow_model");
    // SO_BINS, MODEL_DEF, TASK_INFO: the data follow the table.
    let types: Vec<u32> = (0..3).map(|at| u32_at(&bytes, 264 + 24 * at)).collect();
    assert_eq!((u32_at(&bytes, 256), types), (3, vec![5, 0, 2]));
    let dynamic = model(true);
    assert_eq!((u32_at(&dynamic, 156), dynamic[193]), (2, 1));
    assert!(om::read(&dynamic).unwrap().is_dynamic);
}

#[test]
fn a_model_cut_anywhere_is_refused() {
    let bytes = model(false);
    for len in 0..bytes.len() {
        let code = om::read(&bytes[..len]).unwrap_err().code;
        assert_eq!(code, om::DATA_SIZE_INVALID, "at {len}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(om::read(&longer).unwrap_err().code, om::DATA_SIZE_INVALID);
}

#[test]
fn a_changed_byte_is_noticed_wherever_it_matters() {
    let bytes = model(true);
    // Left out: the name, fields that nobody reads, and the 32-bit length beside the 64-bit one.
    for at in (0..76).chain([80, 82]).chain(156..160).chain(184..192).chain(256..bytes.len()) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        let error = om::read(&changed).expect_err(&format!("byte {at}"));
        assert!([145_006, 545_001, 545_002, 545_004].contains(&error.code), "{error}");
    }
}
