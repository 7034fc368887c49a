//! `cairn serve`: the `OpenAI`-compatible server.
//!
//! ```text
//! bind (a port in use fails at once) -> load, compile or find graphs -> listening -> SIGTERM, Ctrl-C
//!                                             no new requests, running ones finish <-'
//! ```
//!
//! When the engine dies, every running answer ends with an error and the process with a code that
//! says whether a restart helps.
//!
//! What this module deliberately does not do: HTTP; that is `server`'s.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::boot::{self, BootReport, Booted};
use super::failure::{Outcome, TERMINATED};
use super::listen::SocketFile;
use super::listen_args::{ListenArgs, Listening};
use super::model_args::ModelArgs;
use super::scheduling_args::SchedulingArgs;
use super::values::{self, display_bytes};
use super::{Context, graph_cache, output};
use crate::boot::prefix;
use crate::build_info;
use crate::config::{BackendKind, DEFAULT_MAX_NUM_QUEUED_REQS, EngineConfig};
use crate::engine::{EngineHandle, PrefixStore as _};
use crate::server::{self, About, ServerOptions, ServerState, Tls};
use crate::text::{ChatTemplate, Tokenizer};

const EXAMPLES: &str = "\
Examples:
  cairn serve
  cairn serve model.gguf --host 0.0.0.0 --port 8080 --served-model-name my-model
  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
       -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

Endpoints: /v1/models /v1/chat/completions /v1/completions /health/live /health/ready /metrics
/version /reset_prefix_cache

Exit codes, for supervisors: 0 stopped in good order, 1 failed, 2 wrong usage, 3 the device is in an
unknown state or the engine panicked (restart the process), 4 the device or a link to it is broken
(a restart alone does not help).";

/// Serve a model to OpenAI clients over HTTP.
///
/// The address goes to stderr once requests are answered: `listening on http://127.0.0.1:8000`.
/// SIGTERM and Ctrl-C end it in good order: no new requests are taken, running ones finish. A second
/// one ends it at once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::doc_markdown, reason = "the doc is the help, where backticks are noise")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    listen: ListenArgs,

    #[command(flatten)]
    scheduling: SchedulingArgs,

    #[command(flatten)]
    model: ModelArgs,
}

/// How much to take on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server options")]
struct ServerArgs {
    /// What clients call the model [default: the model's own name].
    #[arg(long, value_name = "NAME", env = "CAIRN_SERVED_MODEL_NAME")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    served_model_name: Option<String>,

    /// Most requests that wait for room; one more gets status 429.
    #[arg(long, value_name = "N", env = "CAIRN_MAX_NUM_QUEUED_REQS")]
    #[arg(value_parser = values::whole::<usize>(0..=1_000_000), allow_hyphen_values = true)]
    #[arg(default_value_t = DEFAULT_MAX_NUM_QUEUED_REQS)]
    max_num_queued_reqs: usize,

    /// Seconds that running requests have to finish after SIGTERM or Ctrl-C.
    #[arg(long, value_name = "SECONDS", env = "CAIRN_DRAIN_TIMEOUT", default_value = "30")]
    #[arg(value_parser = values::seconds, allow_hyphen_values = true)]
    drain_timeout: Duration,

    /// Largest body of a request, as in 4MiB; a larger one gets status 413.
    #[arg(long, value_name = "BYTES", env = "CAIRN_MAX_BODY_BYTES", default_value = "8MiB")]
    #[arg(value_parser = values::bytes, allow_hyphen_values = true)]
    max_body_bytes: u64,
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs, context: &Context) -> anyhow::Result<Outcome> {
    let ServeArgs { model, server, listen, scheduling } = args;
    // Before the long work, and held from then on: nobody takes the port meanwhile.
    let bound = listen.bind()?;
    let config = EngineConfig {
        max_num_queued_reqs: server.max_num_queued_reqs,
        scheduling: scheduling.config(),
        ..model.engine_config(context)?
    };
    let booted = boot::boot(&config, &*context.progress)?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let listening = {
        let _within = runtime.enter();
        bound.listeners()?
    };
    announce(&booted, &listening);
    let Booted { engine, tokenizer, chat_template, report, graphs, cache, prefix_store } = booted;
    let options = listen.options(options(server, &report))?;
    let state = state(options, config.backend, engine.clone(), tokenizer, chat_template, report);
    state.report(move || {
        let mut samples = graph_cache::samples(&cache.stats().snapshot());
        let stats = prefix_store.as_ref().map(|store| store.stats());
        samples.extend(stats.iter().flat_map(prefix::samples));
        samples
    });
    let served = runtime.block_on(serve(listening, server.drain_timeout, state));
    if let Some(death) = engine.death() {
        graphs.forget_stale(&engine);
        // The thread that waits for a dead engine may wait for ever.
        runtime.shutdown_background();
        return Err(death).context("serving");
    }
    served?;
    output::say("stopped");
    Ok(Outcome::Done)
}

