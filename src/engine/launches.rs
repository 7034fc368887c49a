//! From a step to launches: which of its sequences run through the device together.
//!
//! ```text
//! sequences of a step: tokens       a:1  b:300  c:1  d:1  e:40
//!
//! Batching::Ragged                 [ a b c d e ]           one launch
//! Batching::Separate               [ a c d ] [ b ] [ e ]   decode, prefill, prefill
//! ```
//!
//! Sequences whose hidden states are wanted run in another graph: in one launch of their own, or
//! each in its own.
//!
//! Within a launch, sequences keep the order of the step.
//!
//! What this module deliberately does not do: it knows no sizes but one, the most sequences that
//! decode together; which graph runs a launch is the runner's choice.

use std::ops::Range;

use super::buckets::StepKind;
use super::scheduler_output::SchedulerOutput;
use super::sequence::SeqKey;

/// Which sequences of a step may share a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// All.
    All,
    /// Those with one token each, so many at a time; each other one has a launch of its own.
    Decodes(usize),
}

/// The launches of one step. The buffers are kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Launches {
    /// Places in the step, launch by launch.
    places: Vec<usize>,
    launches: Vec<(StepKind, Range<usize>)>,
}

impl Launches {
    /// Splits a step.
    pub(crate) fn split(
        &mut self,
        step: &SchedulerOutput,
        sharing: Sharing,
        is_embedded: impl Fn(SeqKey) -> bool,
    ) {
        self.places.clear();
        self.launches.clear();
        let is_embedded = |&place: &usize| is_embedded(step.scheduled[place].key);
        let places = (0..step.scheduled.len()).filter(|place| !is_embedded(place));
        let embedded = (0..step.scheduled.len()).filter(is_embedded);
        match sharing {
            Sharing::All => {
                self.push(StepKind::Any, places);
                self.push(StepKind::Embed, embedded);
            }
            Sharing::Decodes(max_num_seqs) => {
                let is_decode = |&place: &usize| step.scheduled[place].num_scheduled_tokens == 1;
                let mut decodes = places.clone().filter(is_decode).peekable();
                while decodes.peek().is_some() {
                    self.push(StepKind::Decode, decodes.by_ref().take(max_num_seqs.max(1)));
                }
                for place in places.filter(|place| !is_decode(place)) {
                    self.push(StepKind::Prefill, [place]);
                }
                for place in embedded {
                    self.push(StepKind::Embed, [place]);
                }
            }
        }
    }

    fn push(&mut self, kind: StepKind, places: impl IntoIterator<Item = usize>) {
        let start = self.places.len();
        self.places.extend(places);
        if self.places.len() > start {
            self.launches.push((kind, start..self.places.len()));
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.launches.len()
    }

    /// What each is for, and the places of its sequences in the step.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (StepKind, &[usize])> {
        self.launches.iter().map(|(kind, range)| (*kind, &self.places[range.clone()]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::scheduler_output::ScheduledSequence;
    use super::super::slots::Key;
    use super::*;

    fn split(num_tokens: &[usize], sharing: Sharing) -> Vec<(StepKind, Vec<usize>)> {
        split_with(num_tokens, &[], sharing)
    }

    fn split_with(
        num_tokens: &[usize],
        embedded: &[u32],
        sharing: Sharing,
    ) -> Vec<(StepKind, Vec<usize>)> {
        let embedded: Vec<_> = embedded.iter().map(|&id| Key::test(id)).collect();
        let mut step = SchedulerOutput::default();
        for (id, &num_tokens) in (0..).zip(num_tokens) {
            step.push(ScheduledSequence::new(Key::test(id), 7..7 + num_tokens), &[]);
        }
        let mut launches = Launches::default();
        // What an earlier step left behind does not show.
        launches.push(StepKind::Any, [3, 4]);
        launches.split(&step, sharing, |key| embedded.contains(&key));
        assert_eq!(launches.iter().count(), launches.len());
        launches.iter().map(|(kind, places)| (kind, places.to_vec())).collect()
    }

    #[test]
    fn a_ragged_device_takes_a_step_at_once() {
        assert_eq!(split(&[1, 300, 1], Sharing::All), [(StepKind::Any, vec![0, 1, 2])]);
    }

    #[test]
    fn hidden_states_come_from_launches_of_their_own() {
        let (decode, prefill, embed) = (StepKind::Decode, StepKind::Prefill, StepKind::Embed);
        assert_eq!(
            split_with(&[1, 300, 1, 9], &[0, 3], Sharing::All),
            [(StepKind::Any, vec![1, 2]), (embed, vec![0, 3])]
        );
        assert_eq!(split_with(&[5], &[0], Sharing::All), [(embed, vec![0])]);
        assert_eq!(
            split_with(&[1, 300, 1, 9], &[0, 3], Sharing::Decodes(8)),
            [(decode, vec![2]), (prefill, vec![1]), (embed, vec![0]), (embed, vec![3])]
        );
    }

    #[test]
    fn decodes_go_together_and_prefills_alone() {
        let (decode, prefill) = (StepKind::Decode, StepKind::Prefill);
        assert_eq!(
            split(&[1, 300, 1, 1, 40], Sharing::Decodes(8)),
            [(decode, vec![0, 2, 3]), (prefill, vec![1]), (prefill, vec![4])]
        );
        assert_eq!(split(&[5], Sharing::Decodes(8)), [(prefill, vec![0])]);
        assert_eq!(
            split(&[1; 5], Sharing::Decodes(2)),
            [(decode, vec![0, 1]), (decode, vec![2, 3]), (decode, vec![4])]
        );
    }
}
