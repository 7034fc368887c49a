//! Cutting a step to a size that graphs are compiled for.
//!
//! ```text
//! buckets 256 512 1024, planned: 30 decodes and a chunk of 530 tokens = 560
//! as it is   [ 560 + 464 of padding ]                 1024 rows
//! cut        [ 512 ]  and 48 tokens a step later      512 rows
//! ```
//!
//! A cut saves the padding and puts tokens off; it is made when more rows would be padding than are
//! put off. Below some 200 tokens a launch costs one read of the weights, whatever its size: nothing is
//! cut to less than that, for it would cost a launch and save none. Only a chunk of a prompt is cut, never below one token, and only the last that can be.
//!
//! What this module deliberately does not do: it knows no graphs, only their sizes.

use super::super::scheduler_output::SchedulerOutput;

/// The least that a step is cut to, in tokens.
const MIN_CUT: usize = 256;

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
        if num_padded <= num_put_off || smaller < MIN_CUT {
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
        assert_eq!(cut(&[512, 64, 256], &[1, 1, 308]), Some((2, 254)));
        assert_eq!(cut(&[128, 256, 512], &[1, 1, 398]), None, "112 rows of padding, 144 put off");
        assert_eq!(cut(&[128, 256, 512], &[254, 1, 1]), None, "it fits");
        assert_eq!(cut(&[64, 128, 256], &[1, 1, 138]), None, "128 cost as much as 256");
        assert_eq!(cut(&[256, 512], &[20]), None, "nothing is smaller");
        assert_eq!(cut(&[], &[20]), None);
        assert_eq!(cut(&[256, 512], &[1; 258]), None, "decodes are not cut");
        assert_eq!(cut(&[256, 512], &[252, 4, 4]), Some((0, 248)), "the others are too short");
    }
}
