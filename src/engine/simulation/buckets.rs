//! Which graphs the simulated device has: those that would be planned, or others to compare with.
//!
//! ```text
//! Graphs::Ragged     [ a b c d e ]            any tokens in one launch, static sizes
//! Graphs::Separate   [ a c d ] [ b ] [ e ]    decodes together, prompts alone, static sizes
//! Graphs::Dynamic    [ a b c d e ]            any tokens in one launch, any size
//! ```
//!
//! What this module deliberately does not do: it does not check that the sizes hold every step; the
//! runner does, with the same rule as for real graphs.

use crate::backend::{Batching, Capabilities};

use super::super::EngineOptions;
use super::super::buckets::{Bucket, StepKind, StepSize, plan};
use super::SimulationError;

/// The kind of graphs that a device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graphs {
    /// Static sizes, any sequences in one launch.
    Ragged,
    /// Static sizes, decodes and prompts in launches of their own.
    Separate,
    /// Any size, any sequences in one launch.
    Dynamic,
}

/// Sizes to use instead of those that would be planned; an empty list leaves those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketSizes {
    /// Tokens of a launch: of any, or of a prompt where prompts run alone.
    pub tokens: Vec<u64>,
    /// Sequences of a launch of decodes, where those run apart.
    pub decodes: Vec<u64>,
}

impl Graphs {
    fn capabilities(self) -> Capabilities {
        let (dynamic_shapes, batching) = match self {
            Self::Ragged => (false, Batching::Ragged),
            Self::Separate => (false, Batching::Separate),
            Self::Dynamic => (true, Batching::Ragged),
        };
        // More than 1 marks a device that compiles for minutes, and gets few graphs.
        Capabilities { dynamic_shapes, batching, block_size_multiple: 128, ..Capabilities::ANY }
    }

    /// The buckets of an engine with those options: by kind, and smallest first.
    ///
    /// # Errors
    /// When sizes are given that this kind of graphs does not have, or that are 0.
    pub fn buckets(
        self,
        options: &EngineOptions,
        sizes: &BucketSizes,
    ) -> Result<Vec<Bucket>, SimulationError> {
        let has = |name, sizes: &[u64], is_used: bool| match sizes.iter().min() {
            Some(&smallest) if smallest == 0 || !is_used => Err(SimulationError::Invalid {
                name,
                expected: if is_used { "sizes above 0" } else { "none with these graphs" }.into(),
                got: format!("{sizes:?}"),
            }),
            _ => Ok(()),
        };
        has("sizes of buckets", &sizes.tokens, self != Self::Dynamic)?;
        has("sizes of decode buckets", &sizes.decodes, self == Self::Separate)?;
        let mut buckets = plan(&self.capabilities(), options);
        replace(&mut buckets, StepKind::Any, &sizes.tokens, |num_tokens| {
            let largest = StepSize::largest(options);
            StepSize {
                num_tokens,
                num_seqs: num_tokens.min(largest.num_seqs),
                num_logits: num_tokens.min(largest.num_logits),
                ..largest
            }
        });
        replace(&mut buckets, StepKind::Prefill, &sizes.tokens, |num_tokens| StepSize {
            num_tokens,
            ..StepSize::largest_prefill(options)
        });
        replace(&mut buckets, StepKind::Decode, &sizes.decodes, |num_seqs| {
            StepSize::decode(num_seqs, options)
        });
        Ok(buckets)
    }
}

/// Puts buckets of those sizes in the place of those of that kind, if there are any of both.
fn replace(
    buckets: &mut Vec<Bucket>,
    kind: StepKind,
    sizes: &[u64],
    size_of: impl Fn(u64) -> StepSize,
) {
    let Some(place) = buckets.iter().position(|bucket| bucket.kind == kind) else { return };
    if sizes.is_empty() {
        return;
    }
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    sizes.dedup();
    buckets.retain(|bucket| bucket.kind != kind);
    let replaced = sizes.into_iter().map(size_of).map(|size| Bucket {
        kind,
        num_tokens: Some(size.num_tokens),
        num_seqs: Some(size.num_seqs),
        max_blocks: Some(size.max_blocks),
        num_logits: Some(size.num_logits),
    });
    buckets.splice(place..place, replaced);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(graphs: Graphs, tokens: &[u64], decodes: &[u64]) -> Vec<String> {
        let options = EngineOptions { max_num_seqs: 4, ..EngineOptions::default() };
        let sizes = BucketSizes { tokens: tokens.into(), decodes: decodes.into() };
        match graphs.buckets(&options, &sizes) {
            Ok(buckets) => buckets.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    #[test]
    fn given_sizes_take_the_place_of_the_planned_ones() {
        assert_eq!(
            names(Graphs::Ragged, &[], &[])[..4],
            [
                "1 tokens, 1 sequences",
                "2 tokens, 2 sequences",
                "4 tokens, 4 sequences",
                "128 tokens, 4 sequences"
            ]
        );
        assert_eq!(
            names(Graphs::Ragged, &[512, 3], &[]),
            ["3 tokens, 3 sequences", "512 tokens, 4 sequences"]
        );
        assert_eq!(names(Graphs::Separate, &[512], &[4]), ["decode 4", "prefill 512"]);
        assert_eq!(names(Graphs::Separate, &[512], &[])[..2], ["decode 1", "decode 2"]);
        assert_eq!(names(Graphs::Dynamic, &[], &[]), ["any size"]);
    }

    #[test]
    fn sizes_that_mean_nothing_are_refused() {
        assert_eq!(
            names(Graphs::Dynamic, &[8], &[]),
            ["invalid sizes of buckets: expected none with these graphs, got [8]"]
        );
        assert_eq!(
            names(Graphs::Ragged, &[], &[8]),
            ["invalid sizes of decode buckets: expected none with these graphs, got [8]"]
        );
        assert_eq!(
            names(Graphs::Ragged, &[8, 0], &[]),
            ["invalid sizes of buckets: expected sizes above 0, got [8, 0]"]
        );
    }
}
