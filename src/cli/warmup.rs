//! `cairn warmup`: compiles what `serve` and `generate` will need, with the same flags.
//!
//! ```text
//! graph                 key           state     seconds
//! dynamic               3f9a62c01b7d  compiled      1.2
//! ```

use anyhow::bail;
use cairn_graph_cache::CacheMode;
use clap::Args;
use serde_json::json;

use super::boot::{self, GraphState, WarmupReport};
use super::failure::{Hint, Outcome};
use super::model_args::ModelArgs;
use super::output::Table;
use super::{Context, output, values};
use crate::config::{EngineConfig, GraphCacheConfig};

/// Characters of a key that tell graphs apart for people.
const SHORT_KEY_CHARS: usize = 12;

const EXAMPLES: &str = "\
Examples:
  cairn warmup model.gguf                              compile what is missing
  cairn warmup model.gguf --verify --max-compiles 0    fail unless all is there; compile nothing
  cairn warmup model.gguf --json | jq '.graphs[].key'

The settings of the model must be those of the `cairn serve` that follows: a graph belongs to them.";

/// Compile every graph that serving the model needs, and exit.
///
/// The next `cairn serve` or `cairn generate` with the same model and settings compiles nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WarmupArgs {
    /// Compile nothing: only report what is there and what would have to be compiled.
    #[arg(long)]
    verify: bool,

    /// Fail, before anything is compiled, when more than N graphs would have to be [default: no
    /// limit].
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(0..=1_000_000))]
    max_compiles: Option<usize>,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub(crate) fn run(args: &WarmupArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.model.engine_config(context)?;
    if args.verify {
        let report = boot::warmup(&config, true, &*context.progress)?;
        print(&report, args.json)?;
        check_limit(args.max_compiles, &report, &config)
            .hint("`cairn warmup` with the same model and settings compiles them")?;
        return Ok(Outcome::Done);
    }
    if args.max_compiles.is_some() {
        let report = boot::warmup(&config, true, &*context.progress)?;
        check_limit(args.max_compiles, &report, &config)
            .hint("without `--max-compiles`, this command compiles them")?;
    }
    let report = boot::warmup(&config, false, &*context.progress)?;
    print(&report, args.json)?;
    check_kept(&boot::warmup(&config, true, &*context.progress)?)
        .hint("`--cache-dir` must name a folder that can be written to, on a disk with room")?;
    Ok(Outcome::Done)
}

/// What was compiled must be there for the next process: that is what a warm-up is for.
fn check_kept(report: &WarmupReport) -> anyhow::Result<()> {
    let (lost, all) = (count(report, GraphState::Missing), report.graphs.len());
    if lost > 0 {
        bail!("{lost} of {all} graphs were compiled, but the cache does not keep them");
    }
    Ok(())
}

fn check_limit(
    max_compiles: Option<usize>,
    report: &WarmupReport,
    config: &EngineConfig,
) -> anyhow::Result<()> {
    let missing = count(report, GraphState::Missing);
    let Some(max_compiles) = max_compiles.filter(|max| missing > *max) else { return Ok(()) };
    let place = match &config.graph_cache {
        GraphCacheConfig { mode: CacheMode::Off, .. } => {
            "the cache, which is turned off,".to_owned()
        }
        GraphCacheConfig { folder: Some(folder), .. } => format!("`{}`", folder.display()),
        GraphCacheConfig { folder: None, .. } => "the cache".to_owned(),
    };
    bail!(
        "{missing} of {} graphs are not in {place} and would have to be compiled, but \
         `--max-compiles` allows {max_compiles}",
        report.graphs.len()
    )
}

fn print(report: &WarmupReport, is_json: bool) -> anyhow::Result<()> {
    if is_json {
        output::write_json(&to_json(report))?;
    } else {
        output::write(&to_table(report))?;
    }
    let [compiled, from_cache, missing] =
        [GraphState::Compiled, GraphState::FromCache, GraphState::Missing]
            .map(|state| count(report, state));
    for (graph, reason) in report.graphs.iter().filter_map(|g| Some((g, g.reason.as_ref()?))) {
        output::say(format_args!("{}: {reason}", graph.bucket));
    }
    let rest = if missing > 0 { format!(", {missing} missing") } else { String::new() };
    output::say(format_args!("graphs: {compiled} compiled, {from_cache} from cache{rest}"));
    Ok(())
}

fn to_table(report: &WarmupReport) -> String {
    let mut table = Table::default();
    table.row(["graph", "key", "state", "seconds"]);
    for graph in &report.graphs {
        let key: String = graph.key.chars().take(SHORT_KEY_CHARS).collect();
        let seconds = format!("{:.2}", graph.time.as_secs_f64());
        table.row([&graph.bucket, &key, name_of(graph.state), &seconds]);
    }
    table.to_string()
}

fn to_json(report: &WarmupReport) -> serde_json::Value {
    let graphs: Vec<_> = report
        .graphs
        .iter()
        .map(|graph| {
            json!({
                "bucket": graph.bucket,
                "key": graph.key,
                "state": name_of(graph.state),
                "reason": graph.reason,
                "seconds": graph.time.as_secs_f64(),
            })
        })
        .collect();
    json!({
        "request": report.request,
        "graphs": graphs,
        "compiled": count(report, GraphState::Compiled),
        "from_cache": count(report, GraphState::FromCache),
        "missing": count(report, GraphState::Missing),
    })
}

fn count(report: &WarmupReport, state: GraphState) -> usize {
    report.graphs.iter().filter(|graph| graph.state == state).count()
}

const fn name_of(state: GraphState) -> &'static str {
    match state {
        GraphState::FromCache => "from cache",
        GraphState::Compiled => "compiled",
        GraphState::Missing => "missing",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::boot::WarmupGraph;
    use super::*;

    fn report(states: &[GraphState]) -> WarmupReport {
        let graph = |&state| WarmupGraph {
            bucket: "t512".to_owned(),
            key: "0123456789abcdef".repeat(4),
            state,
            time: Duration::from_millis(1234),
            reason: None,
        };
        WarmupReport { request: "0".repeat(64), graphs: states.iter().map(graph).collect() }
    }

    #[test]
    fn a_row_per_graph() {
        assert_eq!(
            to_table(&report(&[GraphState::Compiled])),
            "graph           key     state  seconds\nt512   0123456789ab  compiled     1.23\n"
        );
    }

    #[test]
    fn the_limit_counts_what_is_missing_only() {
        let report = report(&[GraphState::Missing, GraphState::FromCache]);
        let config = EngineConfig::new("model");
        let check = |max| check_limit(max, &report, &config);
        assert!(check(None).is_ok());
        assert!(check(Some(1)).is_ok());
        let message = check(Some(0)).unwrap_err().to_string();
        assert!(message.starts_with("1 of 2 graphs are not in the cache"), "{message}");
    }
}
