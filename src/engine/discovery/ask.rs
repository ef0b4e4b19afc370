//! One announce or one scrape, over what the tracker's URL says: which URLs are asked at all, and what an answer and a
//! failure are.

use std::time::Duration;

use url::{Host, Url};

use super::{Deadlines, http, udp};
use crate::engine::network::Network;
use crate::node::Place;
use crate::wire::{AnnounceQuery, AnnounceReply, MAX_SCRAPE, ScrapeEntry, TrackerError};

/// Why a tracker did not answer. None of them names the URL, which may hold a passkey.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// A deadline of an HTTP tracker is over.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// A UDP tracker was silent for all of this, repeated requests included.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The network's or the resolver's own words.
    #[error("{0}")]
    Transfer(String),
    /// An HTTP status without a reply.
    #[error("it answers with HTTP status {0}")]
    Status(u16),
    /// A loop, most likely.
    #[error("it redirects more than {} times", http::MAX_REDIRECTS)]
    Redirects,
    /// Not asked at all, or no further.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// Nothing that a tracker has to say is that long.
    #[error("its answer is longer than 1 MiB")]
    TooLong,
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

pub(super) const LOCAL_TARGET: &str = "it leads to an address of this machine or network that is no tracker's";

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

/// Why an HTTP URL, the torrent's or a redirect's, is not asked whatever its address; libtorrent's rules.
pub(super) fn refusal(url: &Url) -> Option<&'static str> {
    match url.host() {
        _ if !matches!(url.scheme(), "http" | "https") => Some("it leads to what is neither http nor https"),
        None => Some("it names no host"),
        Some(Host::Domain(name)) => international(name),
        Some(_) => None,
    }
}

/// Why a host's name is refused, if it holds look-alike letters: they would lead elsewhere than they read.
pub(super) fn international(name: &str) -> Option<&'static str> {
    let encoded = |label: &str| label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
    let foreign = !name.is_ascii() || name.contains('%') || name.split('.').any(encoded);
    foreign.then_some("international host names are refused")
}

/// Scheme, host and port of a URL: what may be logged of it.
pub(super) fn origin(tracker: &str) -> String {
    Url::parse(tracker).map_or_else(
        |_| "a tracker without a URL".to_owned(),
        |url| {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
        },
    )
}

/// Announces to one tracker.
pub(super) async fn announce(
    tracker: &str,
    query: &AnnounceQuery,
    network: &Network,
    deadlines: Deadlines,
) -> Result<Answer, AskError> {
    match target(tracker).map_err(AskError::Refused)? {
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
    let target = target(tracker).map_err(AskError::Refused)?;
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

    #[test]
    fn logs_get_no_passkey() {
        assert_eq!(
            origin("https://user:secret@t.example:8443/secret/announce?passkey=secret"),
            "https://t.example:8443"
        );
        assert_eq!(origin("udp://t.example:6969/secret"), "udp://t.example:6969");
        assert_eq!(origin("secret"), "a tracker without a URL");
    }
}
