//! What one launch gave: checked before anything is read from it.
//!
//! ```text
//! Rows::Logits     row 0: [ tokens .. | more columns ]     cut off after the vocabulary
//! Rows::TopK       row 0: [ 7 900 3 12 ]                   columns beyond it dropped: [ 7 3 12 ]
//! ```
//!
//! A graph may compute more columns than the vocabulary has tokens. They are never sampled. Where
//! they take so many of the largest places that too few tokens are left, the launch is run again
//! for all its logits: rare, and dear, but the token stays the right one.
//!
//! What this module deliberately does not do: it looks at no value; whether logits are numbers is
//! the sampler's question.

use crate::backend::{Output, Rows, Wanted};

use super::sampling::Row;

/// Why a launch gave no logits; the text is for the request's owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the step failed: {0}")]
pub(crate) struct RunError(String);

impl RunError {
    /// What a device said.
    pub(crate) fn new(what: &impl ToString) -> Self {
        Self(what.to_string())
    }
}

/// Columns of a row of logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Columns {
    /// The first so many stand for tokens.
    pub(crate) tokens: usize,
    /// How many there are at least.
    pub(crate) all: usize,
}

/// What one launch gave. The buffers are kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct LaunchResult {
    output: Output,
    /// Values of a row of the buffer that was filled.
    row_len: usize,
    /// By row, where only the largest are known: how many of them stand for tokens, at the front.
    num_candidates: Vec<Result<usize, RunError>>,
    columns: Columns,
    failure: Option<RunError>,
}

impl LaunchResult {
    /// What the next launch is to write to.
    pub(crate) fn output_mut(&mut self) -> &mut Output {
        self.failure = None;
        &mut self.output
    }

    /// The launch failed.
    pub(crate) fn fail(&mut self, error: RunError) {
        self.failure = Some(error);
    }

    /// Takes what a device wrote, in `num_rows` rows of which the first `num_sampled` are read.
    /// `false` when all logits are needed after all.
    ///
    /// # Errors
    /// When it is not what was wanted.
    pub(crate) fn accept(
        &mut self,
        wanted: Wanted,
        num_rows: usize,
        num_sampled: usize,
        columns: Columns,
    ) -> Result<bool, RunError> {
        self.columns = columns;
        let needed = match wanted {
            Wanted::Logits => usize::MAX,
            Wanted::TopK(k) => k,
            Wanted::Argmax => 1,
        };
        let k = match self.output.rows {
            Rows::Logits => {
                self.row_len = self.check_logits(num_rows, columns)?;
                return Ok(true);
            }
            Rows::TopK { k } => k,
            Rows::Argmax => 1,
        };
        self.check_top(num_rows, k, needed)?;
        self.row_len = k;
        self.num_candidates.clear();
        let rows = self.output.values.chunks_exact_mut(k);
        let rows = rows.zip(self.output.indices.chunks_exact_mut(k)).take(num_sampled);
        self.num_candidates
            .extend(rows.map(|(values, indices)| keep_tokens(values, indices, columns)));
        let needed = needed.min(columns.tokens);
        Ok(self.num_candidates.iter().flatten().all(|&num_candidates| num_candidates >= needed))
    }

    fn check_logits(&self, num_rows: usize, columns: Columns) -> Result<usize, RunError> {
        let num_logits = self.output.logits.len();
        let row_len = num_logits / num_rows;
        if row_len < columns.tokens || !num_logits.is_multiple_of(num_rows) {
            let tokens = columns.tokens;
            return Err(RunError(format!(
                "expected {num_rows} rows of at least {tokens} logits, got {num_logits} in all"
            )));
        }
        Ok(row_len)
    }

    fn check_top(&self, num_rows: usize, k: usize, needed: usize) -> Result<(), RunError> {
        let (num_values, num_indices) = (self.output.values.len(), self.output.indices.len());
        let expected = num_rows.checked_mul(k);
        if k < needed || expected != Some(num_values) || expected != Some(num_indices) {
            let needed = if needed == usize::MAX { "all".to_owned() } else { needed.to_string() };
            return Err(RunError(format!(
                "expected the largest logits of {num_rows} rows, {needed} of each, got {k} of each: \
                 {num_values} values, {num_indices} indices"
            )));
        }
        Ok(())
    }

    /// The launch's own failure.
    pub(crate) fn check(&self) -> Result<(), &RunError> {
        self.failure.as_ref().map_or(Ok(()), Err)
    }

