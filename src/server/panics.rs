//! A panic in one request stays in that request.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

/// The future panicked; its message went to the panic hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panicked;

/// Runs a future to its end or to its panic.
pub(super) async fn catch_panic<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    // The future is never polled again after a panic, so nobody sees what it left half done; what
    // it shares with other requests is behind locks that ignore poison or is not changed at all.
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => std::task::Poll::Ready(Err(Panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error() {
        async fn fails() -> u32 {
            tokio::task::yield_now().await;
            panic!("as the test wants it")
        }
        assert_eq!(catch_panic(fails()).await, Err(Panicked));
        assert_eq!(catch_panic(async { 5 }).await, Ok(5));
    }
}
