//! A block is of use only together with all blocks before it: whoever uses it uses those, too. So
//! before anything is removed, no block counts as older than one that needs it.
//!
//! ```text
//! last uses   A 9:00 <- B 9:01 <- C 12:00       A, B, C: one conversation, D another one from A on
//!                    `- D 10:00
//! become      A 12:00 + 2 us <- B 12:00 + 1 us <- C 12:00        D goes first, then C, then B
//!                             `- D 10:00
//! ```
//!
//! Without it, the block that every conversation begins with would go first: it was read when the
//! server was started, and is in the engine's memory ever since.
//!
//! What this module deliberately does not do: it removes nothing and touches no file.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use cairn_graph_cache::CacheKey;

/// How much younger a block is than the one that needs it.
const STEP: Duration = Duration::from_micros(1);

/// An entry's last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastUse {
    pub(super) key: CacheKey,
    /// The entry of the block before it.
    pub(super) parent: Option<CacheKey>,
    pub(super) time: SystemTime,
}

/// The same entries, none older than one that needs it.
pub(super) fn raised(mut uses: Vec<LastUse>) -> Vec<LastUse> {
    // The youngest first: what it raises is seldom raised again.
    uses.sort_unstable_by_key(|one| (std::cmp::Reverse(one.time), one.key));
    let places: HashMap<CacheKey, usize> =
        uses.iter().enumerate().map(|(at, one)| (one.key, at)).collect();
    for start in 0..uses.len() {
        let mut at = start;
        // As many steps as there are entries: links that were made up may go round in a circle.
        for _ in 0..uses.len() {
            let Some(&above) = uses[at].parent.as_ref().and_then(|key| places.get(key)) else {
                break;
            };
            let Some(needed) = uses[at].time.checked_add(STEP) else { break };
            if uses[above].time >= needed {
                break;
            }
            uses[above].time = needed;
            at = above;
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: u8) -> CacheKey {
        CacheKey::from_bytes([name; 32])
    }

    fn at(micros: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    }

    fn one(name: u8, parent: Option<u8>, micros: u64) -> LastUse {
        LastUse { key: key(name), parent: parent.map(key), time: at(micros) }
    }

    fn times(uses: Vec<LastUse>) -> Vec<(u8, SystemTime)> {
        let mut times: Vec<_> =
            raised(uses).iter().map(|one| (one.key.as_bytes()[0], one.time)).collect();
        times.sort_unstable();
        times
    }

    #[test]
    fn whoever_is_used_makes_all_before_it_younger() {
        let uses =
            vec![one(1, None, 10), one(2, Some(1), 20), one(3, Some(2), 900), one(4, Some(1), 50)];
        assert_eq!(times(uses), [(1, at(902)), (2, at(901)), (3, at(900)), (4, at(50))]);
    }

    #[test]
    fn a_parent_that_is_gone_and_a_circle_do_no_harm() {
        assert_eq!(times(vec![one(2, Some(1), 20)]), [(2, at(20))]);
        assert_eq!(times(vec![one(1, Some(2), 10), one(2, Some(1), 20)]).len(), 2);
        assert_eq!(times(vec![one(1, Some(1), 10)]).len(), 1);
    }

    proptest! {
        #[test]
        fn no_block_is_older_than_one_that_needs_it_and_none_gets_older(
            uses in prop::collection::vec((0..30_u64, any::<prop::sample::Index>()), 1..40),
        ) {
            // Each after one of those before it, or none: a forest.
            let uses: Vec<LastUse> = uses
                .iter()
                .enumerate()
                .map(|(at, (micros, parent))| {
                    let parent = parent.index(at + 1);
                    one(at as u8, (parent < at).then_some(parent as u8), *micros)
                })
                .collect();
            let after: HashMap<_, _> =
                raised(uses.clone()).into_iter().map(|one| (one.key, one.time)).collect();
            let mut roots = Vec::new();
            for one in &uses {
                prop_assert!(after[&one.key] >= one.time);
                match one.parent {
                    Some(parent) => prop_assert!(after[&parent] > after[&one.key]),
                    None => roots.push(after[&one.key]),
                }
            }
            // What is needed by nobody keeps its time, so the least of all is still the least.
            let youngest = uses.iter().map(|one| one.time).max().unwrap();
            prop_assert!(roots.iter().max().unwrap() >= &youngest);
        }
    }
}
