//! `cairn serve`: the `OpenAI`-compatible server.
//!
//! ```text
//! bind (a port in use fails at once) -> load, compile or find graphs -> listening -> SIGTERM, Ctrl-C
//!   `- alive, not ready: 503 `starting`         no new requests, running ones finish <-'
//! ```
//!
//! The model is loaded on the main thread, while the server's threads say how far it is. SIGTERM or
//! Ctrl-C ends a start at once.
//!
//! When the engine dies, every running answer ends with an error and the process with a code that
//! says whether a restart helps.
//!
//! What this module deliberately does not do: HTTP; that is `server`'s.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::access_args::AccessArgs;
use super::boot::{self, BootReport, Booted, failure::chain, hint};
use super::dialogue_args::DialogueArgs;
use super::failure::{Hint as _, Outcome, TERMINATED};
use super::listen::SocketFile;
use super::listen_args::{Bound, ListenArgs, Listening};
use super::model_args::ModelArgs;
use super::scheduling_args::SchedulingArgs;
use super::values::{self, display_bytes};
use super::{Context, failure, graph_cache, output};
use crate::boot::prefix;
use crate::build_info;
use crate::config::{BackendKind, DEFAULT_MAX_NUM_QUEUED_REQS, EngineConfig, Environment};
use crate::engine::PrefixStore as _;
use crate::server::{self, About, Entrance, ServerOptions, ServerState, Tls};
use crate::telemetry::events::{Event, EventKind, EventLog};
use crate::telemetry::traces::Tracer;
use reported::Reported;

mod reported;

/// The program's name.
const NAME: &str = "cairn";
const SIGNALS: &str = "listening for signals";

const EXAMPLES: &str = "\
Examples:
  cairn serve
  cairn serve model.gguf --host 0.0.0.0 --port 8080 --served-model-name my-model
  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
       -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

Endpoints: /v1/models /v1/chat/completions /v1/completions /v1/responses /v1/messages /v1/embeddings
/v1/files /v1/batches /tokenize /detokenize /health/live /health/ready /health/deep /ping /load
/metrics /version /reset_prefix_cache /openapi.json /admin/events /admin/keys /admin/usage
/admin/limits /admin/drain; / is a web page to try the model

Exit codes, for supervisors: 0 stopped in good order, 1 failed, 2 wrong usage, 3 the device is in an
unknown state or the engine panicked (restart the process), 4 the device or a link to it is broken
(a restart alone does not help).";

/// Serve a model to OpenAI clients over HTTP.
///
/// The address goes to stderr once requests are answered: `listening on http://127.0.0.1:8000`.
/// Before that, while the model is loaded and graphs are compiled, /health/live answers and
/// /health/ready says how far it is.
/// SIGTERM and Ctrl-C end it in good order: no new requests are taken, running ones finish.
/// A second one ends it at once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::doc_markdown, reason = "the doc is the help, where backticks are noise")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    listen: ListenArgs,

    #[command(flatten)]
    access: AccessArgs,

    #[command(flatten)]
    scheduling: SchedulingArgs,

    #[command(flatten)]
    dialogue: DialogueArgs,

    #[command(flatten)]
    model: ModelArgs,
}

/// How much to take on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server options")]
#[expect(clippy::doc_markdown, reason = "the doc is the help, where backticks are noise")]
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

    /// Serve no web page at `/`.
    #[arg(long, env = "CAIRN_NO_PAGE", value_parser = values::switch())]
    no_page: bool,

    /// Collector that spans of requests are sent to, as in http://127.0.0.1:4318/v1/traces
    /// (OTLP over HTTP) [default: none].
    #[arg(long, value_name = "URL", env = "CAIRN_OTLP_TRACES_ENDPOINT")]
    otlp_traces_endpoint: Option<String>,

    /// Folder of what outlives the server: its events and usage [default: $XDG_STATE_HOME/cairn, else
    /// ~/.local/state/cairn].
    #[arg(long, value_name = "FOLDER", env = "CAIRN_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

impl ServerArgs {
    /// The folder of what outlives the server; `None`: there is no place for it.
    fn state_folder(&self, environment: &Environment) -> Option<PathBuf> {
        self.state_dir.clone().or_else(|| environment.state_root.clone())
    }
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs, context: &Context) -> anyhow::Result<Outcome> {
    // Before the long work, and held from then on: nobody takes the port meanwhile.
    let bound = args.listen.bind()?;
    // What was typed wrongly is told at once, and is no event.
    let is_at_hand = !args.model.may_be_fetched();
    let config = is_at_hand.then(|| engine_config(args, context)).transpose()?;
    let events = open_events(args, context);
    let result = serve_model(args, context, config, bound, &events);
    events.emit(match &result {
        Ok(()) => Event::new(EventKind::Stopped, "stopped in good order").logged_elsewhere(),
        Err(error) => stopped_by(error),
    });
    result?;
    output::say("stopped");
    Ok(Outcome::Done)
}

