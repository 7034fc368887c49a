//! What is told of keys on the metrics page.
//!
//! What this module deliberately does not do: no series for what clients send; names come from the
//! key file, and their number is bounded there.

use super::registry::Access;
use super::usage::Refusal;
use crate::telemetry::{self as names, Metric};

/// Labels and a value.
pub(crate) type Series = (Vec<(&'static str, String)>, String);

/// The name that stands for requests without a key that is one; no key has it.
const NOBODY: &str = "-";

impl Access {
    /// All series about keys.
    pub(crate) fn series(&self) -> Vec<(Metric, Vec<Series>)> {
        let [num_unknown, num_reloads, num_failed_reloads] = self.counts();
        let series = |labels: [(&'static str, &str); 2], count: u64| -> Series {
            let labels = labels.into_iter().filter(|(_, label)| !label.is_empty());
            (labels.map(|(name, label)| (name, label.to_owned())).collect(), count.to_string())
        };
        let unknown = [("key", NOBODY), ("outcome", "unauthorized")];
        let mut requests = vec![series(unknown, num_unknown)];
        let (mut tokens, mut limited) = (Vec::new(), Vec::new());
        let mut keys = self.keys();
        // Several keys by flag are one name.
        keys.dedup_by(|a, b| a.entry.name == b.entry.name);
        for key in keys {
            let (name, total) = (key.entry.name.as_str(), key.ledger.total());
            for (outcome, count) in [
                ("accepted", total.requests),
                ("forbidden", total.num_refused(false)),
                ("limited", total.num_refused(true)),
            ] {
                requests.push(series([("key", name), ("outcome", outcome)], count));
            }
            for (kind, count) in [
                ("prompt", total.prompt_tokens),
                ("cached", total.cached_tokens),
                ("completion", total.completion_tokens),
            ] {
                tokens.push(series([("key", name), ("kind", kind)], count));
            }
            for limit in Refusal::ALL.into_iter().filter(|refusal| refusal.is_limit()) {
                let count = total.refused.get(&limit).copied().unwrap_or_default();
                limited.push(series([("key", name), ("limit", limit.as_str())], count));
            }
        }
        let reload = |outcome, count| series([("outcome", outcome), ("", "")], count);
        vec![
            (names::KEY_REQUESTS, requests),
            (names::KEY_TOKENS, tokens),
            (names::KEY_LIMITED, limited),
            (
                names::KEY_FILE_RELOADS,
                vec![reload("ok", num_reloads), reload("failed", num_failed_reloads)],
            ),
        ]
    }
}
