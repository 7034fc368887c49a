//! From the hidden states of a prompt's tokens to one vector for the whole prompt.
//!
//! ```text
//! tokens        a     b     c     d
//! hidden       h0    h1    h2    h3      [hidden_size] each, after the last norm
//! last                           h3      one row: a prefix may come from the cache
//! mean         (h0 + h1 + h2 + h3) / 4   every row: the whole prompt is computed
//! ```
//!
//! What this module deliberately does not do: it scales nothing to length 1 and cuts nothing off;
//! that is the endpoint's.

/// How the hidden states of a prompt become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// That of the last token, which has seen all the others.
    Last,
    /// The mean over all tokens.
    Mean,
}

/// The hidden states of one prompt, as they come.
#[derive(Clone, Debug)]
pub(crate) struct Pooler {
    pooling: Pooling,
    /// Sums, in 64 bits: prompts are long.
    sum: Vec<f64>,
    num_rows: usize,
}

impl Pooler {
    /// Without any rows.
    pub(crate) fn new(pooling: Pooling) -> Self {
        Self { pooling, sum: Vec::new(), num_rows: 0 }
    }

    /// How many tokens' rows are wanted of a prompt of that many, besides the last one's.
    pub(crate) fn num_rows_of(&self, num_prompt_tokens: usize) -> usize {
        match self.pooling {
            Pooling::Last => 0,
            Pooling::Mean => num_prompt_tokens,
        }
    }

    /// Takes the row of the token at `position`. One that is computed again, because its blocks were
    /// lost, counts once.
    pub(crate) fn add(&mut self, position: usize, row: &[f32]) {
        match self.pooling {
            Pooling::Last => {
                self.sum.clear();
                self.sum.extend(row.iter().map(|&value| f64::from(value)));
                self.num_rows = 1;
            }
            Pooling::Mean if position == self.num_rows => {
                self.sum.resize(row.len(), 0.0);
                for (sum, &value) in self.sum.iter_mut().zip(row) {
                    *sum += f64::from(value);
                }
                self.num_rows += 1;
            }
            Pooling::Mean => {}
        }
    }

    /// The vector of the prompt; empty without rows.
    pub(crate) fn finish(&self) -> Vec<f32> {
        let count = self.num_rows.max(1) as f64;
        self.sum.iter().map(|sum| (sum / count) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_or_the_mean_of_all() {
        let pooled = |pooling, rows: &[(usize, [f32; 2])]| {
            let mut pooler = Pooler::new(pooling);
            for (position, row) in rows {
                pooler.add(*position, row);
            }
            pooler.finish()
        };
        let rows = [(0, [1.0, 2.0]), (1, [3.0, -6.0])];
        assert_eq!(pooled(Pooling::Last, &rows), [3.0, -6.0]);
        assert_eq!(pooled(Pooling::Mean, &rows), [2.0, -2.0]);
        let again = [rows[0], rows[0], rows[1], rows[0]];
        assert_eq!(pooled(Pooling::Mean, &again), [2.0, -2.0], "what comes again counts once");
        assert!(pooled(Pooling::Mean, &[]).is_empty());
    }
}