/// The events of this server, and that it starts.
fn open_events(args: &ServeArgs, context: &Context) -> EventLog {
    let ServeArgs { server, listen, model, .. } = args;
    let name = model.name();
    let name = server.served_model_name.as_deref().unwrap_or(&name);
    let events = if let Some(folder) = server.state_folder(&context.environment) {
        EventLog::open(&folder.join("events"), &format!("{name}-{}", listen.label()))
    } else {
        tracing::warn!("events are kept in memory only: there is no `--state-dir`");
        EventLog::in_memory()
    };
    let message = format!("starting `{name}` with {} {}", NAME, build_info::VERSION);
    let deploying = Event::new(EventKind::Deploying, message)
        .field("model", name)
        .field("version", build_info::VERSION)
        .field("revision", build_info::GIT_REVISION)
        .field("process_id", std::process::id());
    events.emit(deploying);
    events
}

fn stopped_by(error: &anyhow::Error) -> Event {
    // Told at the end, with its hint.
    let event = Event::new(EventKind::Stopped, format!("stopped: {}", chain(error)));
    let event = event.abnormal().logged_elsewhere().field("exit_code", failure::code(error));
    match hint(error) {
        Some(hint) => event.remedy(hint),
        None => event,
    }
}

fn serve_model(
    args: &ServeArgs,
    context: &Context,
    config: Option<EngineConfig>,
    bound: Bound,
    events: &EventLog,
) -> anyhow::Result<()> {
    let ServeArgs { model, server, listen, access, dialogue, .. } = args;
    let state_folder = server.state_folder(&context.environment);
    let guarded = access.open(&context.environment, state_folder, &listen.label())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let tracer = {
        let _runtime = runtime.enter();
        tracer(server)?
    };
    let name = server.served_model_name.clone().unwrap_or_else(|| model.name());
    let about = about(model.backend(), &name);
    let options = listen.options(options(server, &name))?;
    let entrance = Entrance::new(options.clone(), about.clone(), events.clone());
    let (addresses, serving) = {
        let _runtime = runtime.enter();
        let listening = bound.listeners()?;
        let addresses: Vec<String> = listening.listeners.iter().map(ToString::to_string).collect();
        let socket_file = listening.socket_file.clone();
        let shutdown = shutdown(server.drain_timeout, socket_file, events).context(SIGNALS)?;
        let serving = serve(listening, entrance.clone(), shutdown, events.clone());
        (addresses, runtime.spawn(serving))
    };
    for address in &addresses {
        output::say(format_args!("starting on {address}"));
    }

    let progress = Reported::new(Arc::clone(&context.progress), entrance.clone(), events.clone());
    let Context { environment, started_at, .. } = context;
    let context = &Context {
        environment: environment.clone(),
        progress: Arc::new(progress),
        started_at: *started_at,
    };
    let config = match config {
        Some(config) => config,
        None => engine_config(args, context)?,
    };
    let booted = boot::boot(&config, &*context.progress)?;
    let Booted { engine, tokenizer, chat_template, report, graphs, cache, prefix_store } = booted;
    let start_to_ready = context.started_at.elapsed();
    let name = server.served_model_name.as_ref().unwrap_or(&report.model_name);
    let boot_phases = report.phases.iter().map(|(phase, took)| ((*phase).to_owned(), *took));
    let (model, boot_phases) = (report.model_name.clone(), boot_phases.collect());
    let about = About { model, boot_phases, start_to_ready, ..about };
    let options = ServerOptions {
        served_model_name: name.clone(),
        output_format: dialogue.output_format(chat_template.as_ref()),
        trust_request_chat_template: dialogue.trust_request_chat_template(),
        ..options
    };
    let state = ServerState::new(engine.clone(), tokenizer, chat_template, options, about);
    state.keep_events(events.clone());
    if let Some(folder) = server.state_folder(&context.environment) {
        let _runtime = runtime.enter();
        if let Err(error) = state.keep_batches(&folder.join("batches")) {
            tracing::warn!(%error, "no files and batches: their folder cannot be used");
        }
    }
    if let Some(tracer) = tracer {
        state.trace(tracer);
    }
    state.report(move || {
        let mut samples = graph_cache::samples(&cache.stats().snapshot());
        let stats = prefix_store.as_ref().map(|store| store.stats());
        samples.extend(stats.iter().flat_map(prefix::samples));
        samples
    });
    guarded.announce(&state, events);
    entrance.open(state.clone());
    events.emit(ready(&report, &addresses, start_to_ready));
    announce(&report, &addresses);

    let served = runtime
        .block_on(guarded.beside(state, serving))
        .context("serving")
        .and_then(|served| served);
    if let Some(death) = engine.death() {
        graphs.forget_stale(&engine);
        // The thread that waits for a dead engine may wait for ever.
        runtime.shutdown_background();
        return Err(death).context("serving");
    }
    served
}

