//! `cairn inspect`: the graph that a model becomes.

use std::collections::BTreeMap;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::boot;
use super::failure::{Outcome, Usage};
use super::model_args::ModelArgs;
use super::output::Table;
use super::{Context, output};
use crate::config::{BackendKind, EngineConfig};
use crate::ir::{Dim, Graph, Shape};

const EXAMPLES: &str = "\
Examples:
  cairn inspect model.gguf | less
  cairn inspect --stats
  cairn inspect model --backend ascend --soc Ascend910B3 --cann 9.0 --graph
  cairn inspect model --backend ascend --soc Ascend910B3 --cann 9.0 --air folder";

/// Print the graph that a model becomes, one line per node.
///
/// This is what the backend compiles, and what the key of a compiled graph is made from (all but
/// the names). Weights are named, not read.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    /// Print counts of operations and weights instead.
    #[arg(long)]
    stats: bool,

    /// Print what the backend makes of the graph: on ascend the operators of GE.
    #[arg(long, conflicts_with = "stats")]
    graph: bool,

    /// Write the file of every graph that CANN's compiler would get (`.air`) into a folder, and
    /// list them. Only on ascend; needs no toolkit.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["stats", "graph"])]
    air: Option<PathBuf>,

    /// The release of CANN to make graphs for, as in 8.3 or 9.0 [default: that of the installed
    /// toolkit].
    #[arg(long, value_name = "VERSION")]
    cann: Option<String>,

    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub(crate) fn run(args: &InspectArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.model.engine_config(context)?;
    let for_cann = args.air.is_some() || args.cann.is_some();
    if config.backend == BackendKind::Ascend {
        return inspect_ascend(args, &config);
    }
    if for_cann {
        return Err(Usage("`--air` and `--cann` belong to `--backend ascend`".to_owned()).into());
    }
    print(args, boot::graph_text(&config)?)
}

fn print(args: &InspectArgs, mut text: String) -> anyhow::Result<Outcome> {
    if args.stats {
        let graph = crate::ir::text::parse(&text).context("reading the graph's text back")?;
        text = stats(&graph);
    } else if !text.ends_with('\n') {
        text.push('\n');
    }
    output::write(&text)?;
    Ok(Outcome::Done)
}

#[cfg(feature = "ascend")]
fn inspect_ascend(args: &InspectArgs, config: &EngineConfig) -> anyhow::Result<Outcome> {
    let graphs = boot::ascend_graphs(config, args.cann.as_deref())?;
    if let Some(folder) = &args.air {
        return write_air(folder, &graphs);
    }
    let largest = graphs.last().context("no graph to look at")?;
    if args.graph {
        output::write(&crate::backend::ascend::lower::text(&largest.lowered))?;
        return Ok(Outcome::Done);
    }
    print(args, largest.text.clone())
}

#[cfg(not(feature = "ascend"))]
fn inspect_ascend(_: &InspectArgs, _: &EngineConfig) -> anyhow::Result<Outcome> {
    anyhow::bail!("this build has no ascend backend: it was built without that feature")
}

#[cfg(feature = "ascend")]
fn write_air(folder: &std::path::Path, graphs: &[boot::AscendGraph]) -> anyhow::Result<Outcome> {
    fs_err::create_dir_all(folder)?;
    let mut table = Table::default();
    table.row(["graph", "file", "bytes", "nodes"]);
    for graph in graphs {
        let path = folder
            .join(format!("{}.air", graph.bucket.replace([' ', ','], "-").replace("--", "-")));
        let bytes = graph.lowered.air();
        fs_err::write(&path, &bytes)?;
        let num_nodes: usize = graph.lowered.model.graph.iter().map(|graph| graph.op.len()).sum();
        table.row([
            &graph.bucket,
            &path.display().to_string(),
            &bytes.len().to_string(),
            &num_nodes.to_string(),
        ]);
    }
    output::write(&table.to_string())?;
    Ok(Outcome::Done)
}

fn stats(graph: &Graph) -> String {
    let mut nodes = BTreeMap::<&str, usize>::new();
    for node in graph.nodes() {
        *nodes.entry(node.op.name()).or_default() += 1;
    }
    let mut ops = Table::default();
    ops.row(["op", "nodes"]);
    for (name, count) in &nodes {
        ops.row([name, &count.to_string()]);
    }
    ops.row(["all", &graph.nodes().len().to_string()]);

    let mut parameters = BTreeMap::<&str, (usize, u64)>::new();
    for (id, _) in graph.weights() {
        let ty = graph.ty(id);
        let (tensors, elements) = parameters.entry(ty.dtype.name()).or_default();
        *tensors += 1;
        *elements = elements.saturating_add(num_elements(&ty.shape));
    }
    let mut weights = Table::default();
    weights.row(["weights", "tensors", "parameters"]);
    for (dtype, (tensors, elements)) in &parameters {
        weights.row([dtype, &tensors.to_string(), &elements.to_string()]);
    }

    let mut symbols = Table::default();
    symbols.row(["symbol", "min", "max"]);
    for symbol in graph.symbols() {
        symbols.row([&symbol.name, &symbol.min.to_string(), &symbol.max.to_string()]);
    }
    format!("{ops}\n{weights}\n{symbols}")
}

/// Weights have fixed sizes; a symbol counts once.
fn num_elements(shape: &Shape) -> u64 {
    let sizes = shape.0.iter().map(|dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbolic(_) => 1,
    });
    sizes.fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_parameters_are_counted() {
        let text = "graph \"tiny\"\n\
                    symbol s0 \"num_tokens\" 1..=64\n\
                    %0 \"x\": f32[s0, 8] = input()\n\
                    %1 \"sum\": f32[s0, 8] = add(%0, %0)\n\
                    return %1\n";
        let graph = crate::ir::text::parse(text).unwrap();
        assert_eq!(
            stats(&graph),
            "op     nodes\nadd        1\ninput      1\nall        2\n\n\
             weights  tensors  parameters\n\n\
             symbol      min  max\nnum_tokens    1   64\n"
        );
    }
}
