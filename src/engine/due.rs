//! Waiting for a moment that may not come.

use std::time::Instant;

/// Waits until `at`; for ever, if there is nothing to wait for.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
