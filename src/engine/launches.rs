//! From a step to launches: which of its sequences run through the device together.
//!
//! ```text
//! sequences of a step: tokens       a:1  b:300  c:1  d:1  e:40
//!
//! Batching::Ragged                 [ a b c d e ]           one launch
//! Batching::Separate               [ a c d ] [ b ] [ e ]   decode, prefill, prefill
//! ```
//!
//! Within a launch, sequences keep the order of the step.
//!
//! What this module deliberately does not do: it knows no sizes but one, the most sequences that
//! decode together; which graph runs a launch is the runner's choice.

use std::ops::Range;

use super::buckets::StepKind;
use super::scheduler_output::SchedulerOutput;

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
    pub(crate) fn split(&mut self, step: &SchedulerOutput, sharing: Sharing) {
        self.places.clear();
        self.launches.clear();
        let places = 0..step.scheduled.len();
        match sharing {
            Sharing::All => self.push(StepKind::Any, places),
            Sharing::Decodes(max_num_seqs) => {
                let is_decode = |&place: &usize| step.scheduled[place].num_scheduled_tokens == 1;
                let mut decodes = places.clone().filter(is_decode).peekable();
                while decodes.peek().is_some() {
                    self.push(StepKind::Decode, decodes.by_ref().take(max_num_seqs.max(1)));
                }
                for place in places.filter(|place| !is_decode(place)) {
                    self.push(StepKind::Prefill, [place]);
                }
            }
        }
    }

    fn push(&mut self, kind: StepKind, places: impl IntoIterator<Item = usize>) {
        let start = self.places.len();
        self.places.extend(places);
        self.launches.push((kind, start..self.places.len()));
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
        let mut step = SchedulerOutput::default();
        for (id, &num_tokens) in (0..).zip(num_tokens) {
            step.push(ScheduledSequence::new(Key::test(id), 7..7 + num_tokens), &[]);
        }
        let mut launches = Launches::default();
        // What an earlier step left behind does not show.
        launches.push(StepKind::Any, [3, 4]);
        launches.split(&step, sharing);
        assert_eq!(launches.iter().count(), launches.len());
        launches.iter().map(|(kind, places)| (kind, places.to_vec())).collect()
    }

    #[test]
    fn a_ragged_device_takes_a_step_at_once() {
        assert_eq!(split(&[1, 300, 1], Sharing::All), [(StepKind::Any, vec![0, 1, 2])]);
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
