//! `swarmfs info --scrape`: every tracker of a torrent is asked, all at once, for its figures.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use super::info::escaped;
use crate::engine::Network;
use crate::engine::discovery::{self, Deadlines};
use crate::metainfo::Metainfo;

/// Somebody waits for the figures: a UDP tracker has 5 s and then 10 s.
const RETRY: Duration = Duration::from_secs(5);

/// What a tracker says of the torrent.
#[derive(Debug, Serialize)]
pub(crate) struct Scraped {
    tracker: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Figures { seeds: u32, leechers: u32, completed: u32 },
    Failure { error: String },
}

impl Scraped {
    /// True if the tracker gave figures.
    pub(crate) fn answered(&self) -> bool {
        matches!(self.outcome, Outcome::Figures { .. })
    }
}

/// Asks all trackers of a torrent, each once, and gives what they say in the torrent's order.
///
/// # Errors
/// If the runtime cannot be started.
pub(crate) fn all(meta: &Metainfo, network: &Network) -> Result<Vec<Scraped>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let mut seen = BTreeSet::new();
    let urls: Vec<String> = meta.trackers.iter().flatten().filter(|url| seen.insert(*url)).cloned().collect();
    let hash = meta.id.wire();
    let deadlines = Deadlines { retry: RETRY, ..Deadlines::default() };
    let mut outcomes: Vec<_> = runtime.block_on(async {
        let mut asked = JoinSet::new();
        for (n, tracker) in urls.into_iter().enumerate() {
            let network = network.clone();
            asked.spawn(async move {
                let outcome = match discovery::scrape(&tracker, &[hash], &network, deadlines).await {
                    Ok(entries) => {
                        let entry = entries.first().copied().unwrap_or_default();
                        let (seeds, leechers, completed) = (entry.complete, entry.incomplete, entry.downloaded);
                        Outcome::Figures { seeds, leechers, completed }
                    }
                    Err(error) => Outcome::Failure { error: error.to_string() },
                };
                (n, Scraped { tracker, outcome })
            });
        }
        asked.join_all().await
    });
    // A resolver may hold a thread for longer than anybody waits.
    runtime.shutdown_background();
    outcomes.sort_by_key(|(n, _)| *n);
    Ok(outcomes.into_iter().map(|(_, scraped)| scraped).collect())
}

/// One line for each tracker.
pub(crate) fn print(scraped: &[Scraped], out: &mut impl Write) -> io::Result<()> {
    for Scraped { tracker, outcome } in scraped {
        let tracker = escaped(tracker);
        match outcome {
            Outcome::Figures { seeds, leechers, completed } => {
                writeln!(out, "scrape        {tracker}: seeds {seeds}, leechers {leechers}, completed {completed}")
            }
            Outcome::Failure { error } => writeln!(out, "scrape        {tracker}: {}", escaped(error)),
        }?;
    }
    Ok(())
}
