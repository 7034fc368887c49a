//! Random lives of many sequences, on a device that remembers what was written where.
//!
//! The device keeps, by slot, a hash of all tokens up to the one that was written there. Whoever
//! computes a token reads the hash of the one before through its block table: a block that is
//! shared when it must not be, freed too early, copied too late or found for the wrong tokens gives
//! a wrong hash. Each step runs after the next one was planned, as late as a device may.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::super::kv_cache::KvCacheOptions;
use super::super::rank::{RankFacts, SchedulingPolicy};
use super::super::request::RequestId;
use super::*;

const EMPTY: u64 = 0x9e37_79b9_7f4a_7c15;

fn hash(before: u64, token: u32) -> u64 {
    (before ^ u64::from(token) ^ 0x5555).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
}

/// Numbers below a limit.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() % limit.max(1) as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

#[derive(Debug)]
struct Life {
    key: SeqKey,
    rank: Rank,
    /// Known ones, then drafts.
    tokens: Vec<u32>,
    num_known: usize,
    max_len: usize,
    is_predictable: bool,
    /// Samples without appending, and appends some time later, as beams do.
    is_paused: bool,
    num_steps_absent: usize,
}

#[derive(Default)]
struct Lives(Vec<Life>);

impl Lives {
    fn find(&self, key: SeqKey) -> Option<usize> {
        self.0.iter().position(|life| life.key == key)
    }
}

impl Tokens for Lives {
    fn of(&self, key: SeqKey) -> &[u32] {
        let life = &self.0[self.find(key).expect("the scheduler knows nobody else")];
        &life.tokens[..life.num_known]
    }
}

/// One shape of a world.
#[derive(Clone, Debug)]
struct Shape {
    limits: Limits,
    block_size: usize,
    num_blocks: u32,
    max_len: usize,
    vocab_size: usize,
    is_prefix_cache_on: bool,
    max_drafts: usize,
    buckets: Vec<usize>,
    policy: SchedulingPolicy,
}

struct World {
    shape: Shape,
    dice: Dice,
    scheduler: Scheduler,
    lives: Lives,
    free_keys: Vec<SeqKey>,
    next_id: u64,
    next_choice: u32,
    memory: Vec<u64>,
    plan: SchedulerOutput,
    num_preempted: usize,
    num_forks: usize,
    num_rejected: usize,
    num_ended: usize,
}

impl World {
    fn new(shape: Shape, seed: u64) -> Self {
        let kv_cache = KvCache::new(KvCacheOptions {
            num_blocks: shape.num_blocks,
            block_size: shape.block_size,
            is_prefix_cache_on: shape.is_prefix_cache_on,
            hash_seed: seed,
        });
        let buckets = TokenBuckets::new(shape.buckets.iter().copied());
        Self {
            scheduler: Scheduler::new(shape.limits.clone(), buckets, kv_cache),
            dice: Dice(ChaCha8Rng::seed_from_u64(seed)),
            lives: Lives::default(),
            free_keys: (0..200).rev().map(SeqKey::test).collect(),
            next_id: 0,
            next_choice: 1,
            memory: vec![0; shape.num_blocks as usize * shape.block_size],
            plan: SchedulerOutput::default(),
            num_preempted: 0,
            num_forks: 0,
            num_rejected: 0,
            num_ended: 0,
            shape,
        }
    }

