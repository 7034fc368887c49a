//! Which sizes a graph is compiled for, and which of them a step runs in.
//!
//! ```text
//! dynamic backend:  one bucket, every size still a symbol
//! static backend:   num_tokens  1  2  4  8 .. max_num_batched_tokens
//!                   a step of 5 tokens runs in the bucket of 8; 3 rows are padding
//! ```
//!
//! The KV pool's block count and the number of positions are no choice of a bucket: they are the
//! same for all, and always known.
//!
//! What this module deliberately does not do: it compiles nothing and fills nothing.

use std::fmt;

use crate::ir::SymbolId;
use crate::model::io::symbols;

use super::EngineOptions;

/// The sizes one graph is compiled for; `None`: any size up to the graph's own bounds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Tokens of a step.
    pub num_tokens: Option<u64>,
    /// Sequences of a step.
    pub num_seqs: Option<u64>,
    /// Width of the block tables.
    pub max_blocks: Option<u64>,
    /// Rows of logits.
    pub num_logits: Option<u64>,
}

/// The sizes of a step: what it holds, or what it is padded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepSize {
    pub(crate) num_tokens: u64,
    pub(crate) num_seqs: u64,
    pub(crate) max_blocks: u64,
    pub(crate) num_logits: u64,
}

impl Bucket {
    /// The bucket of a graph that runs any size.
    pub const DYNAMIC: Self =
        Self { num_tokens: None, num_seqs: None, max_blocks: None, num_logits: None };

    /// The symbols that are given a value before the graph is compiled, and that value. None for
    /// the dynamic bucket: one graph serves every configuration.
    pub fn bindings(&self, options: &EngineOptions) -> Vec<(SymbolId, u64)> {
        if *self == Self::DYNAMIC {
            return Vec::new();
        }
        let values = self.symbol_values(options).into_iter();
        (0..).map(SymbolId).zip(values).filter_map(|(id, value)| Some((id, value?))).collect()
    }

    /// The value of each of the graph's symbols, by symbol id; `None` stays symbolic.
    pub(crate) fn symbol_values(&self, options: &EngineOptions) -> [Option<u64>; symbols::COUNT] {
        let mut values = [None; symbols::COUNT];
        values[symbols::NUM_TOKENS.0 as usize] = self.num_tokens;
        values[symbols::NUM_SEQS.0 as usize] = self.num_seqs;
        values[symbols::MAX_BLOCKS.0 as usize] = self.max_blocks;
        values[symbols::NUM_LOGITS.0 as usize] = self.num_logits;
        values[symbols::NUM_BLOCKS.0 as usize] = Some(options.num_blocks as u64);
        values[symbols::NUM_POSITIONS.0 as usize] = Some(options.max_model_len as u64);
        values
    }

    /// The size that a step has in this bucket, or `None` when it does not fit.
    fn padded(&self, needed: StepSize) -> Option<StepSize> {
        let fit = |size: Option<u64>, needed: u64| match size {
            None => Some(needed),
            Some(size) => (needed <= size).then_some(size),
        };
        Some(StepSize {
            num_tokens: fit(self.num_tokens, needed.num_tokens)?,
            num_seqs: fit(self.num_seqs, needed.num_seqs)?,
            max_blocks: fit(self.max_blocks, needed.max_blocks)?,
            num_logits: fit(self.num_logits, needed.num_logits)?,
        })
    }
}

/// For people, as in `8 tokens, 3 sequences`.
impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.num_tokens, self.num_seqs) {
            (Some(num_tokens), Some(num_seqs)) => {
                write!(f, "{num_tokens} tokens, {num_seqs} sequences")
            }
            _ => f.write_str("any size"),
        }
    }
}

impl StepSize {
    /// The bucket of exactly this size.
    pub(crate) fn bucket(self) -> Bucket {
        Bucket {
            num_tokens: Some(self.num_tokens),
            num_seqs: Some(self.num_seqs),
            max_blocks: Some(self.max_blocks),
            num_logits: Some(self.num_logits),
        }
    }

    /// The largest step that an engine with those options plans.
    pub(crate) fn largest(options: &EngineOptions) -> Self {
        let num_tokens = options.max_num_batched_tokens as u64;
        let num_seqs = num_tokens.min(options.max_num_seqs as u64);
        Self { num_tokens, num_seqs, max_blocks: max_blocks(options), num_logits: num_seqs }
    }
}

