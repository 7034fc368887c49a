//! Guesses at the next tokens of sequences, to be checked by the model in one step.
//!
//! ```text
//! results of step n --> drafts: "the cat [sat on the mat]" --> step n+1 computes 1 + k tokens
//!                                                              accepts the first that are right
//! ```
//!
//! | File | Guesses come from |
//! | --- | --- |
//! | `ngram` | the text itself: what followed the last few tokens before |
//! | `model` | a smaller model |
//!
//! A guess costs a row of the step and can save a step. It cannot change the output: see `results`.
//!
//! What this module deliberately does not do: it checks nothing.

mod model;
mod ngram;

pub(crate) use model::DraftModel;

use super::death::Death;
use super::host::Host;
use super::kv_cache::BlockCopy;
use super::options::{Speculation, SpeculativeMethod};
use super::scheduler_output::SchedulerOutput;

/// Makes drafts.
#[derive(Debug)]
pub(crate) struct Drafter {
    num_tokens: usize,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Ngram { min: usize, max: usize },
    Model(Box<DraftModel>),
}

impl Drafter {
    /// A drafter as the options want it; `None` when the draft model that they want is missing.
    pub(crate) fn new(speculation: Speculation, model: Option<DraftModel>) -> Option<Self> {
        let source = match speculation.method {
            SpeculativeMethod::Ngram { min, max } => Source::Ngram { min, max },
            SpeculativeMethod::Draft => Source::Model(Box::new(model?)),
        };
        Some(Self { num_tokens: speculation.num_tokens, source })
    }

    /// Keeps the draft model's cache in step with the model's.
    pub(crate) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        if let Source::Model(model) = &mut self.source {
            model.copy_blocks(copies);
        }
    }

    /// Gives the sequences of a step that was computed their drafts.
    ///
    /// # Errors
    /// When the draft model's device cannot be used any more.
    pub(crate) fn propose(&mut self, host: &mut Host, step: &SchedulerOutput) -> Result<(), Death> {
        let (min, max) = match &mut self.source {
            Source::Model(model) => return model.propose(host, step, self.num_tokens),
            &mut Source::Ngram { min, max } => (min, max),
        };
        for share in step.scheduled.iter().filter(|share| share.is_sampled) {
            let Some(sequence) = host.sequences.0.get(share.key) else { continue };
            if !host.groups[sequence.group].may_draft() {
                continue;
            }
            let (start, len) = ngram::find(sequence.token_ids(), min, max, self.num_tokens);
            let drafts = sequence.token_ids()[start..start + len].to_vec();
            host.set_drafts(share.key, &drafts);
        }
        Ok(())
    }
}
