//! Damage in the graph cache, and graphs that lie where others belong.

use std::fs;
use std::path::Path;

use crate::place::{NUM_GRAPHS, Place, Run};

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// The run gave the right answer, having compiled so many graphs again.
fn assert_repaired(place: &Place, run: &Run, right: &str, num_compiled: usize) {
    assert_eq!((run.ended.code, run.ended.stdout.as_str()), (0, right), "{run:?}");
    assert_eq!(run.ended.graphs(), [num_compiled, NUM_GRAPHS - num_compiled], "{run:?}");
    run.assert_clean();
    let next = place.generate(&[]);
    assert_eq!(next.ended.graphs(), [0, NUM_GRAPHS], "{next:?}");
}

#[test]
fn a_flipped_bit_anywhere_in_an_artifact_is_noticed_and_repaired() {
    let place = Place::warm();
    let right = place.right_answer();
    for entry in place.entries() {
        let artifact = entry.join("artifact.bin");
        let bytes = fs::read(&artifact).unwrap();
        assert_eq!(&bytes[..8], b"CAIRNOM1");
        let table = u64::from_le_bytes(bytes[8..16].try_into().unwrap()) as usize;
        let (om, body) = (16 + table, 16 + table + 256);
        // Magic, length, table, header of the offline model, and what follows it.
        for at in [0, 9, 16 + table / 2, om + 4, body.midpoint(bytes.len()), bytes.len() - 1] {
            place.empty_quarantine();
            flip(&artifact, at);
            let run = place.generate(&[]);
            assert!(run.ended.warns(), "byte {at}: {run:?}");
            assert_repaired(&place, &run, &right, 1);
            assert_eq!(place.num_quarantined(), 1);
        }
    }
}

#[test]
fn an_artifact_that_is_cut_short_is_noticed_and_repaired() {
    let place = Place::warm();
    let right = place.right_answer();
    for (share, entry) in place.entries().into_iter().enumerate() {
        let artifact = entry.join("artifact.bin");
        let bytes = fs::read(&artifact).unwrap();
        fs::write(&artifact, &bytes[..bytes.len() * share / NUM_GRAPHS]).unwrap();
    }
    assert_repaired(&place, &place.generate(&[]), &right, NUM_GRAPHS);
    assert_eq!(place.num_quarantined(), NUM_GRAPHS);
}

#[test]
fn graphs_that_lie_where_others_belong_are_never_run() {
    let place = Place::warm();
    let right = place.right_answer();
    // Whole entries, with their own digests.
    let [first, second, third] = place.entries().try_into().unwrap();
    let aside = place.deployment.path("aside");
    for (from, to) in [(&first, &aside), (&second, &first), (&third, &second), (&aside, &third)] {
        fs::rename(from, to).unwrap();
    }
    assert_repaired(&place, &place.generate(&[]), &right, NUM_GRAPHS);
    // Artifacts alone.
    let [first, second, _] = place.entries().try_into().unwrap();
    fs::copy(first.join("artifact.bin"), second.join("artifact.bin")).unwrap();
    assert_repaired(&place, &place.generate(&[]), &right, 1);
}

#[test]
fn a_warm_up_repairs_damage_without_a_device() {
    let place = Place::warm();
    let right = place.right_answer();
    for entry in place.entries() {
        flip(&entry.join("artifact.bin"), 100);
    }
    let run = place.run("warmup", &["--soc", "Ascend910B3"], &[]);
    assert_eq!((run.ended.code, run.ended.graphs()), (0, [NUM_GRAPHS, 0]), "{run:?}");
    assert!(run.log.is_empty(), "it called the runtime: {}", run.log);
    let run = place.generate(&[]);
    assert_repaired(&place, &run, &right, 0);
}