fn max_blocks(options: &EngineOptions) -> u64 {
    options.max_model_len.div_ceil(options.block_size.max(1)) as u64
}

/// The buckets that serve every step of an engine with those options, smallest first.
pub fn plan(dynamic_shapes: bool, options: &EngineOptions) -> Vec<Bucket> {
    if dynamic_shapes {
        return vec![Bucket::DYNAMIC];
    }
    let largest = StepSize::largest(options);
    let doubled = std::iter::successors(Some(1_u64), |size| size.checked_mul(2));
    doubled
        .take_while(|&num_tokens| num_tokens < largest.num_tokens)
        .chain([largest.num_tokens])
        .map(|num_tokens| {
            let num_seqs = num_tokens.min(largest.num_seqs);
            StepSize { num_tokens, num_seqs, num_logits: num_seqs, ..largest }.bucket()
        })
        .collect()
}

/// The bucket in which a step wastes least: its index and the step's size in it.
pub(crate) fn choose<'a>(
    buckets: impl IntoIterator<Item = &'a Bucket>,
    needed: StepSize,
) -> Option<(usize, StepSize)> {
    let padded = buckets.into_iter().map(|bucket| bucket.padded(needed)).enumerate();
    padded
        .filter_map(|(idx, size)| Some((idx, size?)))
        .min_by_key(|(_, size)| (size.num_tokens, size.num_logits, size.num_seqs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(max_num_batched_tokens: usize) -> EngineOptions {
        EngineOptions {
            max_model_len: 33,
            max_num_seqs: 3,
            max_num_batched_tokens,
            block_size: 16,
            num_blocks: 8,
            max_num_queued_reqs: 4,
        }
    }

    fn sizes(buckets: &[Bucket]) -> Vec<(u64, u64, u64)> {
        let size = |b: &Bucket| Some((b.num_tokens?, b.num_seqs?, b.num_logits?));
        buckets.iter().map(|bucket| size(bucket).unwrap()).collect()
    }

    #[test]
    fn plans_powers_of_two_and_the_largest_step() {
        let buckets = plan(false, &options(10));
        assert_eq!(sizes(&buckets), [(1, 1, 1), (2, 2, 2), (4, 3, 3), (8, 3, 3), (10, 3, 3)]);
        assert!(buckets.iter().all(|bucket| bucket.max_blocks == Some(3)));
        assert_eq!(sizes(&plan(false, &options(1))), [(1, 1, 1)]);
        assert_eq!(plan(true, &options(10)), [Bucket::DYNAMIC]);
    }

    #[test]
    fn chooses_the_smallest_that_fits() {
        let buckets = plan(false, &options(10));
        let needed = |num_tokens, num_seqs| StepSize {
            num_tokens,
            num_seqs,
            max_blocks: 1,
            num_logits: num_seqs,
        };
        let chosen = |needed| choose(&buckets, needed).map(|(idx, size)| (idx, size.num_tokens));
        assert_eq!(chosen(needed(1, 1)), Some((0, 1)));
        assert_eq!(chosen(needed(5, 1)), Some((3, 8)));
        assert_eq!(chosen(needed(10, 3)), Some((4, 10)));
        assert_eq!(chosen(needed(11, 1)), None);
        assert_eq!(choose(&[Bucket::DYNAMIC], needed(7, 2)), Some((0, needed(7, 2))));
    }

    #[test]
    fn every_step_that_the_scheduler_may_plan_has_a_bucket() {
        for max_num_batched_tokens in 1..40 {
            let options = options(max_num_batched_tokens);
            assert!(choose(&plan(false, &options), StepSize::largest(&options)).is_some());
        }
    }

    #[test]
    fn a_dynamic_bucket_leaves_open_what_differs_from_step_to_step() {
        let values = Bucket::DYNAMIC.symbol_values(&options(10));
        assert_eq!(values, [None, None, None, None, Some(8), Some(33)]);
        let bindings = Bucket::DYNAMIC.bindings(&options(10));
        assert_eq!(bindings, []);
        assert_eq!(Bucket::DYNAMIC.to_string(), "any size");
    }
}
