//! What is counted while virtual time goes on.
//!
//! What this module deliberately does not do: it moves no time and looks at nobody; it is told.

use super::report::{BucketUse, Report, Spread};
use super::seconds;

/// Counts and times of a run so far; times in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Tally {
    ttft: Vec<u64>,
    tpot: Vec<u64>,
    itl: Vec<u64>,
    e2e: Vec<u64>,
    queue: Vec<u64>,
    step: Vec<u64>,
    unfinished: Integral,
    running: Integral,
    kv_used: Integral,
    peak_kv_used: usize,
    busy: u64,
    num_launches: u64,
    num_scheduled_seqs: u64,
    num_scheduled_tokens: u64,
    num_padded_tokens: u64,
    num_preemptions: u64,
    num_clipped: usize,
    num_prompt_tokens: u64,
    num_output_tokens: u64,
}

/// Things times the nanoseconds that they lasted.
#[derive(Debug, Default)]
struct Integral(u128);

impl Integral {
    fn add(&mut self, count: usize, nanos: u64) {
        self.0 += count as u128 * u128::from(nanos);
    }

    fn mean(&self, duration: u64) -> f64 {
        if duration == 0 { 0.0 } else { self.0 as f64 / duration as f64 }
    }
}

/// One step, as it was run.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepFacts {
    /// From its launch to the next one's.
    pub(super) nanos: u64,
    /// Time of that in which the device worked.
    pub(super) busy: u64,
    pub(super) num_launches: u64,
    pub(super) num_seqs: usize,
    pub(super) num_tokens: usize,
    pub(super) num_padded_tokens: u64,
    pub(super) num_preempted: usize,
    /// Requests that had arrived when it began.
    pub(super) num_unfinished: usize,
    pub(super) num_running: usize,
    pub(super) num_kv_used: usize,
}

/// One request, when it has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestFacts {
    pub(super) arrived: u64,
    pub(super) started: u64,
    pub(super) first_token: u64,
    pub(super) last_token: u64,
    pub(super) num_prompt_tokens: usize,
    pub(super) num_output_tokens: usize,
    pub(super) is_clipped: bool,
}

/// What is known at the end only.
#[derive(Debug)]
pub(super) struct End {
    pub(super) duration: u64,
    pub(super) num_blocks: usize,
    pub(super) hit_share: f64,
    pub(super) buckets: Vec<BucketUse>,
}

impl Tally {
    /// A step ended.
    pub(super) fn note_step(&mut self, facts: StepFacts) {
        self.step.push(facts.nanos);
        self.busy += facts.busy;
        self.num_launches += facts.num_launches;
        self.num_scheduled_seqs += facts.num_seqs as u64;
        self.num_scheduled_tokens += facts.num_tokens as u64;
        self.num_padded_tokens += facts.num_padded_tokens;
        self.num_preemptions += facts.num_preempted as u64;
        self.unfinished.add(facts.num_unfinished, facts.nanos);
        self.running.add(facts.num_running, facts.nanos);
        self.kv_used.add(facts.num_kv_used, facts.nanos);
        self.peak_kv_used = self.peak_kv_used.max(facts.num_kv_used);
    }

    /// A request was found that had arrived so long before, while a step ran.
    pub(super) fn note_late_arrival(&mut self, nanos: u64) {
        self.unfinished.add(1, nanos);
    }

    /// A request has a token after its first, so long after the one before.
    pub(super) fn note_next_token(&mut self, nanos: u64) {
        self.itl.push(nanos);
    }

    /// A request ended.
    pub(super) fn note_end(&mut self, facts: &RequestFacts) {
        self.queue.push(facts.started - facts.arrived);
        self.ttft.push(facts.first_token - facts.arrived);
        self.e2e.push(facts.last_token - facts.arrived);
        if let Some(num_gaps @ 1..) = facts.num_output_tokens.checked_sub(1) {
            self.tpot.push((facts.last_token - facts.first_token) / num_gaps as u64);
        }
        self.num_clipped += usize::from(facts.is_clipped);
        self.num_prompt_tokens += facts.num_prompt_tokens as u64;
        self.num_output_tokens += facts.num_output_tokens as u64;
    }

    /// How many requests have ended.
    pub(super) fn num_ended(&self) -> usize {
        self.e2e.len()
    }

    /// What came of it all.
    pub(super) fn report(mut self, end: End) -> Report {
        let share =
            |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let num_steps = self.step.len() as u64;
        let num_rows = self.num_scheduled_tokens + self.num_padded_tokens;
        let blocks = end.num_blocks.max(1) as f64;
        Report {
            num_requests: self.e2e.len(),
            num_clipped: self.num_clipped,
            duration: seconds(end.duration),
            num_prompt_tokens: self.num_prompt_tokens,
            num_output_tokens: self.num_output_tokens,
            mean_unfinished: self.unfinished.mean(end.duration),
            mean_running: self.running.mean(end.duration),
            busy_share: share(self.busy, end.duration),
            num_steps,
            num_launches: self.num_launches,
            mean_step_seqs: share(self.num_scheduled_seqs, num_steps),
            mean_step_tokens: share(self.num_scheduled_tokens, num_steps),
            padding_share: share(self.num_padded_tokens, num_rows),
            num_preemptions: self.num_preemptions,
            mean_kv_use: self.kv_used.mean(end.duration) / blocks,
            peak_kv_use: self.peak_kv_used as f64 / blocks,
            hit_share: end.hit_share,
            buckets: end.buckets,
            ttft: Spread::of(&mut self.ttft),
            tpot: Spread::of(&mut self.tpot),
            itl: Spread::of(&mut self.itl),
            e2e: Spread::of(&mut self.e2e),
            queue: Spread::of(&mut self.queue),
            step: Spread::of(&mut self.step),
        }
    }
}
