//! Random sequences over two or three tokens against the simplest cache there is.
//!
//! | After every move | |
//! | --- | --- |
//! | each sequence reads its own history through its table, and nothing else | `Seq::first_wrong` |
//! | everything cached is on the device what the cache says it is | `World::first_false_node` |
//! | every rule of the cache holds | `check_integrity` |
//!
//! In a pool that never evicts, each hit is as long as a set of all beginnings ever computed says it
//! can be. With a hash that is the same for all blocks, everything holds as well.
//!
//! What this module deliberately does not do: it does not say which blocks are evicted; see
//! `eviction`.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::chain::{HashFn, Salt, hash_block};
use super::super::prefix_index::{MAX_COMPARED_CHILDREN, Node, Place};
use super::super::{KvCache, KvCacheOptions};
use super::device::{Device, Seq};

const SALTS: [Option<&str>; 3] = [None, Some("a"), Some("b")];

/// What happens, and to which sequence.
type Move = (usize, What);

#[derive(Clone, Debug)]
enum What {
    Admit(Arrival),
    Step(Work),
    /// A block comes from elsewhere.
    Load,
    Fork,
    Release,
    Drop,
    Preempt,
    Reset,
}

/// A sequence that begins as one did which was released, and goes on otherwise.
#[derive(Clone, Debug)]
struct Arrival {
    salt: Option<&'static str>,
    num_kept: usize,
    more: Vec<u32>,
    watermark: usize,
}

/// As many tokens as `new` has are computed; when there are none, these are the new ones.
#[derive(Clone, Debug)]
struct Work {
    new: Vec<u32>,
    /// Draft tokens that are written behind them and not accepted.
    num_rejected: usize,
    is_committed: bool,
}

fn any_move(num_words: u32) -> impl Strategy<Value = Move> {
    let tokens = move |max| prop::collection::vec(0..num_words, 1..max);
    let salt = prop_oneof![4 => Just(SALTS[0]), 1 => Just(SALTS[1]), 1 => Just(SALTS[2])];
    let arrival = (salt, 0_usize..16, tokens(8), 0_usize..3)
        .prop_map(|(salt, num_kept, more, watermark)| Arrival { salt, num_kept, more, watermark });
    let work = (tokens(6), 0_usize..4, prop::bool::weighted(0.8))
        .prop_map(|(new, num_rejected, is_committed)| Work { new, num_rejected, is_committed });
    let what = prop_oneof![
        30 => arrival.prop_map(What::Admit),
        50 => work.prop_map(What::Step),
        5 => Just(What::Load),
        10 => Just(What::Fork),
        15 => Just(What::Release),
        5 => Just(What::Drop),
        5 => Just(What::Preempt),
        1 => Just(What::Reset),
    ];
    (0_usize..8, what)
}

