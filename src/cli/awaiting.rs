//! Waiting for the metadata of a magnet link (BEP 9), and saying what is awaited.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tracing::info;

use super::info::escaped;
use super::mount::Ending;
use super::progress;
use crate::engine::Finding;
use crate::error::Error;
use crate::metainfo::Metainfo;

/// How often the log says what is awaited, if that has changed.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How often the line on a terminal changes.
const DRAW: Duration = Duration::from_millis(200);

/// The metadata. The log says what is awaited.
///
/// # Errors
/// As [`Finding::metadata`].
pub(crate) async fn in_the_log(finding: &Finding) -> Result<Arc<Metainfo>, Error> {
    let name = finding.magnet().label();
    let mut said = String::new();
    let metadata = finding.metadata();
    tokio::pin!(metadata);
    let mut due = tokio::time::interval(SAY_EVERY);
    loop {
        tokio::select! {
            found = &mut metadata => return found,
            _ = due.tick() => {
                let status = finding.status();
                if status != said {
                    info!(torrent = %name, "its metadata is awaited: {status}");
                    said = status;
                }
            }
        }
    }
}

/// The metadata, with a line on a terminal; none if a signal came first.
///
/// # Errors
/// As [`Finding::metadata`].
pub(crate) async fn on_the_terminal(finding: &Finding, ending: &mut Ending) -> Result<Option<Arc<Metainfo>>, Error> {
    let name = escaped(&finding.magnet().label());
    let bar = progress::message_bar(&name);
    let metadata = in_the_log(finding);
    tokio::pin!(metadata);
    let found = loop {
        tokio::select! {
            found = &mut metadata => break found.map(Some),
            () = ending.signal() => break Ok(None),
            () = tokio::time::sleep(DRAW), if !bar.is_hidden() => bar.set_message(finding.status()),
        }
    };
    bar.finish_and_clear();
    found
}