    /// One row of a launch that did not fail.
    ///
    /// # Errors
    /// When the device gave an index in that row that no column has.
    pub(crate) fn row(&self, row: usize) -> Result<Row<'_>, &RunError> {
        let start = row * self.row_len;
        if self.output.rows == Rows::Logits {
            return Ok(Row::Logits(&self.output.logits[start..][..self.columns.tokens]));
        }
        let num_candidates = *self.num_candidates[row].as_ref()?;
        Ok(Row::Top {
            values: &self.output.values[start..][..num_candidates],
            indices: &self.output.indices[start..][..num_candidates],
        })
    }
}

/// Moves the candidates that stand for tokens to the front; how many there are.
fn keep_tokens(
    values: &mut [f32],
    indices: &mut [i32],
    columns: Columns,
) -> Result<usize, RunError> {
    let mut num_kept = 0;
    for place in 0..indices.len() {
        let index = indices[place];
        let column = usize::try_from(index).ok().filter(|column| *column < columns.all);
        let Some(column) = column else {
            let all = columns.all;
            return Err(RunError(format!("expected an index below {all}, got {index}")));
        };
        if column < columns.tokens {
            values.swap(num_kept, place);
            indices.swap(num_kept, place);
            num_kept += 1;
        }
    }
    Ok(num_kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns { tokens: 10, all: 12 };

    fn top(k: usize, values: &[f32], indices: &[i32]) -> LaunchResult {
        let rows = Rows::TopK { k };
        let output =
            Output { rows, values: values.into(), indices: indices.into(), logits: Vec::new() };
        LaunchResult { output, ..LaunchResult::default() }
    }

    fn message(mut result: LaunchResult, wanted: Wanted, num_rows: usize) -> String {
        result.accept(wanted, num_rows, num_rows, COLUMNS).unwrap_err().to_string()
    }

    #[test]
    fn columns_that_stand_for_no_token_are_dropped() {
        let mut result = top(3, &[5.0, 4.0, 3.0, 8.0, 7.0, 6.0], &[11, 2, 9, 0, 10, 1]);
        assert_eq!(result.accept(Wanted::TopK(2), 2, 2, COLUMNS), Ok(true));
        let row = |row| match result.row(row).unwrap() {
            Row::Top { values, indices } => (values.to_vec(), indices.to_vec()),
            Row::Logits(_) => panic!("the largest were asked for"),
        };
        assert_eq!(row(0), (vec![4.0, 3.0], vec![2, 9]));
        assert_eq!(row(1), (vec![8.0, 6.0], vec![0, 1]));
    }

    #[test]
    fn all_logits_are_needed_when_too_few_tokens_are_left() {
        let accept = |wanted, num_sampled| {
            let mut result = top(2, &[5.0, 4.0, 8.0, 7.0], &[3, 4, 11, 2]);
            result.accept(wanted, 2, num_sampled, COLUMNS)
        };
        assert_eq!(accept(Wanted::TopK(2), 2), Ok(false));
        assert_eq!(accept(Wanted::TopK(2), 1), Ok(true), "the second row is not read");
        assert_eq!(accept(Wanted::Argmax, 2), Ok(true));
    }

    #[test]
    fn an_index_that_no_column_has_is_the_trouble_of_its_row() {
        for bad in [12, -1, i32::MIN] {
            let mut result = top(1, &[5.0, 4.0], &[3, bad]);
            assert_eq!(result.accept(Wanted::Argmax, 2, 2, COLUMNS), Ok(true));
            assert!(result.row(0).is_ok());
            let error = result.row(1).unwrap_err().to_string();
            assert_eq!(error, format!("the step failed: expected an index below 12, got {bad}"));
        }
    }

    #[test]
    fn a_device_that_gives_less_than_was_wanted_is_an_error() {
        let two = || top(2, &[2.0, 1.0], &[0, 1]);
        assert_eq!(
            message(two(), Wanted::TopK(3), 1),
            "the step failed: expected the largest logits of 1 rows, 3 of each, got 2 of each: \
             2 values, 2 indices"
        );
        assert!(message(two(), Wanted::Logits, 1).contains("1 rows, all of each, got 2"));
        assert!(message(two(), Wanted::TopK(2), 2).contains("2 values, 2 indices"));
        assert!(message(top(2, &[2.0, 1.0], &[0]), Wanted::TopK(2), 1).contains("1 indices"));
        assert!(message(top(0, &[], &[]), Wanted::Argmax, 1).contains("got 0 of each"));
        assert!(message(top(usize::MAX, &[], &[]), Wanted::Argmax, 2).contains("2 rows"));
    }
}