    fn arrive(&mut self) {
        let Some(key) = self.free_keys.pop() else { return };
        let (max_len, vocab_size) = (self.shape.max_len, self.shape.vocab_size);
        let len = 1 + self.dice.below(max_len - 1);
        let tokens: Vec<u32> = (0..len).map(|_| self.dice.below(vocab_size) as u32).collect();
        self.next_id += 1;
        let facts = RankFacts {
            arrival: std::time::Duration::from_millis(self.next_id),
            priority: self.dice.below(3) as i32,
            deadline: None,
            num_tokens: len,
        };
        let rank = self.shape.policy.rank(RequestId(self.next_id), &facts);
        let is_predictable = self.shape.max_drafts == 0 && !self.dice.one_in(4);
        let is_paused = !is_predictable && self.shape.max_drafts == 0 && self.dice.one_in(2);
        let max_len = len + 1 + self.dice.below(max_len - len);
        let has_prompt_logits = self.dice.one_in(8);
        let salt = self.dice.one_in(3).then_some("salt");
        self.scheduler.add(
            key,
            NewSequence {
                rank,
                num_tokens: len,
                max_len,
                is_predictable,
                num_prompt_logits: if has_prompt_logits { len } else { 0 },
                cache_salt: salt,
            },
        );
        self.lives.0.push(Life {
            key,
            rank,
            num_known: len,
            tokens,
            max_len,
            is_predictable,
            is_paused,
            num_steps_absent: 0,
        });
    }

    fn leave(&mut self, idx: usize) {
        let life = self.lives.0.remove(idx);
        self.scheduler.remove(life.key, &life.tokens[..life.num_known], &mut self.plan);
        self.free_keys.push(life.key.next());
        self.num_ended += 1;
    }

    fn some_leave(&mut self, times: usize) {
        if self.dice.one_in(times) && !self.lives.0.is_empty() {
            let idx = self.dice.below(self.lives.0.len());
            self.leave(idx);
        }
    }

    fn fork(&mut self, idx: usize) {
        let Some(child) = self.free_keys.pop() else { return };
        let parent = &self.lives.0[idx];
        self.scheduler.fork(parent.key, child, self.next_choice);
        let life = Life {
            key: child,
            rank: parent.rank.of_choice(self.next_choice),
            tokens: parent.tokens[..parent.num_known].to_vec(),
            ..*parent
        };
        self.next_choice += 1;
        self.num_forks += 1;
        self.lives.0.push(life);
    }

    /// One turn of the engine's loop.
    fn step(&mut self) {
        self.scheduler.schedule(&mut self.plan, &self.lives);
        self.scheduler.pack(&mut self.plan);
        self.num_preempted += self.plan.num_preempted;
        self.check_plan();
        let step = std::mem::take(&mut self.plan);
        self.scheduler.launch(&step);
        // While the device is slow to begin, the engine goes on.
        if self.dice.one_in(3) {
            self.arrive();
        }
        self.some_leave(20);
        self.scheduler.schedule(&mut self.plan, &self.lives);
        self.some_leave(40);
        self.compute(&step);
        self.take_results(&step);
        self.wake_paused();
    }

    fn check_plan(&mut self) {
        let (plan, limits) = (&self.plan, &self.shape.limits);
        let sum: usize = plan.scheduled.iter().map(|share| share.num_scheduled_tokens).sum();
        let logits: usize = plan.scheduled.iter().map(|share| share.num_logits).sum();
        assert_eq!((sum, logits), (plan.total_num_scheduled_tokens, plan.total_num_logits));
        assert!(sum <= limits.max_num_batched_tokens && logits <= limits.max_num_logits);
        assert!(plan.scheduled.len() <= limits.max_num_seqs);
        for share in &plan.scheduled {
            let life = &self.lives.0[self.lives.find(share.key).expect("nobody else")];
            assert!(
                share.num_scheduled_tokens > 0 && share.num_logits <= limits.max_logits_per_seq
            );
            let is_newest = share.tokens().end - share.num_drafts == life.num_known;
            assert_eq!(share.is_sampled, is_newest, "{share:?} {life:?}");
            assert!(share.tokens().end <= life.tokens.len(), "only drafts that there are");
            assert!(share.tokens().end < life.max_len, "what is full computes nothing");
        }
        // The first in rank of those who have anything to compute gets on, unless it waits for a
        // prompt that somebody is computing.
        let lacks = |life: &&Life| {
            !(life.is_paused
                && self
                    .scheduler
                    .entry(life.key)
                    .next_share(&self.shape.limits, &SchedulerOutput::default())
                    .is_none())
        };
        let first = self.lives.0.iter().filter(lacks).min_by_key(|life| life.rank);
        let first = first.map(|life| life.key);
        if let Some(key) = first {
            let is_in = plan.scheduled.iter().any(|share| share.key == key);
            let idx = self.lives.find(key).expect("it lives");
            let life = &mut self.lives.0[idx];
            life.num_steps_absent = if is_in { 0 } else { life.num_steps_absent + 1 };
            // Whoever runs already may go on to the end of its tokens, one of all a step at worst.
            let bound = (self.shape.limits.max_num_seqs + 1) * self.shape.max_len + 20;
            assert!(life.num_steps_absent <= bound, "the first in rank does not get on: {life:?}");
            assert!(!plan.is_empty(), "nothing is planned, and {life:?} waits");
        }
    }

