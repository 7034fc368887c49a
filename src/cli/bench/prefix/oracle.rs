//! How many tokens the best cache could have had, worked out from what really ran.
//!
//! ```text
//! history:  Began(0)  Ended(0)  Began(1)  Began(2)  Ended(2)  Ended(1)
//!              |         |
//!              |         `- keep prompt and answer, all but the last token, which nobody computed
//!              `- count the longest beginning that is kept; then keep the prompt
//! ```
//!
//! Kept are whole blocks behind each other, and at each end a beginning of one. As the engine's cache
//! says of itself, at least one token of a prompt is computed, and a part of a block counts from an
//! eighth of it on. A prompt counts as kept as soon as its request is submitted: a cache may let
//! another wait for it.
//!
//! Two caches are worked out:
//!
//! | | Keeps |
//! | --- | --- |
//! | unlimited | everything |
//! | bounded | as many blocks as the pool; what was used least recently goes first, ends before beginnings |
//!
//! With one request at a time the engine reaches the first exactly, as long as nothing was evicted.
//! Otherwise it may differ a little, for reasons that are known: it compares only the eight youngest
//! of the blocks that begin alike; where it goes on in the middle of a block it holds the copy and
//! the original at once, one block more than needed; and it can evict nothing that runs, where the
//! bounded cache here takes a request's blocks in at its begin and its end only.
//!
//! What this module deliberately does not do: it shares no code with the engine's cache.

use std::collections::BTreeSet;

use super::replay::{Event, Replay};

const ROOT: usize = 0;

/// Tokens of prompts that were there, of a cache of so many blocks.
pub(super) fn most_hits(replay: &Replay, block_size: usize, num_blocks: Option<usize>) -> usize {
    let mut cache = IdealCache::new(block_size, num_blocks.unwrap_or(usize::MAX));
    let mut num_hits = 0;
    for event in &replay.events {
        match *event {
            Event::Began(idx) => {
                let prompt = &replay.requests[idx].prompt;
                num_hits += cache.look_up(&prompt[..prompt.len().saturating_sub(1)]);
                cache.keep(prompt);
            }
            Event::Ended(idx) => {
                let request = &replay.requests[idx];
                let mut computed = [&request.prompt[..], &request.answer].concat();
                computed.pop();
                cache.keep(&computed);
            }
        }
    }
    num_hits
}

/// A block, or the beginning of one, behind another.
#[derive(Debug, Default)]
struct Node {
    tokens: Vec<u32>,
    parent: usize,
    children: Vec<usize>,
    /// When it was used last; a child always before its parent.
    used: u64,
}

#[derive(Debug)]
struct IdealCache {
    block_size: usize,
    num_blocks: usize,
    /// The first is the root, which has no tokens; those that were evicted are used again.
    nodes: Vec<Node>,
    unused: Vec<usize>,
    /// By last use.
    order: BTreeSet<(u64, usize)>,
    clock: u64,
}

impl IdealCache {
    fn new(block_size: usize, num_blocks: usize) -> Self {
        Self {
            block_size,
            num_blocks,
            nodes: vec![Node::default()],
            unused: Vec::new(),
            order: BTreeSet::new(),
            clock: 0,
        }
    }

    /// Parts of blocks count from here on.
    fn least_part(&self) -> usize {
        self.block_size.div_ceil(8)
    }

    /// How many of the tokens are there, which is a use of them.
    fn look_up(&mut self, tokens: &[u32]) -> usize {
        let (mut path, mut num_hits) = (Vec::new(), 0);
        loop {
            let rest = &tokens[num_hits..];
            let at = path.last().copied().unwrap_or(ROOT);
            let children = self.nodes[at].children.iter();
            let best = children.map(|&child| (num_common(&self.nodes[child].tokens, rest), child));
            let Some((num_tokens, child)) = best.max() else { break };
            if num_tokens < self.least_part() {
                break;
            }
            path.push(child);
            num_hits += num_tokens;
            if num_tokens < self.block_size {
                break;
            }
        }
        self.touch(&path);
        num_hits
    }

