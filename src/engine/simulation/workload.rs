//! Who comes when, with how many tokens.
//!
//! | What | How |
//! | --- | --- |
//! | arrivals | a Poisson process: gaps are exponential |
//! | lengths | log-normal around a mean, or pairs from a trace, in order and over again |
//! | tokens | a function of request and place, so that nothing is shared by chance; a share of the prompts begins with one of a few common prefixes, each as likely as the others |
//!
//! Each has a random stream of its own: another rate changes no length, and another share of common
//! prefixes no arrival.
//!
//! What this module deliberately does not do: nobody leaves early, and no answer depends on the
//! tokens.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{SimulationError, check, nanos};

/// Requests that will arrive.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Requests a second, on average; above 0.
    pub rate: f64,
    /// How many arrive; at least 1.
    pub num_requests: usize,
    /// How long they are.
    pub lengths: Lengths,
    /// What prompts have in common.
    pub prefixes: CommonPrefixes,
    /// Of all that is random.
    pub seed: u64,
}

/// How many tokens requests have.
#[derive(Clone, Debug, PartialEq)]
pub enum Lengths {
    /// Drawn, independently of each other.
    LogNormal {
        /// Tokens of a prompt.
        prompt: LogNormal,
        /// Tokens of an answer.
        output: LogNormal,
    },
    /// Of prompt and answer, in order, and over again.
    Trace(Vec<(usize, usize)>),
}

/// A distribution of lengths whose logarithm is normal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogNormal {
    /// The mean length in tokens, not that of the logarithm; at least 1.
    pub mean: f64,
    /// Standard deviation of the natural logarithm; 0: all are of the mean length.
    pub sigma: f64,
}

/// Beginnings that prompts share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CommonPrefixes {
    /// How many there are.
    pub num_prefixes: usize,
    /// Tokens of each; a prompt that is not longer has all but its last token from it.
    pub num_tokens: usize,
    /// Share of the prompts that begin with one, 0 to 1.
    pub share: f64,
}

/// A request to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) at: u64,
    pub(super) num_prompt_tokens: usize,
    pub(super) num_output_tokens: usize,
    /// Which common prefix its prompt begins with.
    prefix: Option<usize>,
    /// Tokens that come from it.
    num_prefix_tokens: usize,
    /// Whether it was longer than a sequence may be.
    pub(super) is_clipped: bool,
}

impl Workload {
    /// Checks that every number is in range.
    ///
    /// # Errors
    /// [`SimulationError::Invalid`] names the first that is not.
    pub fn check(&self) -> Result<(), SimulationError> {
        check("rate", self.rate, "a number above 0", |rate| rate > 0.0)?;
        let num_requests = self.num_requests as f64;
        check("number of requests", num_requests, "at least 1", |number| number >= 1.0)?;
        check("share of common prefixes", self.prefixes.share, "a number from 0 to 1", |share| {
            (0.0..=1.0).contains(&share)
        })?;
        match &self.lengths {
            Lengths::LogNormal { prompt, output } => {
                for length in [prompt, output] {
                    check("mean length", length.mean, "at least 1", |mean| mean >= 1.0)?;
                    let is_good = |sigma| (0.0..=4.0).contains(&sigma);
                    check("sigma of lengths", length.sigma, "a number from 0 to 4", is_good)?;
                }
            }
            Lengths::Trace(pairs) => {
                let smallest = pairs.iter().map(|&(prompt, output)| prompt.min(output)).min();
                let expected = "a pair of lengths of at least 1";
                check("trace", smallest.unwrap_or(0) as f64, expected, |least| least >= 1.0)?;
            }
        }
        Ok(())
    }

    /// All requests, in order of arrival, none longer than a sequence may be.
    pub(super) fn arrivals(&self, max_model_len: usize) -> Vec<Arrival> {
        let stream = |stream| {
            let mut random = ChaCha8Rng::seed_from_u64(self.seed);
            random.set_stream(stream);
            Random(random)
        };
        let [mut gaps, mut lengths, mut prefixes] = [0, 1, 2].map(stream);
        let mut at = 0.0;
        (0..self.num_requests)
            .map(|idx| {
                at += gaps.exponential() / self.rate;
                let (prompt, output) = self.lengths.draw(idx, &mut lengths);
                let num_prompt_tokens = prompt.min(max_model_len - 1);
                let num_output_tokens = output.min(max_model_len - num_prompt_tokens);
                let prefix = self.prefixes.draw(&mut prefixes);
                Arrival {
                    at: nanos(at),
                    num_prompt_tokens,
                    num_output_tokens,
                    prefix,
                    num_prefix_tokens: self.prefixes.num_tokens.min(num_prompt_tokens - 1),
                    is_clipped: (num_prompt_tokens, num_output_tokens) != (prompt, output),
                }
            })
            .collect()
    }
}

