//! Which entry goes first: the one that nobody has used for the longest time.
//!
//! | Last use | Counts as |
//! | --- | --- |
//! | some time ago | that time |
//! | later than now: a clock was wrong | now, after all others, in their own order |
//! | not known | before all others |
//!
//! Only the order decides, never an age: a clock that jumps by ten years changes who is next, but
//! evicts nobody.
//!
//! What this module deliberately does not do: it touches no files; it gets what was found and says
//! what follows.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use crate::disk::EntryStat;
use crate::key::CacheKey;

/// The entries that may go, the first to go first.
pub(super) fn eviction_order(
    mut entries: Vec<EntryStat>,
    spared: &BTreeSet<CacheKey>,
    now: SystemTime,
) -> Vec<EntryStat> {
    entries.retain(|entry| !spared.contains(&entry.key));
    // The key makes the order the same in each run.
    entries.sort_unstable_by_key(|entry| {
        (entry.last_used.map(|then| then.min(now)), entry.last_used, entry.key)
    });
    entries
}

/// Last uses that lie in the future, by the place of the entry, and what they are to be instead:
/// now, or so little before it that their order stays.
pub(super) fn wrong_clocks(entries: &[EntryStat], now: SystemTime) -> Vec<(usize, SystemTime)> {
    let in_future = |then: SystemTime| then > now;
    let mut wrong: Vec<(SystemTime, usize)> = entries
        .iter()
        .enumerate()
        .filter_map(|(at, entry)| Some((entry.last_used.filter(|then| in_future(*then))?, at)))
        .collect();
    wrong.sort_unstable();
    let mut right = Vec::with_capacity(wrong.len());
    let mut before_now = Duration::ZERO;
    for (_, at) in wrong.into_iter().rev() {
        right.push((at, now.checked_sub(before_now).unwrap_or(now)));
        before_now += Duration::from_micros(1);
    }
    right
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn entry(name: u8, last_used: Option<i64>) -> EntryStat {
        EntryStat {
            key: CacheKey::from_bytes([name; 32]),
            path: PathBuf::new(),
            bytes: 1,
            last_used: last_used.map(at),
        }
    }

    fn at(seconds: i64) -> SystemTime {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        match u64::try_from(seconds) {
            Ok(seconds) => now + Duration::from_secs(seconds),
            Err(_) => now - Duration::from_secs(seconds.unsigned_abs()),
        }
    }

    fn names(entries: &[EntryStat]) -> Vec<u8> {
        entries.iter().map(|entry| entry.key.as_bytes()[0]).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first_and_an_unknown_use_is_the_oldest() {
        let entries =
            vec![entry(1, Some(-5)), entry(2, None), entry(3, Some(-50)), entry(4, Some(0))];
        assert_eq!(names(&eviction_order(entries, &BTreeSet::new(), at(0))), [2, 3, 1, 4]);
    }

    #[test]
    fn a_use_in_the_future_is_a_use_now() {
        let entries = vec![entry(1, Some(9_000)), entry(2, Some(-1)), entry(3, Some(10))];
        assert_eq!(names(&eviction_order(entries, &BTreeSet::new(), at(0))), [2, 3, 1]);
    }

    #[test]
    fn future_uses_are_set_right_in_their_order() {
        let mut entries = vec![entry(1, Some(9_000)), entry(2, Some(-1)), entry(3, Some(10))];
        let order = names(&eviction_order(entries.clone(), &BTreeSet::new(), at(0)));
        let wrong = wrong_clocks(&entries, at(0));
        assert_eq!(wrong.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 2]);
        for (place, then) in wrong {
            assert!(then <= at(0));
            entries[place].last_used = Some(then);
        }
        assert!(wrong_clocks(&entries, at(0)).is_empty());
        assert_eq!(names(&eviction_order(entries, &BTreeSet::new(), at(0))), order);
    }

    proptest! {
        #[test]
        fn whoever_is_spared_is_not_in_the_order_and_all_others_are(
            uses in prop::collection::vec(prop::option::of(-99..99_i64), 0..20),
            spared in prop::collection::btree_set(0..20_u8, 0..10),
            now in -99..99_i64,
        ) {
            let entries: Vec<_> =
                uses.iter().enumerate().map(|(name, then)| entry(name as u8, *then)).collect();
            let keys = spared.iter().map(|name| CacheKey::from_bytes([*name; 32])).collect();
            let order = eviction_order(entries.clone(), &keys, at(now));
            for entry in &entries {
                let is_spared = keys.contains(&entry.key);
                prop_assert_eq!(order.iter().any(|other| other.key == entry.key), !is_spared);
            }
            let clamped = |entry: &EntryStat| entry.last_used.map(|then| then.min(at(now)));
            prop_assert!(order.is_sorted_by_key(clamped));
        }
    }
}
