//! Which sizes a graph is compiled for, and which of them a step runs in.
//!
//! ```text
//! dynamic backend      any size                        every size still a symbol
//! static, ragged       tokens    1 2 4 8 .. max_num_batched_tokens
//! the same, compiling
//! takes minutes        tokens    1 2 4 8 .. max_num_seqs, 128 256 512 .. max_num_batched_tokens
//! static, separate     decode    1 2 4 8 .. max_num_seqs             as many tokens as sequences
//!                      prefill   128 256 512 .. max_num_batched_tokens            one sequence
//! for embeddings       as `static, ragged` or as `prefill`, with hidden states for output
//! ```
//!
//! A launch of 5 tokens runs in the bucket of 8; 3 rows are padding. The KV pool's block count and the number of positions are no choice of a bucket: they are the
//! same for all, and always known.
//!
//! What this module deliberately does not do: it compiles nothing and fills nothing.

use std::fmt;

use crate::backend::{Batching, Capabilities};
use crate::ir::SymbolId;
use crate::model::io::symbols;

use super::EngineOptions;

/// Fewest tokens worth a prefill graph of their own: below that, a device is not busy anyway.
const MIN_PREFILL_TOKENS: u64 = 128;

/// What a graph, or a launch of one, is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// Any sequences, with any number of tokens each.
    Any,
    /// Sequences with one token each.
    Decode,
    /// One sequence.
    Prefill,
    /// Sequences whose hidden states are wanted in place of logits: any, or one where sequences
    /// with more than one token do not mix.
    Embed,
}

/// The sizes one graph is compiled for; `None`: any size up to the graph's own bounds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Which launches it is for.
    pub kind: StepKind,
    /// Tokens of a step.
    pub num_tokens: Option<u64>,
    /// Sequences of a step.
    pub num_seqs: Option<u64>,
    /// Width of the block tables.
    pub max_blocks: Option<u64>,
    /// Rows of logits.
    pub num_logits: Option<u64>,
}

/// The sizes of a launch: what it holds, or what it is padded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepSize {
    pub(crate) num_tokens: u64,
    pub(crate) num_seqs: u64,
    pub(crate) max_blocks: u64,
    pub(crate) num_logits: u64,
}

impl Bucket {
    /// The bucket of a graph that runs any size.
    pub const DYNAMIC: Self = Self {
        kind: StepKind::Any,
        num_tokens: None,
        num_seqs: None,
        max_blocks: None,
        num_logits: None,
    };

