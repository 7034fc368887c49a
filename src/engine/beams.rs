//! Beam search in the engine: which sequences carry which beams.
//!
//! ```text
//! step        sequences          rows                    search says              sequences
//!   t          A   B       A: a b c   B: d e f     A continues with a and c       A+a  A'+c
//!                                                  B with none                     (B is gone)
//! ```
//!
//! A search goes on once each of its beams has offered its candidates. A beam that has is left
//! alone until then: it lacks no token, so it is in no step. One that lost its blocks meanwhile
//! computes its last token again and offers the same.
//!
//! What this module deliberately does not do: it neither computes nor compares; see
//! `sampling::beam`.

use super::sampling::{BeamSearch, BeamStep, Hypothesis, SamplingParams};
use super::sequence::SeqKey;

/// A search and its sequences.
#[derive(Debug)]
pub(crate) struct Beams {
    search: BeamSearch,
    live: Vec<Beam>,
    /// Sequences so far.
    num_sequences: usize,
}

#[derive(Debug)]
struct Beam {
    key: SeqKey,
    /// Empty until they are there.
    candidates: Vec<(u32, f64)>,
}

/// What becomes of a beam.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Continuation {
    pub(crate) parent: SeqKey,
    /// The first of a parent's continuations is the parent itself with another token.
    pub(crate) is_parent: bool,
    pub(crate) token_id: u32,
}

impl Beams {
    /// A search that has not begun.
    pub(crate) fn new(
        params: &SamplingParams,
        stop_token_ids: &[u32],
        prompt_len: usize,
        max_tokens: usize,
    ) -> Self {
        let beam = params.beam.expect("invariant: the caller asks for beams");
        Self {
            search: BeamSearch::new(beam, stop_token_ids, prompt_len, max_tokens),
            live: Vec::new(),
            num_sequences: 1,
        }
    }

    /// A number for another sequence of the search.
    pub(crate) fn next_choice(&mut self) -> usize {
        self.num_sequences += 1;
        self.num_sequences - 1
    }

    /// Begins with the prompt's sequence.
    pub(crate) fn begin(&mut self, key: SeqKey) {
        self.live = vec![Beam { key, candidates: Vec::new() }];
    }

    /// How many candidates a beam offers.
    pub(crate) fn num_candidates(&self) -> usize {
        self.search.num_candidates()
    }

    /// Takes a beam's candidates; `true` once all are there.
    pub(crate) fn offer(&mut self, key: SeqKey, candidates: &[(u32, f64)]) -> bool {
        if let Some(beam) = self.live.iter_mut().find(|beam| beam.key == key) {
            beam.candidates.clear();
            beam.candidates.extend_from_slice(candidates);
        }
        self.live.iter().all(|beam| !beam.candidates.is_empty())
    }

    /// Ends a step: what becomes of which sequence, and which end here. Nothing continues when the
    /// search has ended.
    pub(crate) fn advance(&mut self) -> (Vec<Continuation>, Vec<SeqKey>) {
        // In order, whoever came first: ties are broken by it.
        for (idx, beam) in self.live.iter().enumerate() {
            self.search.offer(idx, &beam.candidates);
        }
        let mut has_continued = vec![false; self.live.len()];
        let continuation = |&BeamStep { parent, token_id }: &BeamStep| Continuation {
            parent: self.live[parent].key,
            is_parent: !std::mem::replace(&mut has_continued[parent], true),
            token_id,
        };
        let continuations: Vec<_> = self.search.advance().iter().map(continuation).collect();
        let ended = self.live.iter().zip(&has_continued).filter(|(_, has)| !**has);
        let ended = ended.map(|(beam, _)| beam.key).collect();
        (continuations, ended)
    }

    /// Says which sequences carry the beams from now on, in the order of the continuations.
    pub(crate) fn carry_on(&mut self, keys: impl IntoIterator<Item = SeqKey>) {
        self.live.clear();
        self.live.extend(keys.into_iter().map(|key| Beam { key, candidates: Vec::new() }));
    }

    /// The best texts.
    pub(crate) fn finish(self, n: usize) -> Vec<Hypothesis> {
        self.search.finish(n)
    }
}