    /// What the device does.
    fn compute(&mut self, step: &SchedulerOutput) {
        let block_size = self.shape.block_size;
        for copy in &step.copies {
            let (from, to) = (copy.from.0 as usize, copy.to.0 as usize);
            let range = from * block_size..(from + 1) * block_size;
            self.memory.copy_within(range, to * block_size);
        }
        for share in &step.scheduled {
            let Some(idx) = self.lives.find(share.key) else { continue };
            let life = &self.lives.0[idx];
            let blocks = step.blocks_of(share);
            let slot = |position: usize| {
                blocks[position / block_size].0 as usize * block_size + position % block_size
            };
            for position in share.tokens() {
                let before = if position == 0 { EMPTY } else { self.memory[slot(position - 1)] };
                let expected = life.tokens[..position].iter().fold(EMPTY, |h, &t| hash(h, t));
                assert_eq!(before, expected, "position {position} of {life:?} in {share:?}");
                self.memory[slot(position)] = hash(before, life.tokens[position]);
            }
        }
    }

    fn take_results(&mut self, step: &SchedulerOutput) {
        for share in &step.scheduled {
            let Some(idx) = self.lives.find(share.key) else { continue };
            if !share.is_sampled {
                let life = &self.lives.0[idx];
                self.scheduler.complete(
                    life.key,
                    &life.tokens[..life.num_known],
                    Progress::default(),
                );
                continue;
            }
            if self.lives.0[idx].is_paused {
                let life = &self.lives.0[idx];
                self.scheduler.complete(
                    life.key,
                    &life.tokens[..life.num_known],
                    Progress::default(),
                );
                continue;
            }
            let num_right = self.dice.below(share.num_drafts + 1);
            let token = self.dice.below(self.shape.vocab_size) as u32;
            let life = &mut self.lives.0[idx];
            life.num_known += num_right;
            life.tokens.truncate(life.num_known);
            life.tokens.push(token);
            life.num_known += 1;
            let num_rejected = share.num_drafts - num_right;
            self.num_rejected += num_rejected;
            let progress = Progress { num_appended: num_right + 1, num_rejected };
            self.scheduler.complete(life.key, &life.tokens, progress);
            let is_full = life.num_known >= life.max_len;
            if is_full || self.dice.one_in(30) {
                self.leave(idx);
                continue;
            }
            if !self.lives.0[idx].is_predictable && self.dice.one_in(12) {
                self.fork(idx);
            }
            self.guess(idx);
        }
    }

    fn guess(&mut self, idx: usize) {
        if self.shape.max_drafts > 0 {
            let num_drafts = self.dice.below(self.shape.max_drafts + 1);
            for _ in 0..num_drafts {
                let token = self.dice.below(self.shape.vocab_size) as u32;
                self.lives.0[idx].tokens.push(token);
            }
            self.scheduler.set_drafts(self.lives.0[idx].key, num_drafts);
        }
    }

