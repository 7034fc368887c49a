//! Flags of who may use a server, and what becomes of them.
//!
//! ```text
//! --api-key, else CAIRN_API_KEY, else VLLM_API_KEY --hash--.
//! --api-keys-file -----------------------------------------+--> Access --> the server's state
//! --state-dir, listener --> the place of usage --------------'
//! --admin-listen --> a second listener, beside the server
//! ```
//!
//! What this module deliberately does not do: it keeps no key longer than it takes to hash it.

use std::future::Future;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::failure::Hint;
use super::{output, values};
use crate::config::{Environment, Secret};
use crate::server::ServerState;
use crate::server::access::{Access, AccessOptions, AdminAddress, AdminListener, Change, Digest};
use crate::telemetry::events::{Event, EventKind, EventLog};

/// Who may use the server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access options")]
#[expect(clippy::doc_markdown, reason = "the doc is the help, where backticks are noise")]
pub(crate) struct AccessArgs {
    /// A key that clients must send, without limits; may be given several times. Other users of this
    /// machine can see flags: prefer CAIRN_API_KEY, VLLM_API_KEY or a key file.
    #[arg(long, value_name = "KEY", env = "CAIRN_API_KEY", allow_hyphen_values = true)]
    api_key: Vec<Secret>,

    /// File of hashed keys with their limits (TOML; `cairn keys new` makes entries). Read again when it
    /// changes and on SIGHUP.
    #[arg(long, value_name = "FILE", env = "CAIRN_API_KEYS_FILE")]
    api_keys_file: Option<PathBuf>,

    /// Ask for a key at /metrics, too.
    #[arg(long, env = "CAIRN_REQUIRE_KEY_FOR_METRICS", value_parser = values::switch())]
    require_key_for_metrics: bool,

    /// Address for admin endpoints without a key, as in 127.0.0.1:9000 or unix:/run/cairn.sock; whoever
    /// reaches it is an admin.
    #[arg(long, value_name = "ADDRESS", env = "CAIRN_ADMIN_LISTEN")]
    admin_listen: Option<AdminAddress>,
}

fn event(change: &Change) -> Event {
    let kind = match change {
        Change::Reloaded { .. } => EventKind::KeysReloaded,
        Change::ReloadFailed { .. } => EventKind::Alarm,
        _ => EventKind::LimitChanged,
    };
    let event = Event::new(kind, change.to_string()).logged_elsewhere();
    if change.is_abnormal() { event.remedy("mend the key file; it is read again") } else { event }
}

/// What the flags ask for, ready before the model is loaded.
#[derive(Debug)]
pub(crate) struct Guarded {
    access: Access,
    admin: Option<AdminListener>,
}

impl AccessArgs {
    /// Reads the keys and takes the admin address.
    pub(crate) fn open(
        &self,
        environment: &Environment,
        state_folder: Option<PathBuf>,
        instance: &str,
    ) -> anyhow::Result<Guarded> {
        let flags = self.api_key.iter();
        let inherited = environment.vllm_api_key.iter().filter(|_| self.api_key.is_empty());
        let keys = flags.chain(inherited).map(|key| Digest::of(key.reveal().trim().as_bytes()));
        let options = AccessOptions {
            keys: keys.collect(),
            keys_file: self.api_keys_file.clone(),
            is_metrics_guarded: self.require_key_for_metrics,
            usage: state_folder.map(|folder| (folder, instance.to_owned())),
        };
        let access = Access::open(options)
            .context("reading the key file")
            .hint("`cairn keys new --name NAME` prints an entry that is right")?;
        let admin = self.admin_listen.as_ref().map(|address| {
            AdminListener::bind(address)
                .with_context(|| format!("cannot listen on {address} for admins"))
                .hint("choose another address with `--admin-listen`")
        });
        Ok(Guarded { access, admin: admin.transpose()? })
    }
}

impl Guarded {
    /// Says where admins are listened to, and lets the server ask for keys; what changes is an event.
    pub(crate) fn announce(&self, state: &ServerState, events: &EventLog) {
        state.guard(self.access.clone());
        let events = events.clone();
        self.access.on_change(move |change| events.emit(event(change)));
        if let Some(admin) = &self.admin {
            output::say(format_args!("admin endpoints on {}", admin.address()));
        }
    }

    /// Does what goes on beside the server as long as that runs, and keeps its usage at the end.
    pub(crate) async fn beside<T>(&self, state: ServerState, server: impl Future<Output = T>) -> T {
        let background = tokio::spawn(self.access.clone().run());
        let admin = async {
            if let Some(admin) = &self.admin
                && let Err(error) = admin.serve(state).await
            {
                tracing::error!(%error, "the admin address does not answer");
            }
            std::future::pending().await
        };
        let result = tokio::select! {
            result = server => result,
            never = admin => never,
        };
        background.abort();
        self.access.flush();
        result
    }
}
