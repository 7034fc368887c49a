//! Cutting a step to a size that graphs are compiled for.
//!
//! ```text
//! buckets 64 128 256, planned: 30 decodes and a chunk of 130 tokens = 160
//! as it is   [ 160 + 96 of padding ]                  256 rows
//! cut        [ 128 ]  and 32 tokens a step later      128 rows
//! ```
//!
//! A cut saves the padding and puts tokens off; it is made when more rows would be padding than are
//! put off. Only a chunk of a prompt is cut, never below one token, and only the last that can be.
//!
//! What this module deliberately does not do: it knows no graphs, only their sizes.

use super::super::scheduler_output::SchedulerOutput;

/// Sizes that a step is padded to, in tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenBuckets {
    /// Ascending; empty where steps are not padded.
    sizes: Vec<usize>,
}

impl TokenBuckets {
    /// Those sizes, in any order.
    pub(crate) fn new(sizes: impl IntoIterator<Item = usize>) -> Self {
        let mut sizes: Vec<usize> = sizes.into_iter().collect();
        sizes.sort_unstable();
        sizes.dedup();
        Self { sizes }
    }

    /// The place whose share is to be cut, and to how many tokens.
    pub(super) fn cut(&self, plan: &SchedulerOutput) -> Option<(usize, usize)> {
        let num_tokens = plan.total_num_scheduled_tokens;
        let larger = self.sizes.partition_point(|&size| size < num_tokens);
        let (&larger, &smaller) =
            (self.sizes.get(larger)?, self.sizes.get(larger.checked_sub(1)?)?);
        let (num_padded, num_put_off) = (larger - num_tokens, num_tokens - smaller);
        if num_padded <= num_put_off {
            return None;
        }
        let can_be_cut = |(_, share): &(usize, &super::ScheduledSequence)| {
            // Rows of a prompt that are wanted one by one are counted already.
            share.num_logits <= 1 && share.num_scheduled_tokens > num_put_off
        };
        let (place, share) = plan.scheduled.iter().enumerate().rev().find(can_be_cut)?;
        Some((place, share.num_scheduled_tokens - num_put_off))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::slots::Key;
    use super::super::ScheduledSequence;
    use super::*;

    fn cut(sizes: &[usize], shares: &[usize]) -> Option<(usize, usize)> {
        let mut plan = SchedulerOutput::default();
        for (idx, &num_tokens) in (0..).zip(shares) {
            plan.push(ScheduledSequence::new(Key::test(idx), 0..num_tokens), &[]);
        }
        TokenBuckets::new(sizes.iter().copied()).cut(&plan)
    }

    #[test]
    fn cuts_where_padding_would_be_more_than_what_is_put_off() {
        assert_eq!(cut(&[256, 64, 128], &[1, 1, 158]), Some((2, 126)));
        assert_eq!(cut(&[64, 128, 256], &[1, 1, 198]), None, "56 rows of padding, 72 put off");
        assert_eq!(cut(&[64, 128, 256], &[126, 1, 1]), None, "it fits");
        assert_eq!(cut(&[64, 128], &[20]), None, "nothing is smaller");
        assert_eq!(cut(&[], &[20]), None);
        assert_eq!(cut(&[1, 2, 4, 8], &[1; 5]), None, "decodes are not cut");
        assert_eq!(cut(&[64, 128], &[60, 6, 4]), Some((0, 54)), "the others are too short");
    }
}
