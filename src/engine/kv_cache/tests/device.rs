//! What a device would have: in each slot of each block the K and V of one token.
//!
//! ```text
//! block 5   slot 0 {salt, [7]}   slot 1 {salt, [7 2]}   slot 2 {salt, [7 2 9]}   slot 3 -
//! ```
//!
//! K and V depend on all tokens up to theirs, so a slot remembers all of these. A sequence is right
//! when each of its slots remembers its own beginning.
//!
//! What this module deliberately does not do: it does not know which blocks are cached.

use super::super::{BlockCopy, BlockId, BlockTable, KvCache, Lookup};

type Slot = Option<(Option<&'static str>, Vec<u32>)>;

/// The memory of all blocks.
#[derive(Debug)]
pub(super) struct Device {
    block_size: usize,
    slots: Vec<Vec<Slot>>,
}

impl Device {
    pub(super) fn new(kv_cache: &KvCache) -> Self {
        let block_size = kv_cache.block_size();
        Self { block_size, slots: vec![vec![None; block_size]; kv_cache.num_blocks()] }
    }

    pub(super) fn copy(&mut self, copies: &[BlockCopy]) {
        for copy in copies {
            assert_ne!(copy.from, copy.to);
            self.slots[copy.to.0 as usize] = self.slots[copy.from.0 as usize].clone();
        }
    }

    /// Whether the block has the K and V of `tokens` from `first` on.
    pub(super) fn has(
        &self,
        block: BlockId,
        salt: Option<&'static str>,
        tokens: &[u32],
        first: usize,
    ) -> bool {
        let mut slots = self.slots[block.0 as usize].iter();
        (first..tokens.len()).all(|position| {
            let slot = slots.next().and_then(Option::as_ref);
            slot.is_some_and(|(own_salt, own)| *own_salt == salt && own == &tokens[..=position])
        })
    }
}

/// One sequence, as the scheduler would drive it.
#[derive(Debug)]
pub(super) struct Seq {
    pub(super) salt: Option<&'static str>,
    pub(super) tokens: Vec<u32>,
    pub(super) num_computed: usize,
    pub(super) table: BlockTable,
}

impl Seq {
    /// A sequence that has looked its tokens up, all but the last.
    pub(super) fn look_up(
        kv_cache: &KvCache,
        salt: Option<&'static str>,
        tokens: &[u32],
    ) -> (Self, Lookup) {
        let mut table = kv_cache.new_table(salt);
        let lookup = kv_cache.lookup(&mut table, tokens, tokens.len() - 1);
        let num_computed = lookup.num_cached_tokens;
        (Self { salt, tokens: tokens.to_vec(), num_computed, table }, lookup)
    }

    /// Reserves room for all tokens and does the copies; `false` when there is none.
    pub(super) fn try_reserve(
        &mut self,
        kv_cache: &KvCache,
        device: &mut Device,
        watermark: usize,
    ) -> bool {
        let mut copies = Vec::new();
        let (computed, wanted) = (self.num_computed, self.tokens.len());
        let is_room =
            kv_cache.try_reserve(&mut self.table, computed, wanted, watermark, &mut copies);
        assert!(is_room || copies.is_empty(), "all or nothing");
        device.copy(&copies);
        is_room
    }

    /// Writes `tokens` behind the computed ones, for which there must be room.
    pub(super) fn write(&self, device: &mut Device, tokens: &[u32]) {
        let mut history = self.tokens[..self.num_computed].to_vec();
        for &token in tokens {
            let (idx, slot) =
                (history.len() / device.block_size, history.len() % device.block_size);
            history.push(token);
            let block = self.table.blocks()[idx].0 as usize;
            device.slots[block][slot] = Some((self.salt, history.clone()));
        }
    }

    /// Computes all tokens and commits them.
    pub(super) fn compute(&mut self, kv_cache: &KvCache, device: &mut Device) {
        self.write(device, &self.tokens[self.num_computed..]);
        self.num_computed = self.tokens.len();
        kv_cache.commit(&mut self.table, &self.tokens, self.num_computed);
    }

    pub(super) fn release(mut self, kv_cache: &KvCache) {
        kv_cache.release(&mut self.table, &self.tokens, self.num_computed);
    }

    pub(super) fn fork(&self, kv_cache: &KvCache) -> Self {
        let (salt, num_computed) = (self.salt, self.num_computed);
        let (tokens, table) = (self.tokens.clone(), kv_cache.fork(&self.table));
        Self { salt, tokens, num_computed, table }
    }

    /// The first of the sequence's blocks in which it would read what is not its own, if any.
    pub(super) fn first_wrong(&self, device: &Device) -> Option<usize> {
        let blocks = self.table.blocks();
        (0..self.num_computed.div_ceil(device.block_size)).find(|&idx| {
            let first = idx * device.block_size;
            let end = self.num_computed.min(first + device.block_size);
            !device.has(blocks[idx], self.salt, &self.tokens[..end], first)
        })
    }
}

/// Looks up, reserves and computes a whole sequence, and checks what it reads.
pub(super) fn run(kv_cache: &KvCache, device: &mut Device, tokens: &[u32]) -> (Seq, Lookup) {
    let (mut seq, lookup) = Seq::look_up(kv_cache, None, tokens);
    assert!(seq.try_reserve(kv_cache, device, 0), "no room for {tokens:?}");
    seq.compute(kv_cache, device);
    assert_eq!(seq.first_wrong(device), None);
    (seq, lookup)
}
