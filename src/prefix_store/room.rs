//! The budget of the folder: room is made for many blocks at a time.
//!
//! ```text
//! 0 --------------------------------- target ------- max_bytes
//!   |<- what is left by making room ->|<- allowance ->|
//!                                       taken block by block; used up: room is made again
//! ```
//!
//! To make room, every entry is looked at. So an eighth of the budget is made free each time, and
//! nobody looks until it is used up. Several processes that share a folder each have an allowance:
//! together they may exceed the budget by an eighth for each of the others, until one of them makes
//! room again.
//!
//! What this module deliberately does not do: it does not choose what goes.

use std::time::{Duration, Instant};

/// The part of the budget that is made free at a time.
const FREED_PART: u64 = 8;
/// How long nobody tries again when there was no room to be made, because what is there is pinned, or
/// another process was at it.
const PAUSE: Duration = Duration::from_secs(10);

/// How much may be written.
#[derive(Debug)]
pub(super) struct Room {
    max_bytes: u64,
    /// By the last count, and what was taken since.
    held: u64,
    /// What may be taken until somebody has to look.
    allowance: u64,
    paused_until: Option<Instant>,
}

impl Room {
    /// That of a folder that holds so much.
    pub(super) fn new(max_bytes: u64, held: u64) -> Self {
        let mut room = Self { max_bytes, held, allowance: 0, paused_until: None };
        room.allow();
        room
    }

    /// What the folder holds, as far as is known.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Takes room for so many bytes. When there is none, `make` is told how much may stay, removes
    /// what is beyond that, and says what is left, if it could be counted.
    pub(super) fn take(
        &mut self,
        bytes: u64,
        now: Instant,
        make: impl FnOnce(u64) -> Option<u64>,
    ) -> bool {
        if bytes > self.max_bytes {
            return false;
        }
        if self.allowance < bytes {
            if self.paused_until.is_some_and(|until| now < until) {
                return false;
            }
            let target = self.max_bytes - bytes.max(self.max_bytes / FREED_PART);
            self.held = make(target).unwrap_or(self.held);
            self.allow();
            // One block may be larger than what is made free at a time.
            self.allowance = self.allowance.max(bytes.min(self.free()));
            self.paused_until = (self.allowance < bytes).then(|| now + PAUSE);
        }
        if self.allowance < bytes {
            return false;
        }
        self.allowance -= bytes;
        self.held = self.held.saturating_add(bytes);
        true
    }

    fn allow(&mut self) {
        self.allowance = self.free().min(self.max_bytes / FREED_PART);
    }

    fn free(&self) -> u64 {
        self.max_bytes.saturating_sub(self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_now_and_then_and_the_budget_is_kept() {
        let now = Instant::now();
        let mut room = Room::new(1000, 0);
        let mut num_made = 0;
        for _ in 0..500 {
            let held = room.held();
            assert!(room.take(10, now, |target| {
                num_made += 1;
                Some(held.min(target))
            }));
            assert!(room.held() <= 1000, "{room:?}");
        }
        // Every 12 blocks.
        assert!((30..=45).contains(&num_made), "{num_made}");
    }

    #[test]
    fn what_others_wrote_is_noticed_when_room_is_made() {
        let now = Instant::now();
        let mut room = Room::new(800, 0);
        assert!((0..10).all(|_| room.take(10, now, |_| unreachable!())));
        assert!(room.take(10, now, Some));
        assert_eq!(room.held(), 710);
    }

    #[test]
    fn a_large_block_is_taken_if_it_fits_at_all() {
        let now = Instant::now();
        let mut room = Room::new(100, 100);
        assert!(!room.take(101, now, |_| unreachable!()));
        assert!(room.take(60, now, Some));
        assert_eq!(room.held(), 100);
    }

    #[test]
    fn where_no_room_can_be_made_nobody_tries_all_the_time() {
        let now = Instant::now();
        let mut room = Room::new(100, 100);
        assert!(!room.take(10, now, |_| Some(95)));
        assert!(!room.take(10, now, |_| unreachable!()));
        assert!(!room.take(10, now + PAUSE, |_| None));
        assert!(room.take(10, now + 2 * PAUSE, |_| Some(0)));
        assert!(room.take(1, now + 2 * PAUSE, |_| unreachable!()));
    }
}
