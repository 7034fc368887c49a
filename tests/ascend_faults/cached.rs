//! Damage in the graph cache, and graphs that lie where others belong.

use std::fs;
use std::path::Path;

use crate::place::{NUM_GRAPHS, Place, Run};

/// The files of an artifact.
const ARTIFACT: [&str; 2] = ["model.om", "io_table.json"];

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
        for name in ARTIFACT {
            let file = entry.join(name);
            let len = fs::metadata(&file).unwrap().len() as usize;
            // The header of the offline model and what follows it; of the table any part.
            for at in [0, 4, len / 2, len - 1] {
                place.empty_quarantine();
                flip(&file, at);
                let run = place.generate(&[]);
                assert!(run.ended.warns(), "byte {at} of {name}: {run:?}");
                assert_repaired(&place, &run, &right, 1);
                assert_eq!(place.num_quarantined(), 1);
            }
        }
    }
}

#[test]
fn an_artifact_that_is_cut_short_is_noticed_and_repaired() {
    let place = Place::warm();
    let right = place.right_answer();
    for (share, entry) in place.entries().into_iter().enumerate() {
        let file = entry.join(ARTIFACT[share % ARTIFACT.len()]);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() * share / NUM_GRAPHS]).unwrap();
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
    for name in ARTIFACT {
        fs::copy(first.join(name), second.join(name)).unwrap();
    }
    assert_repaired(&place, &place.generate(&[]), &right, 1);
}

#[test]
fn a_warm_up_repairs_damage_without_a_device() {
    let place = Place::warm();
    let right = place.right_answer();
    for entry in place.entries() {
        flip(&entry.join(ARTIFACT[0]), 100);
    }
    let run = place.run("warmup", &["--soc", "Ascend910B3"], &[]);
    assert_eq!((run.ended.code, run.ended.graphs()), (0, [NUM_GRAPHS, 0]), "{run:?}");
    assert!(run.log.is_empty(), "it called the runtime: {}", run.log);
    let run = place.generate(&[]);
    assert_repaired(&place, &run, &right, 0);
}

#[test]
fn where_every_graph_is_required_a_missing_one_ends_it_before_the_device_gets_work() {
    let place = Place::warm();
    let uses_device = |run: &Run| {
        ["aclrtMalloc", "aclmdlLoad"].map(|call| run.log.contains(call)).contains(&true)
    };
    let require = ["--cache-mode", "require"];
    let run = place.generate_with(&require, &[]);
    assert_eq!((run.ended.code, run.ended.graphs()), (0, [0, NUM_GRAPHS]), "{run:?}");
    assert!(uses_device(&run));

    fs::remove_dir_all(place.entries().first().unwrap()).unwrap();
    let num_compiles = place.toolkit.num_compiles();
    let run = place.generate_with(&require, &[]);
    assert_eq!((run.ended.code, run.ended.stdout.as_str()), (1, ""), "{run:?}");
    let words = format!("1 of {NUM_GRAPHS} graphs are not in the cache");
    assert!(run.ended.stderr.contains(&words), "{run:?}");
    assert!(run.ended.stderr.contains(", the nearest entry has "), "{run:?}");
    assert!(!uses_device(&run), "{}", run.log);
    run.assert_clean();
    assert_eq!(place.toolkit.num_compiles(), num_compiles);
}
