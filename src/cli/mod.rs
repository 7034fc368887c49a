//! The command line: one file per command, and what the commands share.
//!
//! ```text
//! argv, CAIRN_..., file --clap--> Args --one function--> EngineConfig --boot--> engine --> output
//!                                 (what was said)        (what it means)
//! ```
//!
//! | File | Holds |
//! | --- | --- |
//! | `generate` `serve` `run_batch` `warmup` `bench` `cache` `pull` `keys` `inspect` `doctor` `config_command` | a command each: its flags and what it does |
//! | `config_file`, `profiles` | settings from files, and files that come with the program |
//! | `print_config` | what the settings are and where they come from |
//! | `model_args` | the flags that every command with a model shares |
//! | `speculation_args`, `cache_args`, `prefix_args` | those of them about guesses, about the graph cache, and about prefixes that outlive the process |
//! | `access_args` | flags of who may use a server |
//! | `scheduling_args` | flags of commands that run many requests |
//! | `listen`, `listen_args` | ports, sockets and certificates, and the flags about them and about clients |
//! | `values` | flag values: ranges, sizes with units |
//! | `output` | the only code that writes to stdout and stderr |
//! | `progress` | spinners and bars |
//! | `failure` | exit codes, `error:` and `hint:` lines |
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 restart, 4 device lost,
//! 130 interrupted, 143 terminated; `failure` says more.
//!
//! What this module deliberately does not do: it computes nothing of its own. What a library user
//! would want lies in the other modules.

mod access_args;
mod bench;
mod cache;
mod cache_args;
mod config_command;
mod config_file;
mod dialogue_args;
mod doctor;
mod failure;
mod generate;
mod inspect;
mod keys;
mod listen;
mod listen_args;
mod model_args;
mod output;
mod prefix_args;
mod print_config;
mod profiles;
mod progress;
mod pull;
mod run_batch;
mod scheduling_args;
mod serve;
mod speculation_args;
mod values;
mod warmup;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

#[cfg(feature = "ascend")]
use crate::boot::ascend;
use crate::boot::{self, graph_cache, models};
use crate::build_info;
use crate::config::{self, Environment, LogFormat};
use crate::telemetry::{self, LogFilter};
use config_file::{Refusal, Settings};
use failure::Outcome;
use print_config::PrintFormat;
use progress::Progress;

/// Widest line of help, also on wider terminals.
const HELP_WIDTH: usize = 100;

const EXAMPLES: &str = "\
Examples:
  cairn generate --prompt \"Why is the sky blue?\"    answer with the small default model
  cairn serve model.gguf --port 8080                serve a model to OpenAI clients
  cairn warmup model.gguf                           compile now what serve will need

MODEL is a folder with safetensors and config.json, a .gguf file, or the name of a known model
(`cairn pull --list`). Without one, the small default model is used, fetched at its first use.

Data goes to stdout, everything else to stderr.
Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 restart the process (the device is in an unknown
state), 4 the device is lost, 130 interrupted.

Settings come from a profile, a file of TOML, the environment and flags; the later ones win. Keys of
a file are the flags' names, outside of sections for every command, or in a section for one:
  model = \"model.gguf\"
  [serve]
  port = 8080

Environment, besides the variables named with each flag (flags win):
  CAIRN_CACHE_DIR  folder of fetched models and compiled graphs
                   [default: $XDG_CACHE_HOME/cairn, else ~/.cache/cairn]
  CAIRN_OFFLINE    1: never fetch anything
  NO_COLOR         1: no colours in logs
  VLLM_API_KEY     what serve takes for --api-key, where neither that nor CAIRN_API_KEY is given";

/// LLM inference that restarts in seconds.
///
/// Runs a language model as a compiled graph and keeps compiled graphs in a cache that can be
/// trusted, so that the next start compiles nothing.
#[derive(Debug, Parser)]
#[command(
    name = "cairn",
    version = build_info::VERSION,
    long_version = build_info::LONG_VERSION,
    max_term_width = HELP_WIDTH,
    after_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true,
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: CliCommand,
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// What to log to stderr: error, warn, info, debug, trace, or directives as in
    /// `info,cairn::engine=trace` [default: info for serve, else warn].
    #[arg(long, value_name = "LEVEL", global = true, env = "CAIRN_LOG_LEVEL")]
    log_level: Option<LogFilter>,

    /// How a line of the log looks.
    #[arg(long, value_name = "FORMAT", global = true, env = "CAIRN_LOG_FORMAT")]
    #[arg(value_enum, default_value_t)]
    log_format: LogFormat,

    /// Show no progress bars, not even on a terminal.
    #[arg(long, global = true, env = "CAIRN_NO_PROGRESS", value_parser = values::switch())]
    no_progress: bool,

    /// Read settings from this file of TOML.
    #[arg(long, value_name = "FILE", global = true, env = "CAIRN_CONFIG")]
    config: Option<PathBuf>,

    /// Begin with the settings of a profile that comes with the program; `help` lists them.
    #[arg(long, value_name = "NAME", global = true, env = "CAIRN_PROFILE")]
    profile: Option<String>,

    /// Print every setting of the command and where it came from, and exit; `toml`: as a file for
    /// `--config`.
    #[arg(long, value_name = "FORMAT", global = true, value_enum, require_equals = true)]
    #[arg(num_args = 0..=1, default_missing_value = "text")]
    print_config: Option<PrintFormat>,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    Generate(generate::GenerateArgs),
    Serve(Box<serve::ServeArgs>),
    RunBatch(run_batch::RunBatchArgs),
    Warmup(warmup::WarmupArgs),
    Bench(bench::BenchArgs),
    Cache(Box<cache::CacheCommandArgs>),
    Pull(pull::PullArgs),
    Keys(keys::KeysArgs),
    Inspect(inspect::InspectArgs),
    Doctor(doctor::DoctorArgs),
    Config(config_command::ConfigArgs),
}

