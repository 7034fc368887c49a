//! What a request asks of the sampler, checked once at the door.

use std::fmt;

/// How many stop strings one request may carry.
pub const MAX_STOP_STRINGS: usize = 64;
/// Bytes of one stop string.
pub const MAX_STOP_STRING_BYTES: usize = 4096;

/// How to choose tokens and when to stop. Names and meanings follow vLLM's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Most tokens to generate, at least 1; `None`: as many as the context still holds.
    pub max_tokens: Option<u64>,
    /// 0 is greedy; otherwise logits are divided by it. Finite, 0 to 100.
    pub temperature: f32,
    /// Keep the k most likely tokens; `None` keeps all.
    pub top_k: Option<u32>,
    /// Keep the smallest set of most likely tokens whose probability reaches this; in (0, 1].
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest one; in [0, 1].
    pub min_p: f32,
    /// With a seed the same request gives the same text, whatever else is running.
    pub seed: Option<u64>,
    /// Generation ends before the first of these strings; they are not part of the output.
    pub stop: Vec<String>,
    /// Generation ends at the first of these tokens; it is not part of the output text.
    pub stop_token_ids: Vec<u32>,
    /// Go on after the model's own end-of-text tokens.
    pub ignore_eos: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            max_tokens: None,
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            seed: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
        }
    }
}

/// A parameter that cannot be honoured, by name, with what was expected and got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidParam {
    /// The request field, for example `temperature`.
    pub param: &'static str,
    /// What was expected and what was got.
    pub message: String,
}

impl fmt::Display for InvalidParam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}: {}", self.param, self.message)
    }
}

impl std::error::Error for InvalidParam {}

impl SamplingParams {
    /// Checks every field's range.
    ///
    /// # Errors
    /// The first field that is out of range, by name.
    pub fn validate(&self) -> Result<(), InvalidParam> {
        let fail = |param, message: String| Err(InvalidParam { param, message });
        if self.max_tokens == Some(0) {
            return fail("max_tokens", "expected at least 1, got 0".into());
        }
        // `contains` is false for NaN, which is the point.
        if !(0.0..=100.0).contains(&self.temperature) {
            let got = self.temperature;
            return fail("temperature", format!("expected 0 to 100, got {got}"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let got = self.top_p;
            return fail("top_p", format!("expected above 0 and at most 1, got {got}"));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return fail("min_p", format!("expected 0 to 1, got {}", self.min_p));
        }
        if self.top_k == Some(0) {
            return fail("top_k", "expected at least 1, or -1 for all, got 0".into());
        }
        if self.stop.len() > MAX_STOP_STRINGS {
            let got = self.stop.len();
            return fail("stop", format!("expected at most {MAX_STOP_STRINGS} strings, got {got}"));
        }
        for stop in &self.stop {
            if stop.is_empty() || stop.len() > MAX_STOP_STRING_BYTES {
                let got = stop.len();
                return fail(
                    "stop",
                    format!("expected strings of 1 to {MAX_STOP_STRING_BYTES} bytes, got {got}"),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_field_that_is_out_of_range() {
        let bad = |change: fn(&mut SamplingParams)| {
            let mut params = SamplingParams::default();
            change(&mut params);
            params.validate().unwrap_err().param
        };
        assert_eq!(bad(|p| p.temperature = f32::NAN), "temperature");
        assert_eq!(bad(|p| p.temperature = -0.1), "temperature");
        assert_eq!(bad(|p| p.top_p = 0.0), "top_p");
        assert_eq!(bad(|p| p.top_p = f32::NAN), "top_p");
        assert_eq!(bad(|p| p.min_p = 1.5), "min_p");
        assert_eq!(bad(|p| p.top_k = Some(0)), "top_k");
        assert_eq!(bad(|p| p.max_tokens = Some(0)), "max_tokens");
        assert_eq!(bad(|p| p.stop = vec![String::new()]), "stop");
        assert_eq!(SamplingParams::default().validate(), Ok(()));
    }
}