impl Arrival {
    /// One of the request's tokens, prompt or answer.
    pub(super) fn token(&self, request_idx: usize, place: usize, vocab_size: usize) -> u32 {
        let owner = match self.prefix {
            Some(prefix) if place < self.num_prefix_tokens => u64::MAX - prefix as u64,
            _ => request_idx as u64,
        };
        let mixed = mix(mix(owner).wrapping_add(place as u64));
        (mixed % vocab_size.max(1) as u64) as u32
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Lengths {
    fn draw(&self, idx: usize, random: &mut Random) -> (usize, usize) {
        match self {
            Self::LogNormal { prompt, output } => (prompt.draw(random), output.draw(random)),
            Self::Trace(pairs) => pairs[idx % pairs.len()],
        }
    }
}

impl LogNormal {
    fn draw(self, random: &mut Random) -> usize {
        // The mean of a log-normal is exp(mu + sigma^2 / 2).
        let mu = self.mean.ln() - self.sigma * self.sigma / 2.0;
        (mu + self.sigma * random.normal()).exp().round().max(1.0) as usize
    }
}

impl CommonPrefixes {
    fn draw(self, random: &mut Random) -> Option<usize> {
        // Both are drawn, whatever comes of them: the next request finds the stream at its place.
        let (is_common, which) = (random.uniform() <= self.share, random.uniform());
        if !is_common || self.share <= 0.0 || self.num_prefixes == 0 {
            return None;
        }
        Some(((which * self.num_prefixes as f64) as usize).min(self.num_prefixes - 1))
    }
}

/// Random numbers of several distributions.
struct Random(ChaCha8Rng);

impl Random {
    /// Above 0 and at most 1.
    fn uniform(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Of mean 1.
    fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    /// Of mean 0 and deviation 1 (Box and Muller, 1958).
    fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        let prompt = LogNormal { mean: 500.0, sigma: 0.7 };
        let output = LogNormal { mean: 100.0, sigma: 0.0 };
        Workload {
            rate: 4.0,
            num_requests: 4000,
            lengths: Lengths::LogNormal { prompt, output },
            prefixes: CommonPrefixes { num_prefixes: 3, num_tokens: 200, share: 0.5 },
            seed: 7,
        }
    }

    #[test]
    fn means_are_what_was_asked_for() {
        let arrivals = workload().arrivals(100_000);
        let mean = |value: fn(&Arrival) -> usize| {
            arrivals.iter().map(value).sum::<usize>() as f64 / arrivals.len() as f64
        };
        let rate = arrivals.len() as f64 / super::super::seconds(arrivals.last().unwrap().at);
        assert!((rate / 4.0 - 1.0).abs() < 0.05, "{rate}");
        let prompt = mean(|arrival| arrival.num_prompt_tokens);
        assert!((prompt / 500.0 - 1.0).abs() < 0.05, "{prompt}");
        assert!(arrivals.iter().all(|arrival| arrival.num_output_tokens == 100));
        let share = mean(|arrival| usize::from(arrival.prefix.is_some()));
        assert!((share - 0.5).abs() < 0.05, "{share}");
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
    }

    #[test]
    fn another_rate_brings_the_same_requests() {
        let (slow, fast) = (workload(), Workload { rate: 8.0, ..workload() });
        for (slow, fast) in slow.arrivals(4096).iter().zip(&fast.arrivals(4096)) {
            assert!(slow.at.abs_diff(2 * fast.at) <= 2);
            assert_eq!(Arrival { at: 0, ..*slow }, Arrival { at: 0, ..*fast });
        }
    }

    #[test]
    fn prompts_share_their_prefix_and_nothing_else() {
        let arrivals = workload().arrivals(100_000);
        let with = |prefix| {
            let all = arrivals.iter().enumerate();
            all.filter(move |(_, arrival)| arrival.prefix == prefix).take(2)
        };
        let tokens = |(idx, arrival): (usize, &Arrival)| {
            (0..arrival.num_prompt_tokens).map(|place| arrival.token(idx, place, 151_936)).collect()
        };
        for prefix in [Some(0), Some(2), None] {
            let [first, second]: [Vec<u32>; 2] =
                with(prefix).map(tokens).collect::<Vec<_>>().try_into().unwrap();
            let common = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
            let expected =
                if prefix.is_some() { 200.min(first.len() - 1).min(second.len() - 1) } else { 0 };
            assert_eq!(common, expected);
        }
    }

    #[test]
    fn what_is_too_long_is_clipped() {
        let lengths = Lengths::Trace(vec![(10, 20), (90, 20), (500, 20)]);
        let arrivals = Workload { lengths, num_requests: 4, ..workload() }.arrivals(100);
        let lengths = arrivals.iter().map(|arrival| {
            (arrival.num_prompt_tokens, arrival.num_output_tokens, arrival.is_clipped)
        });
        let expected = [(10, 20, false), (90, 10, true), (99, 1, true), (10, 20, false)];
        assert_eq!(lengths.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let message = |change: fn(&mut Workload)| {
            let mut workload = workload();
            change(&mut workload);
            workload.check().unwrap_err().to_string()
        };
        workload().check().unwrap();
        let message_of_rate = "invalid rate: expected a number above 0, got 0";
        assert_eq!(message(|workload| workload.rate = 0.0), message_of_rate);
        assert!(message(|workload| workload.prefixes.share = 2.0).contains("share"));
        assert!(message(|workload| workload.lengths = Lengths::Trace(vec![])).contains("trace"));
        assert!(message(|workload| workload.num_requests = 0).contains("requests"));
    }
}
