//! `cairn cache explain`: whether a model's graphs are there, and if not, what differs.
//!
//! ```text
//! hit   decode 8      3f9a62c01b7d  /home/ada/.cache/cairn/graphs, 1.2 MB, compiled in 41.07 s
//! miss  prefill 128   8bc1d06e44f0  not in the cache
//!       the nearest entry is 51d3a9b2c7e8, prefill 128:
//!         field        wanted        nearest entry
//!         backend.soc  Ascend910B4   Ascend910B3
//! ```

use std::fmt::Write as _;

use anyhow::bail;
use cairn_graph_cache::{ClearValue, Difference, Explanation, Found, Nearest};
use clap::Args;
use serde_json::{Value, json};

use super::view;
use crate::cli::boot::ExplainReport;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::model_args::ModelArgs;
use crate::cli::values::display_bytes;
use crate::cli::{Context, boot, output};

/// Most fields that are shown of each graph.
const MAX_FIELDS: usize = 8;
/// A field that there is not.
const ABSENT: &str = "-";

const EXAMPLES: &str = "\
Examples:
  cairn cache explain model.gguf
  cairn cache explain model.gguf --max-num-seqs 64     would other settings need other graphs?
  cairn cache explain model.gguf --check > /dev/null || cairn warmup model.gguf

The settings of the model must be those of the `cairn serve` that is asked about.";

/// Say for each graph of a model whether it is in the cache, and if not, what differs from the entry
/// that is most like it.
///
/// Compiles and loads nothing. Ends with 0 whatever it finds, unless `--check` is given.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    /// Fail unless every graph is there.
    #[arg(long)]
    check: bool,

    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// What stands for the request in the table.
const REQUEST: &str = "request";

/// Runs the command.
pub(super) fn run(args: &ExplainArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.model.engine_config(context)?;
    let report = boot::explain(&config, &*context.progress)?;
    if args.json {
        output::write_json(&to_json(&report))?;
    } else {
        output::write(&to_text(&report))?;
    }
    let (hits, all) = (num_hits(&report), report.graphs.len());
    output::say(format_args!("graphs: {hits} of {all} in the cache; {}", request(&report)));
    if args.check && hits < all {
        let missing = all - hits;
        let fail = || -> anyhow::Result<Outcome> { bail!("{missing} of {all} graphs are missing") };
        return fail().hint("`cairn warmup` with the same model and settings compiles them");
    }
    Ok(Outcome::Done)
}

fn num_hits(report: &ExplainReport) -> usize {
    report.graphs.iter().filter(|(_, graph)| graph.is_hit()).count()
}

/// What the request says, in words.
fn request(report: &ExplainReport) -> String {
    let key = view::short(&report.request_key);
    match (&report.request, report.agrees) {
        (None, _) => format!("request {key} was not made before"),
        (Some(_), true) => format!("request {key} names the same graphs"),
        (Some(_), false) => {
            format!("request {key} names other graphs than those that are needed now: those count")
        }
    }
}

fn to_text(report: &ExplainReport) -> String {
    let notes = report.graphs.iter().map(|(name, _)| view::cell(name));
    let asked = (REQUEST.to_owned(), report.asked.clone());
    let width = notes.map(|note| note.chars().count()).chain([REQUEST.len()]).max().unwrap_or(0);
    let all = std::iter::once(&asked).chain(&report.graphs);
    all.map(|(name, graph)| graph_text(name, graph, width)).collect()
}

fn graph_text(name: &str, graph: &Explanation, width: usize) -> String {
    let (note, key) = (view::cell(name), view::short(&graph.key));
    match &graph.found {
        Found::Hit { place, bytes, compile_ms } => {
            let (size, seconds) = (display_bytes(*bytes), *compile_ms as f64 / 1000.0);
            format!("hit   {note:<width$}  {key}  {place}, {size}, compiled in {seconds:.2} s\n")
        }
        Found::Miss { reason, nearest } => {
            let reason = view::plain(&reason.to_string());
            let mut text = format!("miss  {note:<width$}  {key}  {reason}\n");
            match nearest {
                Some(nearest) => text.push_str(&nearest_text(nearest)),
                None => text.push_str("      there is no other entry to compare with\n"),
            }
            text
        }
    }
}

fn nearest_text(nearest: &Nearest) -> String {
    let (key, note) = (view::short(&nearest.key), view::cell(&nearest.note));
    let mut text = format!("      the nearest entry is {key}, {note}:\n");
    let header = ["field", "wanted", "nearest entry"].map(str::to_owned);
    let rows = nearest.differences.iter().take(MAX_FIELDS).map(row);
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    for line in left_aligned(&rows).lines() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "        {line}");
    }
    let more = nearest.differences.len().saturating_sub(MAX_FIELDS);
    if more > 0 {
        let _ = writeln!(text, "        and {more} more");
    }
    text
}