fn announce(booted: &Booted, listening: &Listening) {
    let report = &booted.report;
    output::say(format_args!(
        "{}: context {} tokens, weights {}, KV cache {}; graphs: {} compiled, {} from cache",
        report.model_name,
        report.max_model_len,
        display_bytes(report.weights_bytes),
        display_bytes(report.kv_cache_bytes),
        report.graphs_compiled,
        report.graphs_from_cache,
    ));
    for listener in &listening.listeners {
        output::say(format_args!("listening on {listener}"));
    }
}

fn options(args: &ServerArgs, report: &BootReport) -> ServerOptions {
    let name = args.served_model_name.as_ref().unwrap_or(&report.model_name);
    let defaults = ServerOptions::new(name);
    let max_body_bytes = usize::try_from(args.max_body_bytes).unwrap_or(usize::MAX);
    ServerOptions {
        max_body_bytes,
        max_total_body_bytes: defaults.max_total_body_bytes.max(max_body_bytes),
        drain_timeout: args.drain_timeout,
        ..defaults
    }
}

fn state(
    options: ServerOptions,
    backend: BackendKind,
    engine: EngineHandle,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    report: BootReport,
) -> ServerState {
    let about = About {
        name: "cairn".to_owned(),
        version: build_info::VERSION.to_owned(),
        revision: build_info::GIT_REVISION.to_owned(),
        backend: backend.name().to_owned(),
        model: report.model_name,
        boot_phases: report.phases.iter().map(|(name, time)| ((*name).to_owned(), *time)).collect(),
    };
    ServerState::new(engine, tokenizer, chat_template, options, about)
}

/// The one place that meets the server.
async fn serve(
    listening: Listening,
    drain_timeout: Duration,
    state: ServerState,
) -> anyhow::Result<()> {
    let Listening { listeners, socket_file, tls } = listening;
    let socket_file = socket_file.map(Arc::new);
    let signals = "listening for signals";
    let reloading = tls.map(reload_on_hangup).transpose().context(signals)?;
    let shutdown = shutdown(drain_timeout, socket_file.clone()).context(signals)?;
    server::serve(listeners, state, shutdown).await;
    if let Some(reloading) = reloading {
        reloading.abort();
    }
    drop(socket_file);
    Ok(())
}

/// Looks at the certificates when told to.
///
/// Without certificates SIGHUP keeps its meaning, so that a server ends with its terminal.
fn reload_on_hangup(tls: Tls) -> io::Result<JoinHandle<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let tls = tls.clone();
            // It fails only when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || tls.reload_and_tell()).await;
        }
    }))
}

/// Ends with the first SIGTERM or Ctrl-C. A second one of either ends the process at once.
///
/// Signals are caught from this call on, not only once the future is polled.
fn shutdown(
    drain_timeout: Duration,
    socket_file: Option<Arc<SocketFile>>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        output::say(format_args!(
            "stopping: running requests have {} s to finish; Ctrl-C stops at once",
            drain_timeout.as_secs_f64()
        ));
        tokio::spawn(async move {
            let code = tokio::select! {
                _ = terminate.recv() => TERMINATED,
                _ = interrupt.recv() => Outcome::Interrupted.code(),
            };
            if let Some(file) = socket_file {
                file.remove();
            }
            std::process::exit(code.into());
        });
    })
}
