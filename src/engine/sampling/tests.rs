//! Tests of sampling as a whole; each file is one of its promises.

mod beams;
mod distribution;
mod golden;
mod limits;
mod processing;
mod rows;

use super::error::SampleError;
use super::*;

/// Sampling with nothing but a temperature.
fn params(temperature: f32) -> SamplingParams {
    SamplingParams { temperature, ..SamplingParams::default() }
}

/// The token of a whole row without history.
fn sample(logits: &[f32], params: &SamplingParams, random: f64) -> u32 {
    let row = Row::Logits(logits);
    Sampler::default().sample(row, params, History::default(), || random).unwrap().token_id
}
