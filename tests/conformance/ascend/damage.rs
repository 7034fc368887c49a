//! Damaged artifacts are refused, or they load. They are not run: what is in an offline model is
//! the device's business, and a device does with a wrong one what it wants. The cache's digest is
//! what keeps such bytes away.

use cairn::backend::{BackendError, Files};
use cairn::ir::passes;
use serde_json::{Value, json};

use super::backend;
use crate::case::{Case, bucket};
use crate::cases::attention::Attention;
use crate::cases::rope;
use crate::damage::all_pointers;
use crate::data::Numbers;

/// The file with the offline model.
const MODEL: &str = "model.om";
/// The file with the table.
const TABLE: &str = "io_table.json";

/// An artifact in its parts.
struct Target {
    table: Value,
    om: Vec<u8>,
}

impl Target {
    fn new(case: &Case) -> Self {
        let graph = passes::optimise(&bucket(&case.graph, &case.steps[0].symbols)).unwrap();
        let artifact = backend().compile(&graph).unwrap();
        let file = |name| artifact.files().file(name, "ascend").unwrap();
        assert_eq!(artifact.files.len(), 2);
        Self { table: serde_json::from_slice(file(TABLE)).unwrap(), om: file(MODEL).to_vec() }
    }

    /// The bytes of the table.
    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.table).unwrap()
    }

    /// Whether a changed table is accepted.
    fn loads(&self, table: &Value) -> bool {
        loads(&self.om, &serde_json::to_vec(table).unwrap())
    }
}

fn is_accepted<T>(result: Result<T, BackendError>) -> bool {
    match result {
        Ok(_) => true,
        Err(BackendError::BadArtifact { what, .. }) => {
            assert!(!what.is_empty());
            false
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn loads(om: &[u8], table: &[u8]) -> bool {
    is_accepted(backend().load(&Files::new([(MODEL, om), (TABLE, table)])))
}

/// As far as it shows without a device.
fn is_whole(om: &[u8], table: &[u8]) -> bool {
    is_accepted(backend().check(&Files::new([(MODEL, om), (TABLE, table)])))
}

fn targets() -> Vec<Target> {
    let rope = rope::all().swap_remove(0);
    let targets: Vec<Target> =
        [Attention::packed((4, 2)).case(), rope].iter().map(Target::new).collect();
    for target in &targets {
        assert!(target.loads(&target.table));
    }
    targets
}

#[test]
fn every_number_of_a_table_may_be_any_other() {
    for target in targets() {
        for pointer in all_pointers(&target.table) {
            let value = target.table.pointer(&pointer).unwrap();
            let Some(number) = value.as_u64() else { continue };
            let near = [number + 1, number.saturating_sub(1)];
            let others = near.into_iter().chain([0, 1 << 31, 1 << 62, u64::MAX]).map(Value::from);
            for other in others.chain([json!(-1), json!(0.5), json!(null), json!("1")]) {
                if other == *value {
                    continue;
                }
                let mut damaged = target.table.clone();
                *damaged.pointer_mut(&pointer).unwrap() = other;
                let is_size = pointer.contains("/shape/");
                // Sizes are those of the model; what inputs are filled with, only the table knows.
                assert!(!(target.loads(&damaged) && is_size), "{pointer} of {damaged}");
            }
        }
    }
}

#[test]
fn every_value_of_a_table_may_be_missing_or_another_one_of_it() {
    let mut numbers = Numbers::new(3);
    for target in targets() {
        let pointers = all_pointers(&target.table);
        for pointer in &pointers[1..] {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let mut without = target.table.clone();
            match without.pointer_mut(parent).unwrap() {
                Value::Array(items) => drop(items.remove(key.parse().unwrap())),
                parent => drop(parent.as_object_mut().unwrap().remove(key)),
            }
            let is_optional = key == "query_ends";
            assert!(is_optional || !target.loads(&without), "{without}");
            for _ in 0..3 {
                let other = &pointers[1 + numbers.below(pointers.len() - 1)];
                let mut damaged = target.table.clone();
                *damaged.pointer_mut(pointer).unwrap() =
                    target.table.pointer(other).unwrap().clone();
                target.loads(&damaged);
            }
        }
    }
}

#[test]
fn bytes_may_be_cut_changed_or_random() {
    let mut numbers = Numbers::new(4);
    for target in targets() {
        let (om, table) = (&target.om[..], &target.bytes()[..]);
        for len in (0..om.len()).step_by(7) {
            assert!(!is_whole(&om[..len], table), "a model cut at {len} was accepted");
        }
        for len in (0..table.len()).step_by(7) {
            assert!(!is_whole(om, &table[..len]), "a table cut at {len} was accepted");
        }
        for len in (0..om.len()).step_by(om.len() / 40) {
            assert!(!loads(&om[..len], table), "a model cut at {len} was loaded");
        }
        assert!(!is_whole(&[om, &[0]].concat(), table));
        assert!(!is_whole(om, &[table, b"x"].concat()));
        for round in 0..2000 {
            let (mut om, mut table) = (om.to_vec(), table.to_vec());
            let damaged = if round % 2 == 0 { &mut om } else { &mut table };
            for _ in 0..=numbers.below(3) {
                let at = numbers.below(damaged.len());
                damaged[at] = numbers.next() as u8;
            }
            is_whole(&om, &table);
        }
    }
    for _ in 0..500 {
        let mut random = || -> Vec<u8> {
            let len = numbers.below(600);
            (0..len).map(|_| numbers.next() as u8).collect()
        };
        let (om, table) = (random(), random());
        assert!(!is_whole(&om, &table));
        assert!(!loads(&om, &table));
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    let target = targets().swap_remove(0);
    let table = target.bytes();
    for (name, bytes, missing) in [(MODEL, &target.om, TABLE), (TABLE, &table, MODEL)] {
        let error = backend().check(&Files::new([(name, bytes.as_slice())])).unwrap_err();
        assert!(error.to_string().contains(missing), "{error}");
    }
}