    /// The symbols that are given a value before the graph is compiled, and that value. None for
    /// a dynamic bucket: one graph serves every configuration.
    pub fn bindings(&self, options: &EngineOptions) -> Vec<(SymbolId, u64)> {
        if *self == (Self { kind: self.kind, ..Self::DYNAMIC }) {
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

    /// The size that a launch has in this bucket, or `None` when it does not fit.
    pub(crate) fn padded(&self, needed: StepSize) -> Option<StepSize> {
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
        match (self.kind, self.num_tokens, self.num_seqs) {
            (StepKind::Any, Some(num_tokens), Some(num_seqs)) => {
                write!(f, "{num_tokens} tokens, {num_seqs} sequences")
            }
            (StepKind::Any, ..) => f.write_str("any size"),
            (StepKind::Decode, _, Some(num_seqs)) => write!(f, "decode {num_seqs}"),
            (StepKind::Decode, ..) => f.write_str("decode, any size"),
            (StepKind::Prefill, Some(num_tokens), _) => write!(f, "prefill {num_tokens}"),
            (StepKind::Prefill, ..) => f.write_str("prefill, any size"),
            (StepKind::Embed, Some(num_tokens), _) => write!(f, "embed {num_tokens}"),
            (StepKind::Embed, ..) => f.write_str("embed, any size"),
        }
    }
}

impl StepSize {
    /// The bucket of exactly this size.
    fn bucket(self, kind: StepKind) -> Bucket {
        Bucket {
            kind,
            num_tokens: Some(self.num_tokens),
            num_seqs: Some(self.num_seqs),
            max_blocks: Some(self.max_blocks),
            num_logits: Some(self.num_logits),
        }
    }

    /// The value of each of the graph's symbols in a launch of this size, by symbol id.
    pub(crate) fn symbol_values(self, options: &EngineOptions) -> [u64; symbols::COUNT] {
        let values = self.bucket(StepKind::Any).symbol_values(options);
        values.map(|value| value.expect("invariant: a size has no open symbol"))
    }

    /// The largest step that an engine with those options plans.
    pub(crate) fn largest(options: &EngineOptions) -> Self {
        let num_tokens = options.max_num_batched_tokens as u64;
        let num_seqs = num_tokens.min(options.max_num_seqs as u64);
        let max_blocks = options.max_model_len.div_ceil(options.block_size.max(1)) as u64;
        let num_logits = num_tokens.min(options.max_num_logits() as u64);
        Self { num_tokens, num_seqs, max_blocks, num_logits }
    }

    /// That many sequences of that engine, with one token each.
    pub(crate) fn decode(num_seqs: u64, options: &EngineOptions) -> Self {
        Self {
            num_tokens: num_seqs,
            num_seqs,
            num_logits: num_seqs,
            max_blocks: Self::largest(options).max_blocks,
        }
    }

    /// The largest share that one sequence of that engine has in a step.
    pub(crate) fn largest_prefill(options: &EngineOptions) -> Self {
        let largest = Self::largest(options);
        let num_tokens = largest.num_tokens.min(options.max_model_len as u64);
        let num_logits = num_tokens.min(options.max_logits_per_seq() as u64);
        Self { num_tokens, num_seqs: 1, num_logits, ..largest }
    }
}

/// The buckets that serve every step of an engine with those options on a device with those
/// capabilities: by kind, and smallest first.
pub fn plan(capabilities: &Capabilities, options: &EngineOptions) -> Vec<Bucket> {
    let mut buckets = of_generation(capabilities, options);
    if options.has_embeddings {
        let mixed = |bucket: &Bucket| bucket.kind != StepKind::Decode;
        let embed = |bucket: &Bucket| Bucket { kind: StepKind::Embed, ..bucket.clone() };
        let more: Vec<_> = buckets.iter().filter(|bucket| mixed(bucket)).map(embed).collect();
        buckets.extend(more);
    }
    buckets
}

fn of_generation(capabilities: &Capabilities, options: &EngineOptions) -> Vec<Bucket> {
    match (capabilities.dynamic_shapes, capabilities.batching) {
        (true, Batching::Ragged) => vec![Bucket::DYNAMIC],
        (true, Batching::Separate) => [StepKind::Decode, StepKind::Prefill]
            .map(|kind| Bucket { kind, ..Bucket::DYNAMIC })
            .into(),
        (false, Batching::Ragged) => ragged(capabilities, options),
        (false, Batching::Separate) => separate(options),
    }
}

/// A device that wants blocks of a certain size is one that compiles for minutes. It gets no
/// graphs between those for decoding and the first that is worth a prefill.
fn ragged(capabilities: &Capabilities, options: &EngineOptions) -> Vec<Bucket> {
    let largest = StepSize::largest(options);
    let is_slow_to_compile = capabilities.block_size_multiple > 1;
    let (small, first_large) = if is_slow_to_compile && largest.num_seqs < largest.num_tokens {
        let first_large = MIN_PREFILL_TOKENS.max(largest.num_seqs.saturating_mul(2));
        (largest.num_seqs, Some(first_large))
    } else {
        (largest.num_tokens, None)
    };
    let large = first_large.into_iter().flat_map(|first| doubling(first, largest.num_tokens));
    doubling(1, small)
        .chain(large)
        .map(|num_tokens| {
            let num_seqs = num_tokens.min(largest.num_seqs);
            let num_logits = num_tokens.min(largest.num_logits);
            let size = StepSize { num_tokens, num_seqs, num_logits, ..largest };
            size.bucket(StepKind::Any)
        })
        .collect()
}

fn separate(options: &EngineOptions) -> Vec<Bucket> {
    let max_num_seqs = StepSize::largest(options).num_seqs;
    let decodes = doubling(1, max_num_seqs)
        .map(|num_seqs| StepSize::decode(num_seqs, options).bucket(StepKind::Decode));
    let largest = StepSize::largest_prefill(options);
    // With one token a step there is nothing but decodes.
    let prefills = doubling(MIN_PREFILL_TOKENS, largest.num_tokens)
        .filter(|&num_tokens| num_tokens > 1)
        .map(|num_tokens| StepSize { num_tokens, ..largest }.bucket(StepKind::Prefill));
    decodes.chain(prefills).collect()
}

/// `first` (or `last`, if that is less), twice that, and so on, and `last`.
fn doubling(first: u64, last: u64) -> impl Iterator<Item = u64> {
    let doubled = std::iter::successors(Some(first), |size| size.checked_mul(2));
    doubled.take_while(move |&size| size < last).chain([last])
}

/// The bucket of that kind in which a launch wastes least: its index and the launch's size in it.
pub(crate) fn choose<'a>(
    buckets: impl IntoIterator<Item = &'a Bucket>,
    kind: StepKind,
    needed: StepSize,
) -> Option<(usize, StepSize)> {
    let of_kind = buckets.into_iter().enumerate().filter(|(_, bucket)| bucket.kind == kind);
    of_kind
        .filter_map(|(idx, bucket)| Some((idx, bucket.padded(needed)?)))
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
            ..EngineOptions::default()
        }
    }

    fn static_shapes() -> Capabilities {
        Capabilities { dynamic_shapes: false, ..Capabilities::ANY }
    }

    fn separate() -> Capabilities {
        Capabilities { batching: Batching::Separate, block_size_multiple: 16, ..static_shapes() }
    }

    fn slow_to_compile() -> Capabilities {
        Capabilities { block_size_multiple: 16, ..static_shapes() }
    }

    fn names(capabilities: &Capabilities, options: &EngineOptions) -> Vec<String> {
        plan(capabilities, options).iter().map(ToString::to_string).collect()
    }

    fn sizes(buckets: &[Bucket]) -> Vec<(u64, u64, u64)> {
        let size = |b: &Bucket| Some((b.num_tokens?, b.num_seqs?, b.num_logits?));
        buckets.iter().map(|bucket| size(bucket).unwrap()).collect()
    }

    #[test]
    fn plans_powers_of_two_and_the_largest_step() {
        let buckets = plan(&static_shapes(), &options(10));
        assert_eq!(sizes(&buckets), [(1, 1, 1), (2, 2, 2), (4, 3, 3), (8, 3, 3), (10, 3, 3)]);
        assert!(buckets.iter().all(|bucket| bucket.max_blocks == Some(3)));
        assert_eq!(sizes(&plan(&static_shapes(), &options(1))), [(1, 1, 1)]);
        assert_eq!(plan(&Capabilities::ANY, &options(10)), [Bucket::DYNAMIC]);
    }

    #[test]
    fn decodes_and_prefills_that_do_not_mix_have_graphs_of_their_own() {
        let options = |max_num_seqs, max_num_batched_tokens, max_model_len| EngineOptions {
            max_model_len,
            max_num_seqs,
            ..options(max_num_batched_tokens)
        };
        let buckets = plan(&separate(), &options(6, 300, 1000));
        let decodes = [(1, 1, 1), (2, 2, 2), (4, 4, 4), (6, 6, 6)];
        let prefills = [(128, 1, 1), (256, 1, 1), (300, 1, 1)];
        assert_eq!(sizes(&buckets), [&decodes[..], &prefills].concat());
        assert!(buckets[..4].iter().all(|bucket| bucket.kind == StepKind::Decode));
        assert!(buckets[4..].iter().all(|bucket| bucket.kind == StepKind::Prefill));
        let names = |max_num_seqs, max_num_batched_tokens, max_model_len| {
            names(&separate(), &options(max_num_seqs, max_num_batched_tokens, max_model_len))
        };
        assert_eq!(names(2, 512, 200), ["decode 1", "decode 2", "prefill 128", "prefill 200"]);
        assert_eq!(names(1, 100, 200), ["decode 1", "prefill 100"]);
        assert_eq!(names(8, 1, 200), ["decode 1"]);
        let dynamic = Capabilities { dynamic_shapes: true, ..separate() };
        assert_eq!(
            self::names(&dynamic, &options(2, 9, 20)),
            ["decode, any size", "prefill, any size"]
        );
    }

    #[test]
    fn a_device_that_compiles_for_minutes_gets_few_graphs() {
        let sizes = |max_num_seqs, max_num_batched_tokens| {
            let options = EngineOptions { max_num_seqs, ..options(max_num_batched_tokens) };
            sizes(&plan(&slow_to_compile(), &options))
                .into_iter()
                .map(|(num_tokens, num_seqs, _)| (num_tokens, num_seqs))
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(3, 300), [(1, 1), (2, 2), (3, 3), (128, 3), (256, 3), (300, 3)]);
        assert_eq!(sizes(2, 100), [(1, 1), (2, 2), (100, 2)]);
        assert_eq!(sizes(80, 512)[7..], [(80, 80), (160, 80), (320, 80), (512, 80)]);
        assert_eq!(sizes(8, 4), [(1, 1), (2, 2), (4, 4)]);
    }

    #[test]
    fn chooses_the_smallest_that_fits() {
        let buckets = plan(&static_shapes(), &options(10));
        let needed = |num_tokens, num_seqs| StepSize {
            num_tokens,
            num_seqs,
            max_blocks: 1,
            num_logits: num_seqs,
        };
        let chosen = |needed| {
            choose(&buckets, StepKind::Any, needed).map(|(idx, size)| (idx, size.num_tokens))
        };
        assert_eq!(chosen(needed(1, 1)), Some((0, 1)));
        assert_eq!(chosen(needed(5, 1)), Some((3, 8)));
        assert_eq!(chosen(needed(10, 3)), Some((4, 10)));
        assert_eq!(chosen(needed(11, 1)), None);
        let chosen = choose(&[Bucket::DYNAMIC], StepKind::Any, needed(7, 2));
        assert_eq!(chosen, Some((0, needed(7, 2))));
    }

    #[test]
    fn a_launch_runs_in_a_bucket_of_its_kind_only() {
        let buckets = plan(&separate(), &options(10));
        assert_eq!(buckets.len(), 4);
        let one = StepSize { max_blocks: 1, ..StepSize::decode(1, &options(10)) };
        let chosen = |kind, needed| choose(&buckets, kind, needed).map(|(idx, _)| idx);
        assert_eq!(chosen(StepKind::Decode, one), Some(0));
        assert_eq!(chosen(StepKind::Prefill, one), Some(3));
        assert_eq!(chosen(StepKind::Any, one), None);
        assert_eq!(chosen(StepKind::Prefill, StepSize { num_tokens: 10, ..one }), Some(3));
        assert_eq!(chosen(StepKind::Prefill, StepSize { num_seqs: 2, ..one }), None);
    }

    #[test]
    fn every_step_that_the_scheduler_may_plan_has_a_bucket() {
        for max_num_batched_tokens in 1..40 {
            let options = options(max_num_batched_tokens);
            for capabilities in [static_shapes(), slow_to_compile()] {
                let buckets = plan(&capabilities, &options);
                let largest = StepSize::largest(&options);
                assert!(choose(&buckets, StepKind::Any, largest).is_some());
            }
            let buckets = plan(&separate(), &options);
            let decode = StepSize::decode(StepSize::largest(&options).num_seqs, &options);
            assert!(choose(&buckets, StepKind::Decode, decode).is_some());
            let prefill = StepSize::largest_prefill(&options);
            let is_found = choose(&buckets, StepKind::Prefill, prefill).is_some();
            assert_eq!(is_found, max_num_batched_tokens > 1);
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
