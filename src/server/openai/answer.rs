//! One request answered without HTTP: what a batch of requests in a file needs.
//!
//! ```text
//! path, id, body --answer--> the endpoint's own prepare, generation and shape --> status, JSON
//!                                `- no answer: full for now, or the engine is gone
//! ```
//!
//! Status and JSON are those that the server would send for the same body, but for the time in it.
//! What is no answer to the request but says something of the moment, or of the engine, is told
//! apart: a caller with many requests waits and asks again, or ends.
//!
//! What this module deliberately does not do: streams, and waiting.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::response::{IntoResponse as _, Response};

use super::{chat, completions, embeddings, generate, responses};
use crate::batch::{Answered, Answers, NoAnswer};
use crate::server::ServerState;
use crate::server::access::Grant;
use crate::server::error::ApiError;
use crate::server::panics::catch_panic;

/// Answers a body that was posted to a path, in one piece. The id, a word of letters, digits, `-`,
/// `_` and `.`, becomes part of the answer's own.
///
/// # Errors
/// When there is no answer now.
///
/// # Panics
/// Outside a runtime of tokio.
pub async fn answer(
    state: &ServerState,
    path: &str,
    id: &str,
    body: Arc<[u8]>,
) -> Result<Answered, NoAnswer> {
    answer_for(state, &Grant::default(), path, id, body).await
}

/// The same for somebody, who pays for it.
pub(in crate::server) async fn answer_for(
    state: &ServerState,
    grant: &Grant,
    path: &str,
    id: &str,
    body: Arc<[u8]>,
) -> Result<Answered, NoAnswer> {
    let answered = async {
        match path {
            "/v1/chat/completions" => generate::posted(state, grant, id, body, chat::prepare).await,
            "/v1/completions" => {
                generate::posted(state, grant, id, body, completions::prepare).await
            }
            "/v1/responses" => generate::posted(state, grant, id, body, responses::prepare).await,
            "/v1/embeddings" => embeddings::posted(state, grant, body).await,
            _ => Err(ApiError::UnknownPath { method: "POST".to_owned(), path: path.to_owned() }),
        }
    };
    let response = match catch_panic(answered).await.unwrap_or(Err(ApiError::Internal)) {
        Ok(body) => return Ok(Answered { status: 200, body }),
        Err(error @ ApiError::Overloaded { .. }) => {
            return Err(NoAnswer::Overloaded(error.to_string()));
        }
        Err(error @ (ApiError::Draining | ApiError::EngineStopped | ApiError::EngineDied)) => {
            return Err(NoAnswer::Stopped(error.to_string()));
        }
        Err(error) => error.into_response(),
    };
    Ok(read(response).await)
}

impl Answers for ServerState {
    async fn answer(&self, path: &str, id: &str, body: Arc<[u8]>) -> Result<Answered, NoAnswer> {
        answer(self, path, id, body).await
    }

    fn is_idle(&self) -> bool {
        self.engine().num_unfinished() == 0
    }
}

/// The response's parts; its body lies in memory already.
async fn read(response: Response) -> Answered {
    let (parts, body) = response.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(bytes) => Answered { status: parts.status.as_u16(), body: bytes.into() },
        Err(_) => Answered { status: 500, body: ApiError::Internal.body().to_json() },
    }
}