/// What every command is given besides its own flags.
#[derive(Debug)]
struct Context {
    environment: Environment,
    progress: Arc<dyn Progress>,
    /// When the process started.
    started_at: Instant,
}

/// The whole program: parses the command line, runs the command, reports how it ended.
pub fn main() -> ExitCode {
    let command = with_careful_variables(Cli::command());
    let (cli, settings) = match parse(&command, &config::arguments()) {
        Ok(parsed) => parsed,
        Err(refusal) => return failure::report_refusal(&command, refusal),
    };
    match run(&cli, command, &settings) {
        Ok(outcome) => outcome.into(),
        Err(error) => failure::report(&error),
    }
}

fn parse(command: &Command, arguments: &[OsString]) -> Result<(Cli, Settings), Refusal> {
    let settings = config_file::read(command, arguments)?;
    let cli = Cli::from_arg_matches(&settings.matches)
        .map_err(|error| error.format(&mut command.clone()))?;
    Ok((cli, settings))
}

fn run(cli: &Cli, command: Command, settings: &Settings) -> anyhow::Result<Outcome> {
    let started_at = Instant::now();
    let environment = Environment::of_process();
    if let Some(format) = cli.global.print_config {
        print_config::print(format, command, settings, &environment)?;
        return Ok(Outcome::Done);
    }
    start_logging(cli, &environment)?;
    let progress = progress::for_stderr(cli.global.no_progress).into();
    let context = Context { environment, progress, started_at };
    match &cli.command {
        CliCommand::Generate(args) => generate::run(args, &context),
        CliCommand::Serve(args) => serve::run(args, &context),
        CliCommand::RunBatch(args) => run_batch::run(args, &context),
        CliCommand::Warmup(args) => warmup::run(args, &context),
        CliCommand::Bench(args) => bench::run(args, &context),
        CliCommand::Cache(args) => cache::run(args, &context),
        CliCommand::Pull(args) => pull::run(args, &context),
        CliCommand::Keys(args) => keys::run(args),
        CliCommand::Inspect(args) => inspect::run(args, &context),
        CliCommand::Doctor(args) => doctor::run(args, &context),
        CliCommand::Config(args) => config_command::run(args),
    }
}

fn start_logging(cli: &Cli, environment: &Environment) -> anyhow::Result<()> {
    let default_level = match cli.command {
        CliCommand::Serve(_) => "info",
        _ => "warn",
    };
    let filter = cli.global.log_level.clone().map_or_else(|| default_level.parse(), Ok)?;
    let color = output::stderr_is_terminal() && !environment.no_color;
    Ok(telemetry::init_tracing(&filter, cli.global.log_format, color)?)
}

/// Makes variables behave: one that is set to nothing counts as not set, and help names variables
/// without showing their values.
fn with_careful_variables(command: Command) -> Command {
    let is_empty = |name: &OsStr| config::variable(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| {
            if arg.get_env().is_some_and(is_empty) { arg.env(None) } else { arg }
                .hide_env_values(true)
        })
        .mut_subcommands(with_careful_variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_variable_belongs_to_one_meaning_and_is_ours() {
        fn visit(command: &Command, owners: &mut std::collections::HashMap<String, String>) {
            for arg in command.get_arguments() {
                let Some(name) = arg.get_env() else { continue };
                let name = name.to_string_lossy().into_owned();
                assert!(name.starts_with("CAIRN_"), "{name}");
                let id = arg.get_id().to_string();
                let owner = owners.entry(name.clone()).or_insert_with(|| id.clone());
                assert_eq!(*owner, id, "{name} is read by two different flags");
            }
            command.get_subcommands().for_each(|command| visit(command, owners));
        }
        visit(&Cli::command(), &mut std::collections::HashMap::new());
    }
}
