//! What a request asks of the sampler, checked once at the door.
//!
//! | Part | Fields |
//! | --- | --- |
//! | which logits | `allowed_token_ids`, `bad_words`, `min_tokens`, `logit_bias`, the penalties |
//! | which token | `temperature`, `top_k`, `top_p`, `min_p`, `seed`, or `beam` |
//! | how many texts | `n`, `best_of` |
//! | how far | `max_tokens`, `stop`, `stop_token_ids`, `ignore_eos` |
//! | what is told | `logprobs`, `prompt_logprobs`, `include_stop_str_in_output`, `skip_special_tokens` |
//!
//! What this module deliberately does not do: words, since it has no tokenizer, and JSON.

/// How many texts, or beams, one request may ask for.
pub const MAX_CHOICES: usize = 128;
/// How many stop strings one request may carry.
pub const MAX_STOP_STRINGS: usize = 64;
/// Bytes of one stop string.
pub const MAX_STOP_STRING_BYTES: usize = 4096;
/// How many tokens `logit_bias` may name.
pub const MAX_LOGIT_BIASES: usize = 4096;
/// The largest bias; stronger ones are taken for it.
pub const MAX_ABS_LOGIT_BIAS: f32 = 100.0;
/// How many sequences `bad_words` may hold.
pub const MAX_BAD_WORDS: usize = 1024;
/// Tokens of one of them.
pub const MAX_BAD_WORD_TOKENS: usize = 128;
/// How many of the likeliest tokens may be told for each token.
pub const MAX_LOGPROBS: usize = 20;

/// How to choose tokens and when to stop. Names and meanings follow vLLM's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// How many texts to return; 1 to [`MAX_CHOICES`]. Without randomness they are all alike.
    pub n: usize,
    /// How many texts to generate, of which the `n` likeliest are returned; at least `n`. `None`: `n`.
    pub best_of: Option<usize>,
    /// Most tokens to generate, at least 1; `None`: as many as the context still holds.
    pub max_tokens: Option<u64>,
    /// Tokens to generate before one may end the text; at most `max_tokens`.
    pub min_tokens: usize,
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
    /// Taken off the logit of each token that was generated; -2 to 2.
    pub presence_penalty: f32,
    /// Taken off the logit of a token for each time it was generated; -2 to 2.
    pub frequency_penalty: f32,
    /// Divides the logit of each token of prompt and output, or multiplies it if it is not above
    /// zero; finite, above zero, 1 for no penalty.
    pub repetition_penalty: f32,
    /// Added to the logits of tokens, of each as often as it is named; finite, and taken for
    /// [`MAX_ABS_LOGIT_BIAS`] beyond it. At most [`MAX_LOGIT_BIASES`].
    pub logit_bias: Vec<(u32, f32)>,
    /// Token sequences that must not be generated: the last token of one is forbidden where the
    /// output ends with the others. At most [`MAX_BAD_WORDS`] of 1 to [`MAX_BAD_WORD_TOKENS`] tokens.
    pub bad_words: Vec<Vec<u32>>,
    /// The only tokens that may be generated, at least one; `None`: all.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Tell the log probability of each token, and of so many of the likeliest; 0 to
    /// [`MAX_LOGPROBS`].
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Search for the likeliest texts rather than draw one.
    pub beam: Option<BeamParams>,
    /// Generation ends before the first of these strings.
    pub stop: Vec<String>,
    /// The stop string that ended the text is part of the output.
    pub include_stop_str_in_output: bool,
    /// Special tokens have no text. Without it they have, but for those that end the text.
    pub skip_special_tokens: bool,
    /// Generation ends at the first of these tokens; it is not part of the output text.
    pub stop_token_ids: Vec<u32>,
    /// Go on after the model's own end-of-text tokens.
    pub ignore_eos: bool,
}

/// A beam search. `temperature`, `top_k`, `top_p`, `min_p` and `seed` then have no effect, as in
/// vLLM: beams are compared by the model's own probabilities, after all that changes logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamParams {
    /// Beams that are followed, and the most texts that are found; 1 to [`MAX_CHOICES`].
    pub width: usize,
    /// Texts are compared by their log probability over their length to this power: above zero
    /// favours long ones, below zero short ones; -10 to 10.
    pub length_penalty: f32,
    /// End as soon as `width` texts are found, rather than when no better one can be.
    pub early_stopping: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            n: 1,
            best_of: None,
            max_tokens: None,
            min_tokens: 0,
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            seed: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            bad_words: Vec::new(),
            allowed_token_ids: None,
            logprobs: None,
            prompt_logprobs: None,
            beam: None,
            stop: Vec::new(),
            include_stop_str_in_output: false,
            skip_special_tokens: true,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
        }
    }
}

impl SamplingParams {
    /// How many sequences run at once for one prompt: beams, or texts of which `n` are returned.
    pub fn num_sequences(&self) -> usize {
        self.beam.map_or(self.best_of.unwrap_or(self.n), |beam| beam.width)
    }

    /// How many of the likeliest tokens are needed with each generated token; `None`: not even its
    /// own log probability. The best of several texts are found by that.
    pub fn num_token_logprobs(&self) -> Option<usize> {
        let chooses_texts = self.beam.is_none() && self.num_sequences() > self.n;
        self.logprobs.or(chooses_texts.then_some(0))
    }

    /// Whether a penalty asks for the counts of tokens.
    #[expect(clippy::float_cmp, reason = "these are the values that mean no penalty")]
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
    }

    /// Whether logits may be changed before a token is chosen.
    pub(super) fn changes_logits(&self) -> bool {
        self.has_penalties()
            || self.min_tokens > 0
            || self.allowed_token_ids.is_some()
            || !self.logit_bias.is_empty()
            || !self.bad_words.is_empty()
    }
}
