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
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::boot::{self, BootReport, Booted};
use super::failure::{Hint, Outcome};
use super::model_args::ModelArgs;
use super::scheduling_args::SchedulingArgs;
use super::values::{self, display_bytes};
use super::{Context, graph_cache, output};
use crate::boot::prefix;
use crate::build_info;
use crate::config::{BackendKind, DEFAULT_MAX_NUM_QUEUED_REQS, EngineConfig};
use crate::engine::{EngineHandle, PrefixStore as _};
use crate::server::{self, About, ServerOptions, ServerState};
use crate::text::{ChatTemplate, Tokenizer};

const EXAMPLES: &str = "\
Examples:
  cairn serve
  cairn serve model.gguf --host 0.0.0.0 --port 8080 --served-model-name my-model
  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
       -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

Endpoints: /v1/models /v1/chat/completions /v1/completions /health/live /health/ready /metrics
/version /reset_prefix_cache; / is a web page to try the model

Exit codes, for supervisors: 0 stopped in good order, 1 failed, 2 wrong usage, 3 the device is in an
unknown state or the engine panicked (restart the process), 4 the device or a link to it is broken
(a restart alone does not help).";

/// Serve a model to OpenAI clients over HTTP.
///
/// The address goes to stderr once requests are answered: `listening on http://127.0.0.1:8000`.
/// SIGTERM and Ctrl-C end it in good order: no new requests are taken, running ones finish.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::doc_markdown, reason = "the doc is the help, where backticks are noise")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    scheduling: SchedulingArgs,

    #[command(flatten)]
    model: ModelArgs,
}

// The variables of host and port are not CAIRN_HOST and CAIRN_PORT: Kubernetes sets CAIRN_PORT to
// `tcp://...` in every pod beside a service named cairn, and NAME_SERVICE_HOST likewise.
/// Where to listen and how much to take on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server options")]
struct ServerArgs {
    /// Address to listen on, or a host name that means one; 0.0.0.0: every IPv4 address.
    #[arg(long, value_name = "HOST", env = "CAIRN_LISTEN_HOST", default_value = "127.0.0.1")]
    host: String,

    /// Port to listen on; 0 picks a free one.
    #[arg(long, value_name = "PORT", env = "CAIRN_LISTEN_PORT", default_value = "8000")]
    #[arg(value_parser = values::whole::<u16>(0..=65_535), allow_hyphen_values = true)]
    port: u16,

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
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs, context: &Context) -> anyhow::Result<Outcome> {
    let ServeArgs { model, server, scheduling } = args;
    // Before the long work, and held from then on: nobody takes the port meanwhile.
    let listener = bind(&server.host, server.port)?;
    let config = EngineConfig {
        max_num_queued_reqs: server.max_num_queued_reqs,
        scheduling: scheduling.config(),
        ..model.engine_config(context)?
    };
    let booted = boot::boot(&config, &*context.progress)?;
    announce(&booted, listener.local_addr().context("reading the address")?);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let Booted { engine, tokenizer, chat_template, report, graphs, cache, prefix_store } = booted;
    let state = state(server, config.backend, engine.clone(), tokenizer, chat_template, report);
    state.report(move || {
        let mut samples = graph_cache::samples(&cache.stats().snapshot());
        let stats = prefix_store.as_ref().map(|store| store.stats());
        samples.extend(stats.iter().flat_map(prefix::samples));
        samples
    });
    let served = runtime.block_on(serve(listener, server, state));
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

fn announce(booted: &Booted, address: SocketAddr) {
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
    output::say(format_args!("listening on http://{address}"));
}

fn state(
    args: &ServerArgs,
    backend: BackendKind,
    engine: EngineHandle,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    report: BootReport,
) -> ServerState {
    let name = args.served_model_name.as_ref().unwrap_or(&report.model_name);
    let defaults = ServerOptions::new(name);
    let max_body_bytes = usize::try_from(args.max_body_bytes).unwrap_or(usize::MAX);
    let options = ServerOptions {
        max_body_bytes,
        max_total_body_bytes: defaults.max_total_body_bytes.max(max_body_bytes),
        drain_timeout: args.drain_timeout,
        has_page: !args.no_page,
        ..defaults
    };
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
async fn serve(listener: TcpListener, args: &ServerArgs, state: ServerState) -> anyhow::Result<()> {
    listener.set_nonblocking(true).context("preparing the socket")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("preparing the socket")?;
    let shutdown = shutdown(args.drain_timeout).context("listening for signals")?;
    server::serve(listener, state, shutdown).await.context("serving")
}

/// Binds the first address of the host that can be bound.
fn bind(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    // `[::1]`, as in a URL, is what `::1` means.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let place =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let addresses = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("cannot listen on {place}"))
        .hint("`--host` takes an address of this machine, or a host name that means one")?;
    let mut result = Err(anyhow!("cannot listen on {place}: the host has no address"));
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => result = cannot_listen(address, error),
        }
    }
    result
}

fn cannot_listen(address: SocketAddr, error: io::Error) -> anyhow::Result<TcpListener> {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => Some(
            "stop the program that listens there, or choose another port with `--port` (0: any \
             free one)",
        ),
        io::ErrorKind::AddrNotAvailable => {
            Some("`--host` takes an address of this machine; 0.0.0.0 means every one")
        }
        io::ErrorKind::PermissionDenied => Some("choose a port from 1024 with `--port`"),
        _ => None,
    };
    let result = Err(error).with_context(|| format!("cannot listen on {address}"));
    match hint {
        Some(hint) => result.hint(hint),
        None => result,
    }
}

/// Ends with the first SIGTERM or Ctrl-C. A second Ctrl-C ends the process at once.
///
/// Signals are caught from this call on, not only once the future is polled.
fn shutdown(drain_timeout: Duration) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};

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
            interrupt.recv().await;
            std::process::exit(Outcome::Interrupted.code().into());
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of(error: &anyhow::Error) -> String {
        super::super::failure::hint(error).unwrap_or_default()
    }

    #[test]
    fn a_port_in_use_is_named_with_the_remedy() {
        let holder = bind("127.0.0.1", 0).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = bind("127.0.0.1", port).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on 127.0.0.1:{port}"));
        assert!(hint_of(&error).contains("--port"));
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = bind("192.0.2.1", 0).unwrap_err();
        assert_eq!(error.to_string(), "cannot listen on 192.0.2.1:0");
        assert!(hint_of(&error).contains("--host"));
    }

    #[test]
    fn a_host_that_means_nothing_is_refused() {
        let error = bind("no such host", 0).unwrap_err();
        assert_eq!(error.to_string(), "cannot listen on no such host:0");
    }
}