type History = (Option<&'static str>, Vec<u32>);

struct World {
    kv_cache: KvCache,
    device: Device,
    /// With each: whether the cache was reset while it held blocks.
    seqs: Vec<(Seq, bool)>,
    /// Tokens of those that were released.
    earlier: Vec<Vec<u32>>,
    /// Every beginning that is cached if nothing was ever evicted.
    known: HashSet<History>,
}

impl World {
    fn new(num_blocks: u32, block_size: usize, hash_fn: HashFn) -> Self {
        let options =
            KvCacheOptions { num_blocks, block_size, is_prefix_cache_on: true, hash_seed: 5 };
        let kv_cache = KvCache::with_hash_fn(options, hash_fn);
        let device = Device::new(&kv_cache);
        let (seqs, earlier, known) = (Vec::new(), Vec::new(), HashSet::new());
        Self { kv_cache, device, seqs, earlier, known }
    }

    fn apply(&mut self, (idx, what): Move) {
        match what {
            What::Reset => {
                self.known.clear();
                self.kv_cache.reset();
                for (seq, is_detached) in &mut self.seqs {
                    *is_detached |= !seq.table.is_empty();
                }
            }
            What::Admit(Arrival { salt, num_kept, more, watermark }) => {
                let mut tokens = self.earlier.get(idx).cloned().unwrap_or_default();
                tokens.truncate(num_kept);
                tokens.extend(more);
                self.admit(salt, tokens, watermark);
            }
            _ if self.seqs.is_empty() => {}
            what => {
                let (seq, is_detached) = self.seqs.swap_remove(idx % self.seqs.len());
                self.apply_to(seq, is_detached, what);
            }
        }
    }

    fn apply_to(&mut self, mut seq: Seq, is_detached: bool, what: What) {
        match what {
            What::Step(work) => self.step(&mut seq, is_detached, &work),
            What::Load => self.load(&mut seq, is_detached),
            What::Fork => self.seqs.push((seq.fork(&self.kv_cache), is_detached)),
            What::Release => {
                if !is_detached {
                    self.learn(&seq, 1);
                }
                self.earlier.push(seq.tokens.clone());
                return seq.release(&self.kv_cache);
            }
            What::Preempt => {
                seq.table.clear();
                assert!(seq.table.is_empty());
                return self.admit(seq.salt, seq.tokens.clone(), 0);
            }
            _ => return,
        }
        self.seqs.push((seq, is_detached));
    }

    fn admit(&mut self, salt: Option<&'static str>, tokens: Vec<u32>, watermark: usize) {
        let (mut seq, lookup) = Seq::look_up(&self.kv_cache, salt, &tokens);
        assert_eq!(seq.first_wrong(&self.device), None, "a hit that is none");
        let is_anything_announced = self.seqs.iter().any(|(seq, _)| seq.table.announced.is_some());
        assert!(!lookup.is_pending || is_anything_announced);
        if self.kv_cache.stats().num_evictions_capacity == 0 {
            self.check_longest(&seq);
        }
        if self.try_reserve(&mut seq, 0, watermark) {
            self.kv_cache.count(&lookup);
            self.kv_cache.announce(&mut seq.table, &tokens);
            self.seqs.push((seq, false));
        }
    }

    /// Reserves room for all tokens and some more, and checks whether it is refused rightly.
    fn try_reserve(&mut self, seq: &mut Seq, num_more: usize, watermark: usize) -> bool {
        let block_size = self.kv_cache.block_size();
        let (num_computed, num_tokens) = (seq.num_computed, seq.tokens.len() + num_more);
        let (wanted, held) = (num_tokens.div_ceil(block_size), seq.table.blocks().len());
        let written = seq.table.blocks().iter().take(wanted).skip(num_computed / block_size);
        let num_shared = if num_tokens > num_computed {
            written.filter(|&block| self.kv_cache.inner.borrow().block(*block).refs > 1).count()
        } else {
            0
        };
        let num_needed = wanted.saturating_sub(held) + num_shared;
        let is_room = num_needed == 0 || num_needed + watermark <= self.kv_cache.num_free();
        let mut copies = Vec::new();
        let is_reserved = self.kv_cache.try_reserve(
            &mut seq.table,
            num_computed,
            num_tokens,
            watermark,
            &mut copies,
        );
        assert_eq!(is_reserved, is_room);
        assert!(is_reserved || copies.is_empty());
        self.device.copy(&copies);
        is_reserved
    }

    fn step(&mut self, seq: &mut Seq, is_detached: bool, work: &Work) {
        let num_before = seq.tokens.len();
        if seq.num_computed == num_before {
            seq.tokens.extend(&work.new);
        }
        if !self.try_reserve(seq, work.num_rejected, 0) {
            seq.tokens.truncate(num_before);
            return;
        }
        let end = seq.tokens.len().min(seq.num_computed + work.new.len());
        let mut written = seq.tokens[seq.num_computed..end].to_vec();
        written.extend(vec![7; work.num_rejected]);
        self.check_exclusive(seq, written.len());
        seq.write(&mut self.device, &written);
        seq.num_computed = end;
        if work.is_committed {
            self.commit(seq, is_detached);
        }
    }

    /// Adds a block that was computed elsewhere to a sequence that ends with a whole one.
    fn load(&mut self, seq: &mut Seq, is_detached: bool) {
        let block_size = self.kv_cache.block_size();
        if seq.table.blocks().len() * block_size != seq.num_computed {
            return;
        }
        let is_any_free = self.kv_cache.num_free() > 0;
        assert_eq!(self.kv_cache.push_block(&mut seq.table).is_some(), is_any_free);
        if is_any_free {
            let end = seq.num_computed + block_size;
            seq.tokens.resize(seq.tokens.len().max(end), 0);
            seq.write(&mut self.device, &seq.tokens[seq.num_computed..end]);
            seq.num_computed = end;
            self.commit(seq, is_detached);
        }
    }

    fn commit(&mut self, seq: &mut Seq, is_detached: bool) {
        self.kv_cache.commit(&mut seq.table, &seq.tokens, seq.num_computed);
        if !is_detached {
            self.learn(seq, self.kv_cache.block_size());
        }
    }

    /// Takes note of the beginnings of a sequence: of whole blocks and, in steps of `grain` tokens,
    /// of the rest.
    fn learn(&mut self, seq: &Seq, grain: usize) {
        let block_size = self.kv_cache.block_size();
        let whole = (block_size..=seq.num_computed).step_by(block_size);
        let end = seq.num_computed / grain * grain;
        self.known.extend(whole.chain([end]).map(|end| (seq.salt, seq.tokens[..end].to_vec())));
    }

    /// Checks that a hit is as long as anything known allows.
    fn check_longest(&self, seq: &Seq) {
        let block_size = self.kv_cache.block_size();
        let wanted = &seq.tokens[..seq.tokens.len() - 1];
        let is_known =
            |num_tokens: usize| self.known.contains(&(seq.salt, wanted[..num_tokens].to_vec()));
        let whole = (1..=wanted.len() / block_size)
            .map(|num_blocks| num_blocks * block_size)
            .take_while(|&num_tokens| is_known(num_tokens))
            .last()
            .unwrap_or(0);
        let children: Vec<&[u32]> = self
            .known
            .iter()
            .filter(|(salt, tokens)| *salt == seq.salt && tokens.starts_with(&wanted[..whole]))
            .filter(|(_, tokens)| (whole + 1..=whole + block_size).contains(&tokens.len()))
            .map(|(_, tokens)| &tokens[whole..])
            .collect();
        let common = |child: &&[u32]| {
            child.iter().zip(&wanted[whole..]).take_while(|(one, other)| one == other).count()
        };
        let longest = whole + children.iter().map(common).max().unwrap_or(0);
        if children.len() <= MAX_COMPARED_CHILDREN {
            assert_eq!(seq.num_computed, longest, "of {wanted:?}");
        } else {
            assert!((whole..=longest).contains(&seq.num_computed));
        }
    }

    /// Checks that no other table holds what a sequence, which is in no list now, writes next.
    fn check_exclusive(&self, seq: &Seq, num_written: usize) {
        let block_size = self.kv_cache.block_size();
        for position in seq.num_computed..seq.num_computed + num_written {
            let block = seq.table.blocks()[position / block_size];
            let pool = self.kv_cache.inner.borrow();
            assert!(self.seqs.iter().all(|(other, _)| !other.table.blocks().contains(&block)));
            let node = pool.block(block).node.map(|node| pool.index.node(node));
            assert!(node.is_none_or(|node| node.num_tokens as usize <= position % block_size));
        }
    }

    /// A cached content that the device does not have, if any.
    fn first_false_node(&self) -> Option<String> {
        let pool = self.kv_cache.inner.borrow();
        let history_of = |node: &Node| {
            let (mut node, mut history) = (node, Vec::new());
            loop {
                match node.place {
                    Place::Root(salt) => return (salt, history),
                    Place::Behind { parent, .. } => {
                        history = [pool.index.tokens_of(node), &history].concat();
                        node = pool.index.node(parent);
                    }
                }
            }
        };
        let nodes = pool.index.nodes.iter().filter(|node| node.serial != 0 && node.num_tokens > 0);
        let mut wrong = nodes.filter(|node| {
            let (salt, tokens) = history_of(node);
            let salt = SALTS.into_iter().find(|&name| Salt::new(name) == salt).unwrap();
            let first = tokens.len() - node.num_tokens as usize;
            !self.device.has(node.block, salt, &tokens, first)
        });
        wrong.next().map(|node| format!("{node:?}"))
    }

    fn check(&self) {
        for (seq, _) in &self.seqs {
            assert_eq!(seq.first_wrong(&self.device), None, "{seq:?}");
        }
        assert_eq!(self.first_false_node(), None);
        let tables = self.seqs.iter().map(|(seq, _)| &seq.table);
        assert_eq!(self.kv_cache.check_integrity(tables), Ok(()));
    }
}

fn run(num_blocks: u32, block_size: usize, hash_fn: HashFn, moves: Vec<Move>) {
    let mut world = World::new(num_blocks, block_size, hash_fn);
    for step in moves {
        world.apply(step);
        world.check();
    }
    world.seqs.clear();
    world.check();
    let stats = world.kv_cache.stats();
    let num_missed = stats.num_miss_tokens_new + stats.num_miss_tokens_evicted;
    let num_counted = stats.num_hit_tokens + num_missed + stats.num_miss_tokens_tail;
    assert_eq!(stats.num_query_tokens, num_counted);
    assert_eq!(world.kv_cache.num_free(), num_blocks as usize);
    world.kv_cache.reset();
    assert_eq!(world.kv_cache.num_cached(), 0);
    world.check();
}

fn any_hash() -> impl Strategy<Value = HashFn> {
    prop_oneof![3 => Just(hash_block as HashFn), 1 => Just((|_, _| 9) as HashFn)]
}

fn moves(num_words: u32) -> impl Strategy<Value = Vec<Move>> {
    prop::collection::vec(any_move(num_words), 1..60)
}

proptest! {
    #[test]
    fn in_a_small_pool_every_sequence_reads_its_own_history(
        num_blocks in 1_u32..20,
        block_size in 1_usize..5,
        hash_fn in any_hash(),
        moves in moves(2),
    ) {
        run(num_blocks, block_size, hash_fn, moves);
    }

    #[test]
    fn in_a_large_pool_every_hit_is_the_longest_there_is(
        block_size in 1_usize..5,
        hash_fn in any_hash(),
        moves in (2_u32..4).prop_flat_map(moves),
    ) {
        run(400, block_size, hash_fn, moves);
    }
}