/// Fetches the model when it is a known one that is not there yet.
fn engine_config(args: &ServeArgs, context: &Context) -> anyhow::Result<EngineConfig> {
    Ok(EngineConfig {
        max_num_queued_reqs: args.server.max_num_queued_reqs,
        scheduling: args.scheduling.config(),
        ..args.model.engine_config(context)?
    })
}

/// To be called within a runtime.
fn tracer(server: &ServerArgs) -> anyhow::Result<Option<Tracer>> {
    let Some(endpoint) = &server.otlp_traces_endpoint else { return Ok(None) };
    match Tracer::open(endpoint, build_info::VERSION) {
        Ok(tracer) => Ok(Some(tracer)),
        Err(error) => {
            let hint = error.hint();
            Err(error).context("`--otlp-traces-endpoint` cannot be used").hint(hint)
        }
    }
}

fn ready(report: &BootReport, addresses: &[String], start_to_ready: Duration) -> Event {
    let seconds = |time: &Duration| Value::from(time.as_secs_f64());
    let phases: Map<String, Value> =
        report.phases.iter().map(|(phase, took)| ((*phase).to_owned(), seconds(took))).collect();
    let message = format!(
        "ready on {} after {:.1} s, {} graphs compiled and {} from the cache",
        addresses.join(" and "),
        start_to_ready.as_secs_f64(),
        report.graphs_compiled,
        report.graphs_from_cache
    );
    Event::new(EventKind::Ready, message)
        .field("address", addresses.join(" "))
        .field("start_to_ready_seconds", seconds(&start_to_ready))
        .field("boot_seconds", phases)
        .field("graphs_compiled", report.graphs_compiled)
        .field("graphs_from_cache", report.graphs_from_cache)
}

fn announce(report: &BootReport, addresses: &[String]) {
    output::say(format_args!(
        "{}: context {} tokens, weights {}, KV cache {}; graphs: {} compiled, {} from cache",
        report.model_name,
        report.max_model_len,
        display_bytes(report.weights_bytes),
        display_bytes(report.kv_cache_bytes),
        report.graphs_compiled,
        report.graphs_from_cache,
    ));
    for address in addresses {
        output::say(format_args!("listening on {address}"));
    }
}

fn options(args: &ServerArgs, name: &str) -> ServerOptions {
    let defaults = ServerOptions::new(name);
    let max_body_bytes = usize::try_from(args.max_body_bytes).unwrap_or(usize::MAX);
    ServerOptions {
        max_body_bytes,
        max_total_body_bytes: defaults.max_total_body_bytes.max(max_body_bytes),
        drain_timeout: args.drain_timeout,
        has_page: !args.no_page,
        ..defaults
    }
}

/// What is known before the model is.
fn about(backend: BackendKind, model: &str) -> About {
    About {
        name: NAME.to_owned(),
        version: build_info::VERSION.to_owned(),
        revision: build_info::GIT_REVISION.to_owned(),
        backend: backend.name().to_owned(),
        model: model.to_owned(),
        ..About::default()
    }
}

/// The one place that meets the server. A start that is told to stop ends the process here: what
/// loads the model cannot be interrupted.
async fn serve(
    listening: Listening,
    entrance: Entrance,
    shutdown: impl Future<Output = ()>,
    events: EventLog,
) -> anyhow::Result<()> {
    let Listening { listeners, socket_file, tls } = listening;
    let reloading = tls.map(|tls| reload_on_hangup(tls, &events)).transpose().context(SIGNALS)?;
    server::serve(listeners, entrance.clone(), shutdown).await;
    if let Some(reloading) = reloading {
        reloading.abort();
    }
    if let Some(file) = socket_file {
        file.remove();
    }
    if !entrance.is_open() {
        events.emit(Event::new(EventKind::Stopped, "stopped while starting"));
        output::say("stopped");
        std::process::exit(Outcome::Done.code().into());
    }
    Ok(())
}

/// Looks at the certificates when told to.
///
/// Without certificates SIGHUP keeps its meaning, so that a server ends with its terminal.
fn reload_on_hangup(tls: Tls, events: &EventLog) -> io::Result<JoinHandle<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let events = events.clone();
    Ok(tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let (tls, events) = (tls.clone(), events.clone());
            // It fails only when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || tls.reload_and_tell(&events)).await;
        }
    }))
}

/// Ends with the first SIGTERM or Ctrl-C. A second one of either ends the process at once.
///
/// Signals are caught from this call on, not only once the future is polled.
fn shutdown(
    drain_timeout: Duration,
    socket_file: Option<Arc<SocketFile>>,
    events: &EventLog,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let events = events.clone();
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
            let stopped = Event::new(EventKind::Stopped, "stopped at once by a second signal");
            events.emit(stopped.abnormal());
            if let Some(file) = socket_file {
                file.remove();
            }
            std::process::exit(code.into());
        });
    })
}
