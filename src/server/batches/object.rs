//! Files and batches as `OpenAI`'s API shows them, which is also how they lie on disk.
//!
//! What this module deliberately does not do: it reads and writes nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// How long a batch may take, in seconds: the one `completion_window` that there is.
pub(super) const COMPLETION_WINDOW_SECONDS: u64 = 24 * 60 * 60;
/// What it is called.
pub(super) const COMPLETION_WINDOW: &str = "24h";

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(super) struct FileObject {
    pub(super) id: String,
    pub(super) object: String,
    pub(super) bytes: u64,
    pub(super) created_at: u64,
    pub(super) filename: String,
    pub(super) purpose: String,
    pub(super) status: String,
}

impl FileObject {
    pub(super) fn new(id: String, bytes: u64, filename: String, purpose: &str) -> Self {
        Self {
            id,
            object: "file".to_owned(),
            bytes,
            created_at: now(),
            filename,
            purpose: purpose.to_owned(),
            status: "processed".to_owned(),
        }
    }
}

/// Where a batch is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum BatchStatus {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl BatchStatus {
    /// Whether nothing more will happen to it.
    pub(super) const fn is_final(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }
}

/// How many lines have which result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(super) struct RequestCounts {
    pub(super) total: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
}

/// Why a batch failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(super) struct BatchErrors {
    pub(super) object: String,
    pub(super) data: Vec<BatchError>,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(super) struct BatchError {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) line: Option<u64>,
}

/// A batch. Absent times are left out, as the schema has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(super) struct BatchObject {
    pub(super) id: String,
    pub(super) object: String,
    pub(super) endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) errors: Option<BatchErrors>,
    pub(super) input_file_id: String,
    pub(super) completion_window: String,
    pub(super) status: BatchStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) output_file_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error_file_id: Option<String>,
    pub(super) created_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) in_progress_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) finalizing_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) completed_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failed_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expired_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cancelling_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cancelled_at: Option<u64>,
    pub(super) request_counts: RequestCounts,
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    pub(super) metadata: Option<Map<String, Value>>,
}

impl BatchObject {
    /// A batch that was just asked for.
    pub(super) fn new(
        id: String,
        endpoint: String,
        input_file_id: String,
        metadata: Option<Map<String, Value>>,
    ) -> Self {
        let created_at = now();
        Self {
            id,
            object: "batch".to_owned(),
            endpoint,
            errors: None,
            input_file_id,
            completion_window: COMPLETION_WINDOW.to_owned(),
            status: BatchStatus::Validating,
            output_file_id: None,
            error_file_id: None,
            created_at,
            in_progress_at: None,
            expires_at: Some(created_at.saturating_add(COMPLETION_WINDOW_SECONDS)),
            finalizing_at: None,
            completed_at: None,
            failed_at: None,
            expired_at: None,
            cancelling_at: None,
            cancelled_at: None,
            request_counts: RequestCounts::default(),
            metadata,
        }
    }

    /// Goes on to another status, and notes when.
    pub(super) fn enter(&mut self, status: BatchStatus) {
        self.status = status;
        let at = match status {
            BatchStatus::Validating => return,
            BatchStatus::Failed => &mut self.failed_at,
            BatchStatus::InProgress => &mut self.in_progress_at,
            BatchStatus::Finalizing => &mut self.finalizing_at,
            BatchStatus::Completed => &mut self.completed_at,
            BatchStatus::Expired => &mut self.expired_at,
            BatchStatus::Cancelling => &mut self.cancelling_at,
            BatchStatus::Cancelled => &mut self.cancelled_at,
        };
        *at = Some(now());
    }

    /// Gives it up as a whole.
    pub(super) fn fail(&mut self, code: &str, message: String) {
        let error = BatchError { code: code.to_owned(), message, param: None, line: None };
        self.errors = Some(BatchErrors { object: "list".to_owned(), data: vec![error] });
        self.enter(BatchStatus::Failed);
    }
}