    /// Gives some of those who wait for each other their next token.
    fn wake_paused(&mut self) {
        for idx in (0..self.lives.0.len()).rev() {
            let life = &self.lives.0[idx];
            let entry = self.scheduler.entry(life.key);
            let lacks_nothing = entry.num_done_tokens == life.num_known
                && entry.in_flight.is_none()
                && entry.planned.is_none();
            if !life.is_paused || !lacks_nothing {
                continue;
            }
            let (key, num_known, max_len) = (life.key, life.num_known, life.max_len);
            if num_known + 1 >= max_len {
                self.leave(idx);
                continue;
            }
            if self.dice.one_in(6) {
                self.fork(idx);
            }
            let token = self.dice.below(self.shape.vocab_size) as u32;
            self.lives.0[idx].tokens.push(token);
            self.lives.0[idx].num_known += 1;
            self.scheduler.append(key);
        }
    }

    fn run(&mut self, num_steps: usize) {
        for step in 0..num_steps {
            // Crowds and lulls.
            let is_crowded = step % 300 < 200;
            while self.lives.0.is_empty()
                || (is_crowded && self.lives.0.len() < 12 && self.dice.one_in(2))
            {
                self.arrive();
            }
            self.step();
            if step % 16 == 0 {
                assert_eq!(self.scheduler.check_integrity(), Ok(()));
            }
        }
        while !self.lives.0.is_empty() {
            self.leave(0);
        }
        assert_eq!(self.scheduler.check_integrity(), Ok(()));
        assert_eq!(self.scheduler.kv_cache().num_used(), 0, "every block is back");
        assert_eq!(self.scheduler.num_running() + self.scheduler.num_waiting(), 0);
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let limits = (1_usize..9, 1_usize..24, 0_usize..12, 1_usize..6, 1_usize..30, 0_usize..3);
    let sizes = (1_usize..5, 2_usize..24, 0_u32..20, 1_usize..4);
    let modes = (any::<bool>(), prop_oneof![Just(0_usize), 1_usize..5], any::<bool>(), 0_usize..4);
    (limits, sizes, modes).prop_map(|(limits, sizes, modes)| {
        let (max_num_seqs, max_num_batched_tokens, more_logits, per_seq, max_chunk, watermark) =
            limits;
        let (block_size, max_len, more_blocks, vocab_size) = sizes;
        let (is_prefix_cache_on, max_drafts, has_buckets, policy) = modes;
        let needed = (max_len + max_drafts).div_ceil(block_size) as u32 + 1;
        Shape {
            limits: Limits {
                max_num_seqs,
                max_num_batched_tokens,
                max_num_logits: max_num_seqs + more_logits,
                max_logits_per_seq: per_seq.max(1 + max_drafts).min(max_num_seqs + more_logits),
                max_chunk,
                watermark,
            },
            block_size,
            num_blocks: needed + more_blocks,
            max_len,
            vocab_size,
            is_prefix_cache_on,
            max_drafts,
            buckets: if has_buckets { vec![1, 2, 4, 8, 16, 32] } else { Vec::new() },
            policy: [
                SchedulingPolicy::Fcfs,
                SchedulingPolicy::Priority,
                SchedulingPolicy::ShortestFirst,
                SchedulingPolicy::Deadline,
            ][policy],
        }
    })
}

#[test]
fn in_a_hundred_thousand_steps_nobody_reads_what_is_not_theirs_or_is_forgotten() {
    let config = Config::with_cases(200);
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let totals = std::cell::RefCell::new([0_usize; 5]);
    let result = runner.run(&(shape(), any::<u64>()), |(shape, seed)| {
        let mut world = World::new(shape, seed);
        world.run(500);
        let stats = world.scheduler.kv_cache().stats();
        let counts = [
            world.num_preempted,
            world.num_forks,
            world.num_rejected,
            world.num_ended,
            stats.num_hit_tokens as usize,
        ];
        totals.borrow_mut().iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        Ok(())
    });
    result.unwrap();
    let totals = totals.into_inner();
    assert!(totals.iter().all(|&total| total > 1000), "the worlds were too peaceful: {totals:?}");
}
