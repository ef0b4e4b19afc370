//! One announce or one scrape, over what the tracker's URL says: which URLs are asked at all, and what an answer and a
//! failure are.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

use super::{Deadlines, http, udp};
use crate::engine::http::FetchError;
use crate::engine::network::Network;
use crate::engine::reach::refusal;
use crate::node::Place;
use crate::wire::{AnnounceQuery, AnnounceReply, MAX_SCRAPE, ScrapeEntry, TrackerError};

/// Why a tracker did not answer. None of them names the URL, which may hold a passkey.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nothing could be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A UDP tracker was silent for all of this, repeated requests included.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// A refusal in the tracker's own words, or no reply.
    #[error(transparent)]
    Reply(#[from] TrackerError),
}

/// A tracker's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: AnnounceReply,
    /// Where it came from.
    pub(super) place: Place,
}

/// How long the other family has once one has answered: the first peers should not wait for a network that is cut.
const OTHER_FAMILY: Duration = Duration::from_millis(500);

/// The answers over both families as one: a tracker can only tell peers of the family that it is asked over. The first
/// answer ends the wait for the other one soon.
pub(super) async fn of_all(mut flights: JoinSet<Result<Answer, AskError>>) -> Option<Result<Answer, AskError>> {
    let mut answers: Vec<Answer> = Vec::new();
    let mut failure = None;
    loop {
        let patience = if answers.is_empty() { Duration::MAX } else { OTHER_FAMILY };
        let Ok(Some(landed)) = timeout(patience, flights.join_next()).await else { break };
        match landed.unwrap_or_else(|panicked| Err(FetchError::Transfer(panicked.to_string()).into())) {
            Ok(answer) => answers.push(answer),
            // What the tracker itself says is worth more than what the network does.
            Err(error) if !matches!(failure, Some(AskError::Reply(_))) => failure = Some(error),
            Err(_) => {}
        }
    }
    answers.into_iter().reduce(both).map(Ok).or_else(|| failure.map(Err))
}

fn both(one: Answer, other: Answer) -> Answer {
    let peers: BTreeSet<SocketAddr> = one.reply.peers.into_iter().chain(other.reply.peers).collect();
    let reply = AnnounceReply {
        peers: peers.into_iter().collect(),
        interval: one.reply.interval.max(other.reply.interval),
        min_interval: one.reply.min_interval.max(other.reply.min_interval),
        tracker_id: one.reply.tracker_id.or(other.reply.tracker_id),
        warning: one.reply.warning.or(other.reply.warning),
        external_ip: one.reply.external_ip.or(other.reply.external_ip),
        // Trackers count either one family or both.
        complete: one.reply.complete.max(other.reply.complete),
        incomplete: one.reply.incomplete.max(other.reply.incomplete),
    };
    // It may name what both may.
    Answer { reply, place: one.place.min(other.place) }
}

/// How a tracker is asked.
#[derive(Debug)]
enum Target {
    Http,
    Udp(udp::Endpoint),
}

/// How a tracker is asked, or why it cannot be used at all.
fn target(tracker: &str) -> Result<Target, &'static str> {
    let url = Url::parse(tracker).map_err(|_| "it is not a URL")?;
    let target = match url.scheme() {
        "http" | "https" => refusal(&url).map_or(Ok(Target::Http), Err),
        "udp" => udp::Endpoint::of(&url).map(Target::Udp),
        "ws" | "wss" => Err("WebTorrent trackers are not built yet"),
        _ => Err("only http, https and udp trackers can be used"),
    }?;
    let ours = url.query_pairs().any(|(key, _)| key == "info_hash" || key == "event");
    if ours { Err("its query holds parameters that are ours to set") } else { Ok(target) }
}

/// Why a tracker's URL cannot be used at all, if so.
pub(super) fn unusable(tracker: &str) -> Option<&'static str> {
    target(tracker).err()
}

/// Why a tracker cannot be asked over this network, if so.
pub(super) fn unreachable(tracker: &str, network: &Network) -> Option<&'static str> {
    let datagrams = matches!(target(tracker), Ok(Target::Udp(_)));
    (datagrams && !network.is_direct()).then_some("UDP trackers are not asked through a proxy")
}

/// How a tracker is asked over this network.
fn reachable(tracker: &str, network: &Network) -> Result<Target, FetchError> {
    match unreachable(tracker, network) {
        Some(why) => Err(FetchError::Refused(why)),
        None => target(tracker).map_err(FetchError::Refused),
    }
}

/// Announces to one tracker.
pub(super) async fn announce(
    tracker: &str,
    query: &AnnounceQuery,
    network: &Network,
    deadlines: Deadlines,
) -> Result<Answer, AskError> {
    match reachable(tracker, network)? {
        Target::Http => http::announce(tracker, query, network, deadlines).await,
        Target::Udp(endpoint) => udp::announce(endpoint, query, network, deadlines).await,
    }
}

/// Asks a tracker for the figures of torrents: over UDP (BEP 15), or HTTP where its URL says how (BEP 48). They come in
/// the order of `info_hashes`, zeros for a torrent that it does not know. Must be called inside a tokio runtime.
///
/// # Errors
/// [`AskError`] if it cannot be asked, does not answer in time, or refuses; nothing then of what it may have said.
pub async fn scrape(
    tracker: &str,
    info_hashes: &[[u8; 20]],
    network: &Network,
    deadlines: Deadlines,
) -> Result<Vec<ScrapeEntry>, AskError> {
    let target = reachable(tracker, network)?;
    let mut entries = Vec::with_capacity(info_hashes.len());
    for some in info_hashes.chunks(MAX_SCRAPE) {
        entries.extend(match &target {
            Target::Http => http::scrape(tracker, some, network, deadlines).await?,
            Target::Udp(endpoint) => udp::scrape(endpoint.clone(), some, network, deadlines).await?,
        });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_used_say_why() {
        for tracker in [
            "http://t.example/announce",
            "https://t.example:8443/announce?passkey=abc",
            "http://127.0.0.1:6969/announce",
            "http://[::1]:6969/announce",
            "udp://t.example:6969",
            "UDP://t.example:6969/announce?passkey=abc",
            "udp://[::1]:6969/",
        ] {
            assert_eq!(unusable(tracker), None, "{tracker}");
        }
        for (tracker, why) in [
            ("udp://t.example/announce", "it names no port"),
            ("udp://t.example:0/announce", "it names no port"),
            ("udp:///announce", "it names no host"),
            ("udp:t.example:6969", "it names no host"),
            ("udp://ex\u{e4}mple.org:6969/announce", "international host names are refused"),
            ("udp://a.XN--80ak6aa92e.com:6969", "international host names are refused"),
            ("udp://t.example:6969/?info_hash=x", "its query holds parameters that are ours to set"),
            ("wss://t.example", "WebTorrent trackers are not built yet"),
            ("ftp://t.example/announce", "only http, https and udp trackers can be used"),
            ("file:///etc/passwd", "only http, https and udp trackers can be used"),
            ("announce", "it is not a URL"),
            ("", "it is not a URL"),
            ("http://t.example/announce?info_hash=x", "its query holds parameters that are ours to set"),
            ("http://t.example/x?a=b&event=stopped", "its query holds parameters that are ours to set"),
            ("http://t.example/x?%65vent=stopped", "its query holds parameters that are ours to set"),
            ("http://ex\u{e4}mple.org/announce", "international host names are refused"),
            ("http://a.xn--80ak6aa92e.com/announce", "international host names are refused"),
        ] {
            assert_eq!(unusable(tracker), Some(why), "{tracker}");
        }
    }
}
