//! The arithmetic of beam search: which beams go on, which texts are found, which are best.
//!
//! ```text
//! live beams        each offers its 2 width likeliest tokens      advance
//!   "the"    -1.2     "cat" -0.3   "dog" -1.5   stop -2.0   -->     "the cat"  -1.5   live
//!   "a"      -1.6     "cat" -0.9   stop  -1.0   ...                 "a cat"    -2.5   live
//!                                                                   "a"  stop  -2.6   found
//!                                                                   "the" stop -3.2   found
//! score = log probability / length ^ length_penalty,  length = tokens of prompt and text, no stop
//! ```
//!
//! The definition is vLLM's (`vllm/beam_search.py` and its use in `entrypoints`): every offered stop
//! token makes a text, the `width` likeliest others go on, at `max_tokens` those are texts too, and
//! the best scores win. vLLM always goes on to the end. This search also ends when no live beam can
//! become one of the `width` best any more, which gives the same texts; and, with `early_stopping`,
//! as soon as it has found `width`. Among equals the likelier beam's, then the likelier token, and
//! among texts the one found first, is better.
//!
//! Only stop tokens end a text. Where the model's are ignored, they are tokens like all others.
//!
//! What this module deliberately does not do: it knows no logits, no KV blocks and no text.

use std::cmp::Ordering;

use super::params::BeamParams;

/// The node of the empty text.
const ROOT: u32 = 0;

/// A token of a text; texts share their beginnings.
#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    token_id: u32,
    logprob: f64,
}

#[derive(Clone, Copy, Debug)]
struct Beam {
    node: u32,
    /// Of all its tokens together.
    logprob: f64,
}

/// What a beam could become.
#[derive(Clone, Copy, Debug)]
struct Offer {
    beam_idx: usize,
    token_id: u32,
    token_logprob: f64,
    logprob: f64,
    /// Offers before it in this step.
    order: usize,
}

impl Offer {
    fn likelier(&self, other: &Self) -> Ordering {
        other.logprob.total_cmp(&self.logprob).then(self.order.cmp(&other.order))
    }
}

#[derive(Clone, Copy, Debug)]
struct Found {
    node: u32,
    logprob: f64,
    score: f64,
    is_stopped: bool,
}

/// How a live beam came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BeamStep {
    /// Which of the live beams before it continues.
    pub(crate) parent: usize,
    /// The token it continues that one with.
    pub(crate) token_id: u32,
}

/// A text that was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hypothesis {
    /// Its tokens, with the stop token if one ended it.
    pub(crate) token_ids: Vec<u32>,
    /// The log probability of each.
    pub(crate) logprobs: Vec<f64>,
    /// The sum of these.
    pub(crate) cumulative_logprob: f64,
    /// What texts are compared by.
    pub(crate) score: f64,
    /// Whether a stop token ended it, rather than its length.
    pub(crate) is_stopped: bool,
}

/// A search for one prompt.
#[derive(Clone, Debug)]
pub(crate) struct BeamSearch {
    params: BeamParams,
    stop_token_ids: Vec<u32>,
    prompt_len: usize,
    max_tokens: usize,
    /// Tokens that each live beam has generated.
    num_tokens: usize,
    nodes: Vec<Node>,
    /// Likeliest first.
    live: Vec<Beam>,
    /// The live beams of the step before.
    parents: Vec<Beam>,
    offers: Vec<Offer>,
    steps: Vec<BeamStep>,
    /// Best first, the `width` best of them.
    found: Vec<Found>,
}

impl BeamSearch {
    /// A search with one live beam: the prompt, of `prompt_len` tokens. Texts have at most
    /// `max_tokens` tokens, which is above zero, and end with any of the stop tokens.
    pub(crate) fn new(
        params: BeamParams,
        stop_token_ids: &[u32],
        prompt_len: usize,
        max_tokens: usize,
    ) -> Self {
        Self {
            params,
            stop_token_ids: stop_token_ids.to_vec(),
            prompt_len,
            max_tokens,
            num_tokens: 0,
            nodes: vec![Node { parent: ROOT, token_id: 0, logprob: 0.0 }],
            live: vec![Beam { node: ROOT, logprob: 0.0 }],
            parents: Vec::new(),
            offers: Vec::new(),
            steps: Vec::new(),
            found: Vec::new(),
        }
    }

    /// How many continuations each live beam should offer.
    pub(crate) fn num_candidates(&self) -> usize {
        2 * self.params.width
    }

