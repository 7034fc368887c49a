//! Damaged artifacts are refused, or they load. They are not run: what is in an offline model is
//! the device's business, and a device does with a wrong one what it wants. The cache's digest is
//! what keeps such bytes away.

use cairn::backend::BackendError;
use cairn::ir::passes;
use serde_json::{Value, json};

use super::backend;
use crate::case::{Case, bucket};
use crate::cases::attention::Attention;
use crate::cases::rope;
use crate::damage::all_pointers;
use crate::data::Numbers;

/// Magic and length of the table.
const HEADER_BYTES: usize = 16;

/// An artifact in its parts.
struct Target {
    table: Value,
    om: Vec<u8>,
}

impl Target {
    fn new(case: &Case) -> Self {
        let graph = passes::optimise(&bucket(&case.graph, &case.steps[0].symbols)).unwrap();
        let artifact = backend().compile(&graph).unwrap();
        let (header, rest) = artifact.split_at(HEADER_BYTES);
        let length = u64::from_le_bytes(header[8..].try_into().unwrap()) as usize;
        let table = serde_json::from_slice(&rest[..length]).unwrap();
        Self { table, om: rest[length..].to_vec() }
    }

    fn artifact(&self, table: &Value) -> Vec<u8> {
        let table = serde_json::to_vec(table).unwrap();
        let mut artifact = b"CAIRNOM1".to_vec();
        artifact.extend((table.len() as u64).to_le_bytes());
        artifact.extend(table);
        artifact.extend(&self.om);
        artifact
    }

    /// Whether a changed table is accepted.
    fn loads(&self, table: &Value) -> bool {
        loads(&self.artifact(table))
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

fn loads(artifact: &[u8]) -> bool {
    is_accepted(backend().load(artifact))
}

/// As far as it shows without a device.
fn is_whole(artifact: &[u8]) -> bool {
    is_accepted(backend().check(artifact))
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
        let artifact = target.artifact(&target.table);
        for len in (0..artifact.len()).step_by(7) {
            assert!(!is_whole(&artifact[..len]), "a cut at {len} was accepted");
        }
        for len in (0..artifact.len()).step_by(artifact.len() / 40) {
            assert!(!loads(&artifact[..len]), "a cut at {len} was loaded");
        }
        assert!(!is_whole(&[&artifact[..], &[0]].concat()));
        for round in 0..2000 {
            let mut damaged = artifact.clone();
            for _ in 0..=numbers.below(3) {
                // Mostly where what is read has a meaning for us.
                let end = if round % 4 == 0 { damaged.len() } else { damaged.len().min(4096) };
                let at = numbers.below(end);
                damaged[at] = numbers.next() as u8;
            }
            is_whole(&damaged);
        }
    }
    for _ in 0..500 {
        let len = numbers.below(600);
        let mut bytes: Vec<u8> = (0..len).map(|_| numbers.next() as u8).collect();
        assert!(!is_whole(&bytes));
        bytes.splice(..bytes.len().min(8), *b"CAIRNOM1");
        assert!(!loads(&bytes));
    }
}