    /// Keeps what was computed for a sequence, and forgets others for it.
    fn keep(&mut self, tokens: &[u32]) {
        let mut path = Vec::new();
        let mut num_blocks_left = self.num_blocks;
        for chunk in tokens.chunks(self.block_size) {
            if chunk.len() < self.block_size && chunk.len() < self.least_part() {
                // It is not worth keeping, but its block was taken.
                num_blocks_left = num_blocks_left.saturating_sub(1);
                break;
            }
            let at = path.last().copied().unwrap_or(ROOT);
            path.push(self.find_or_insert(at, chunk));
        }
        self.touch(&path);
        while self.order.len() > num_blocks_left {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.forget(oldest);
        }
    }

    fn find_or_insert(&mut self, parent: usize, chunk: &[u32]) -> usize {
        let children = &self.nodes[parent].children;
        let with = |is_wanted: &dyn Fn(&[u32]) -> bool| {
            children.iter().copied().find(|&child| is_wanted(&self.nodes[child].tokens))
        };
        if let Some(child) = with(&|tokens| tokens.starts_with(chunk)) {
            return child;
        }
        if let Some(child) = with(&|tokens| chunk.starts_with(tokens)) {
            self.nodes[child].tokens = chunk.to_vec();
            return child;
        }
        let node = Node { tokens: chunk.to_vec(), parent, ..Node::default() };
        let child = if let Some(child) = self.unused.pop() {
            self.nodes[child] = node;
            child
        } else {
            self.nodes.push(node);
            self.nodes.len() - 1
        };
        self.nodes[parent].children.push(child);
        child
    }

    /// From the end to the beginning, so that ends are the older ones.
    fn touch(&mut self, path: &[usize]) {
        for &node in path.iter().rev() {
            self.order.remove(&(self.nodes[node].used, node));
            self.clock += 1;
            self.nodes[node].used = self.clock;
            self.order.insert((self.clock, node));
        }
    }

    fn forget(&mut self, node: usize) {
        let parent = self.nodes[node].parent;
        self.nodes[parent].children.retain(|&child| child != node);
        self.unused.push(node);
    }
}

fn num_common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The longest beginning in common with anything before, by comparing with everything.
    fn by_comparing(kept: &[Vec<u32>], tokens: &[u32], block_size: usize) -> usize {
        let round = |len: usize| {
            let part = len % block_size;
            if part < block_size.div_ceil(8) { len - part } else { len }
        };
        let common = |other: &Vec<u32>| round(num_common(&other[..round(other.len())], tokens));
        kept.iter().map(common).max().unwrap_or(0)
    }

    #[test]
    fn without_a_limit_it_finds_what_comparing_with_everything_finds() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for block_size in [1, 2, 7, 8, 16, 17] {
            let mut cache = IdealCache::new(block_size, usize::MAX);
            let mut kept: Vec<Vec<u32>> = vec![Vec::new()];
            for _ in 0..300 {
                let from = &kept[rng.random_range(0..kept.len())];
                let mut tokens = from[..rng.random_range(0..=from.len())].to_vec();
                let num_new = rng.random_range(0..30);
                tokens.extend((0..num_new).map(|_| rng.random_range(0..3_u32)));
                let expected = by_comparing(&kept, &tokens, block_size);
                assert_eq!(cache.look_up(&tokens), expected, "{block_size}: {tokens:?}");
                cache.keep(&tokens);
                kept.push(tokens);
            }
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_ends_go_before_beginnings() {
        let mut cache = IdealCache::new(2, 4);
        cache.keep(&[1, 2, 3, 4]);
        cache.keep(&[5, 6, 7, 8]);
        assert_eq!(cache.look_up(&[1, 2, 3, 4]), 4);
        cache.keep(&[9, 9]);
        assert_eq!(cache.look_up(&[5, 6, 7, 8]), 2);
        // The end of the first is now the oldest.
        cache.keep(&[8, 8]);
        assert_eq!(cache.look_up(&[1, 2, 3, 4]), 2);
        assert_eq!(cache.order.len(), 4);
    }

    #[test]
    fn a_conversation_that_goes_on_takes_no_second_block_for_its_tail() {
        let mut cache = IdealCache::new(8, 10);
        cache.keep(&[1, 2, 3]);
        cache.keep(&[1, 2, 3, 4, 5]);
        cache.keep(&[1, 2]);
        assert_eq!((cache.order.len(), cache.look_up(&[1, 2, 3, 4, 5, 6])), (1, 5));
    }
}