    /// Live beams; none once the search has ended.
    #[cfg(test)]
    pub(crate) fn num_live(&self) -> usize {
        self.live.len()
    }

    /// Tokens and log probabilities that may continue a live beam, likeliest first. Each beam
    /// offers once a step.
    pub(crate) fn offer(&mut self, beam_idx: usize, candidates: &[(u32, f64)]) {
        let beam = self.live[beam_idx];
        for &(token_id, token_logprob) in candidates {
            // Rounding must not make a text likelier than its beginning.
            let token_logprob = token_logprob.min(0.0);
            let logprob = beam.logprob + token_logprob;
            if self.stop_token_ids.contains(&token_id) {
                let node = add_node(&mut self.nodes, beam.node, token_id, token_logprob);
                self.found.push(Found {
                    node,
                    logprob,
                    score: self.score(logprob, self.num_tokens),
                    is_stopped: true,
                });
            } else {
                let order = self.offers.len();
                self.offers.push(Offer { beam_idx, token_id, token_logprob, logprob, order });
            }
        }
    }

    /// Ends a step: the next live beams, likeliest first; none when the search has ended.
    pub(crate) fn advance(&mut self) -> &[BeamStep] {
        self.num_tokens += 1;
        let width = self.params.width;
        if self.offers.len() > width {
            self.offers.select_nth_unstable_by(width, Offer::likelier);
            self.offers.truncate(width);
        }
        self.offers.sort_unstable_by(Offer::likelier);
        std::mem::swap(&mut self.live, &mut self.parents);
        self.live.clear();
        self.steps.clear();
        for offer in self.offers.drain(..) {
            let parent = self.parents[offer.beam_idx].node;
            let node = add_node(&mut self.nodes, parent, offer.token_id, offer.token_logprob);
            self.live.push(Beam { node, logprob: offer.logprob });
            self.steps.push(BeamStep { parent: offer.beam_idx, token_id: offer.token_id });
        }
        self.end_if_done();
        &self.steps
    }

    fn end_if_done(&mut self) {
        if self.num_tokens >= self.max_tokens {
            for Beam { node, logprob } in std::mem::take(&mut self.live) {
                let score = self.score(logprob, self.num_tokens);
                self.found.push(Found { node, logprob, score, is_stopped: false });
            }
        }
        // Stable: what was found first stays first among equals.
        self.found.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.found.truncate(self.params.width);
        if self.is_settled() {
            self.live.clear();
        }
        if self.live.is_empty() {
            self.steps.clear();
        }
    }

    /// Whether going on could not change what is returned, or need not.
    fn is_settled(&self) -> bool {
        let (Some(likeliest), Some(worst)) = (self.live.first(), self.found.last()) else {
            return false;
        };
        // A log probability only falls. Dividing it by more brings it closer to zero, and what it
        // is divided by grows with the length or falls with it.
        let best_num_tokens =
            if self.params.length_penalty > 0.0 { self.max_tokens } else { self.num_tokens };
        let is_full = self.found.len() == self.params.width;
        let best_possible = self.score(likeliest.logprob, best_num_tokens);
        is_full && (self.params.early_stopping || worst.score > best_possible)
    }

    /// The best texts, best first: at most `n`, and at most as many as the search is wide.
    pub(crate) fn finish(self, n: usize) -> Vec<Hypothesis> {
        self.found.iter().take(n).map(|found| self.hypothesis(found)).collect()
    }

    fn hypothesis(&self, found: &Found) -> Hypothesis {
        let (mut token_ids, mut logprobs) = (Vec::new(), Vec::new());
        let mut at = found.node;
        while at != ROOT {
            let node = self.nodes[at as usize];
            token_ids.push(node.token_id);
            logprobs.push(node.logprob);
            at = node.parent;
        }
        token_ids.reverse();
        logprobs.reverse();
        Hypothesis {
            token_ids,
            logprobs,
            cumulative_logprob: found.logprob,
            score: found.score,
            is_stopped: found.is_stopped,
        }
    }

    /// The score of a text with so many tokens, a stop token not counted.
    fn score(&self, logprob: f64, num_tokens: usize) -> f64 {
        let len = (self.prompt_len + num_tokens).max(1) as f64;
        logprob / len.powf(f64::from(self.params.length_penalty))
    }
}

fn add_node(nodes: &mut Vec<Node>, parent: u32, token_id: u32, logprob: f64) -> u32 {
    nodes.push(Node { parent, token_id, logprob });
    (nodes.len() - 1) as u32
}