fn row(difference: &Difference) -> [String; 3] {
    let shown = |value: &Option<ClearValue>| value.as_ref().map_or(ABSENT.to_owned(), short_value);
    [view::cell(&difference.field), shown(&difference.wanted), shown(&difference.found)]
}

/// Of a digest, the beginning: enough to see that it is another one.
fn short_value(value: &ClearValue) -> String {
    match value {
        ClearValue::Text { text } => view::cell(text),
        ClearValue::Bytes { sha256, bytes }
        | ClearValue::LongText { text_sha256: sha256, bytes } => {
            let digest: String = sha256.to_string().chars().take(12).collect();
            format!("sha256 {digest}, {bytes} bytes")
        }
    }
}

fn left_aligned(rows: &[[String; 3]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let line = |[a, b, c]: &[String; 3]| format!("{a:<first$}  {b:<second$}  {c}\n");
    rows.iter().map(line).collect()
}

fn to_json(report: &ExplainReport) -> Value {
    let graphs = report.graphs.iter().map(|(name, graph)| graph_json(name, graph));
    json!({
        "graphs": graphs.collect::<Vec<_>>(),
        "hits": num_hits(report),
        "request": {
            "key": report.request_key,
            "explanation": graph_json(REQUEST, &report.asked),
            "is_known": report.request.is_some(),
            "agrees": report.agrees,
        },
    })
}

fn graph_json(name: &str, graph: &Explanation) -> Value {
    let mut value = json!({ "name": name, "key": graph.key, "is_hit": graph.is_hit() });
    match &graph.found {
        Found::Hit { place, bytes, compile_ms } => {
            value["place"] = json!(place);
            value["bytes"] = json!(bytes);
            value["compile_seconds"] = json!(*compile_ms as f64 / 1000.0);
        }
        Found::Miss { reason, nearest } => {
            value["reason"] = json!(reason.label());
            value["message"] = json!(reason.to_string());
            value["nearest"] =
                nearest.as_ref().map_or(Value::Null, |nearest| nearest_json(nearest));
        }
    }
    value
}

fn nearest_json(nearest: &Nearest) -> Value {
    let differences = nearest.differences.iter().map(|difference| {
        json!({
            "field": difference.field,
            "wanted": difference.wanted,
            "nearest": difference.found,
        })
    });
    json!({
        "key": nearest.key,
        "note": nearest.note,
        "differences": differences.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use cairn_graph_cache::{CacheKey, MissReason};

    use super::*;

    fn text(value: &str) -> ClearValue {
        ClearValue::Text { text: value.to_owned() }
    }

    #[test]
    fn a_miss_names_what_differs_and_both_values() {
        let difference = |idx: usize| Difference {
            field: format!("field {idx}"),
            wanted: Some(text("Ascend910B4")),
            found: (idx > 0).then(|| text("Ascend910B3")),
        };
        let nearest = Nearest {
            key: CacheKey::from_bytes([0x51; 32]),
            note: "decode 4".to_owned(),
            differences: (0..10).map(difference).collect(),
        };
        let reason = MissReason::Absent;
        let explanation = Explanation {
            key: CacheKey::from_bytes([0x8b; 32]),
            note: "decode 8".to_owned(),
            found: Found::Miss { reason, nearest: Some(Box::new(nearest)) },
        };
        let shown = graph_text("decode 8", &explanation, 10);
        let expected = "\
miss  decode 8    8b8b8b8b8b8b  not in the cache
      the nearest entry is 515151515151, decode 4:
        field    wanted       nearest entry
        field 0  Ascend910B4  -
        field 1  Ascend910B4  Ascend910B3
";
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.ends_with("        and 2 more\n"), "{shown}");
        let json = graph_json("decode 8", &explanation);
        assert_eq!(json["reason"], "absent");
        assert_eq!(json["nearest"]["differences"][1]["nearest"], json!({"text": "Ascend910B3"}));
        assert_eq!(json["nearest"]["differences"][0]["nearest"], Value::Null);
    }

    #[test]
    fn a_hit_says_where_and_what_it_saves() {
        let found = Found::Hit { place: "/g".to_owned(), bytes: 1200, compile_ms: 41_070 };
        let key = CacheKey::from_bytes([0x3f; 32]);
        let explanation = Explanation { key, note: "a".to_owned(), found };
        assert_eq!(
            graph_text("a", &explanation, 1),
            "hit   a  3f3f3f3f3f3f  /g, 1.2 kB, compiled in 41.07 s\n"
        );
    }
}
