//! The only code that writes to stdout and stderr: data to the one, talk to the other.
//!
//! ```text
//! data --> Stdout --ok--------> what a script reads
//!                 `-no reader-> StdoutClosed: ends the command quietly, as `head` users expect
//! say  --> stderr, whatever becomes of it
//! ```
//!
//! What this module deliberately does not do: colours, and logs (see [`telemetry`]).
//!
//! [`telemetry`]: crate::telemetry

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anyhow::Context as _;
use serde::Serialize;

/// Nobody reads stdout any more.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub(crate) struct StdoutClosed;

/// Writes text to stdout as it is, and makes sure that it got there.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        written => written.context("writing to stdout"),
    }
}

/// Stdout, for data that is not text. Whoever writes to it flushes it. That nobody reads it is a
/// failure here: half of such data is of no use.
pub(crate) fn data() -> impl Write {
    io::BufWriter::new(io::stdout().lock())
}

/// Writes a value to stdout as one indented JSON document and a line break.
pub(crate) fn write_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("encoding JSON")?;
    text.push('\n');
    write(&text)
}

/// Writes a line to stderr. When that is closed there is nobody to tell.
pub(crate) fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether a person may be watching stderr.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Lines up columns: the first to the left, the others to the right, two spaces between.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Appends a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.rows.push(cells.map(str::to_owned).to_vec());
    }

    /// Appends a row of as many cells as there are.
    pub(crate) fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let num_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width_of = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..num_columns).map(width_of).collect();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    write!(f, "{cell:<width$}")?;
                } else {
                    write!(f, "  {cell:>width$}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_its_columns() {
        let mut table = Table::default();
        table.row(["", "median", "max"]);
        table.row(["prefill", "1234.5", "2.0"]);
        assert_eq!(table.to_string(), "         median  max\nprefill  1234.5  2.0\n");
    }
}
