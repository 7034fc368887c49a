//! Lengths of requests from a file of JSON lines.
//!
//! ```text
//! {"prompt_tokens": 812, "output_tokens": 96}
//! {"prompt_tokens": 40, "output_tokens": 310, "other keys": "are ignored"}
//! ```
//!
//! What this module deliberately does not do: it takes no arrival times; those come from the rate.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// Longest line: many times what two numbers need.
const MAX_LINE_BYTES: u64 = 1 << 16;
/// Most lines that are kept.
const MAX_LINES: usize = 1 << 22;

#[derive(Debug, Deserialize)]
struct Line {
    prompt_tokens: usize,
    output_tokens: usize,
}

/// Reads the lengths of prompt and answer of each request.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<(usize, usize)>> {
    let file = fs_err::File::open(path).context("opening the trace")?;
    parse(BufReader::new(file)).with_context(|| format!("reading {}", path.display()))
}

fn parse(mut reader: impl std::io::BufRead) -> anyhow::Result<Vec<(usize, usize)>> {
    let (mut lengths, mut text) = (Vec::new(), Vec::new());
    for number in 1_usize.. {
        text.clear();
        let num_bytes = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
        if num_bytes == 0 {
            break;
        }
        ensure!(
            (num_bytes as u64) < MAX_LINE_BYTES,
            "line {number} is too long: expected less than {MAX_LINE_BYTES} bytes"
        );
        if text.trim_ascii().is_empty() {
            continue;
        }
        ensure!(lengths.len() < MAX_LINES, "expected at most {MAX_LINES} requests, got more");
        let line: Line = serde_json::from_slice(&text).with_context(|| {
            format!("line {number}: expected an object with `prompt_tokens` and `output_tokens`")
        })?;
        let Line { prompt_tokens, output_tokens } = line;
        ensure!(
            prompt_tokens > 0 && output_tokens > 0,
            "line {number}: expected at least one token of prompt and of output, got \
             {prompt_tokens} and {output_tokens}"
        );
        lengths.push((prompt_tokens, output_tokens));
    }
    ensure!(!lengths.is_empty(), "expected at least one request, got none");
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_pairs() {
        let text = "{\"prompt_tokens\": 8, \"output_tokens\": 9, \"x\": 1}\n\n\
                    {\"output_tokens\": 2, \"prompt_tokens\": 1}";
        assert_eq!(parse(text.as_bytes()).unwrap(), [(8, 9), (1, 2)]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let message = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(message("\n"), "expected at least one request, got none");
        assert!(message("\n{\"prompt_tokens\": 8}").starts_with("line 2: expected an object"));
        assert!(message("{\"prompt_tokens\": 0, \"output_tokens\": 1}").contains("got 0 and 1"));
        assert!(message(&" ".repeat(70_000)).starts_with("line 1 is too long"));
    }
}
