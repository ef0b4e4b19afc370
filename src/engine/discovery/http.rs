//! One announce over HTTP(S): our own redirects, every address checked before a connection is made to it, every wait
//! under a deadline, every body capped after inflation.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Response, StatusCode, header};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use url::{Host, Url};

use super::Deadlines;
use super::reach::{Place, Reach};
use crate::wire::{AnnounceQuery, AnnounceReply, TrackerError, announce_url, decode_http_reply};

/// The most bytes of a reply, inflated: libtorrent's cap.
const MAX_BODY: usize = 1 << 20;
/// The most redirects of one announce.
const MAX_REDIRECTS: usize = 5;
/// Announces of the process at one time, so that many torrents do not open many sockets at once.
static ANNOUNCES: Semaphore = Semaphore::const_new(50);
/// Name lookups of the process at one time: each holds a thread for as long as the resolver likes.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

/// Why an announce failed. None of them names the URL, which may hold a passkey.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnnounceError {
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error("{0}")]
    Transfer(String),
    #[error("it answers with HTTP status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("it redirects more than {MAX_REDIRECTS} times")]
    Redirects,
    #[error("refused: {0}")]
    Refused(&'static str),
    #[error("its answer is longer than 1 MiB")]
    TooLong,
    #[error(transparent)]
    Reply(#[from] TrackerError),
}

/// A tracker's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: AnnounceReply,
    /// It came from this machine or network.
    pub(super) local: bool,
}

const LOCAL_TARGET: &str = "it leads to an address of this machine or network that is no tracker's";

/// Why a tracker's URL cannot be used at all, if so.
pub(super) fn unusable(tracker: &str) -> Option<&'static str> {
    let Ok(url) = Url::parse(tracker) else { return Some("it is not a URL") };
    match url.scheme() {
        "http" | "https" => refusal(&url).or_else(|| {
            url.query_pairs()
                .any(|(key, _)| key == "info_hash" || key == "event")
                .then_some("its query holds parameters that are ours to set")
        }),
        "udp" => Some("UDP trackers are not built yet"),
        "ws" | "wss" => Some("WebTorrent trackers are not built yet"),
        _ => Some("only http and https trackers can be used"),
    }
}

/// Why a URL, the torrent's or a redirect's, is not asked whatever its address; libtorrent's rules.
fn refusal(url: &Url) -> Option<&'static str> {
    match url.host() {
        _ if !matches!(url.scheme(), "http" | "https") => Some("only http and https trackers can be used"),
        None => Some("it names no host"),
        // Look-alike letters would lead elsewhere than it reads.
        Some(Host::Domain(name)) if name.split('.').any(|label| label.starts_with("xn--")) => {
            Some("international host names are refused")
        }
        Some(_) => None,
    }
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

/// Announces to one tracker. At most 50 run at once in the process; the others wait here, outside their deadlines.
pub(super) async fn announce(
    tracker: &str,
    query: &AnnounceQuery,
    bind: Option<IpAddr>,
    deadlines: Deadlines,
) -> Result<Answer, AnnounceError> {
    // The semaphore is never closed.
    let _turn = ANNOUNCES.acquire().await;
    timeout(deadlines.total, follow(tracker, query, bind, deadlines))
        .await
        .unwrap_or(Err(AnnounceError::Deadline(deadlines.total)))
}

async fn follow(
    tracker: &str,
    query: &AnnounceQuery,
    bind: Option<IpAddr>,
    deadlines: Deadlines,
) -> Result<Answer, AnnounceError> {
    if let Some(why) = unusable(tracker) {
        return Err(AnnounceError::Refused(why));
    }
    let mut url = Url::parse(&announce_url(tracker, query)).map_err(|_| AnnounceError::Refused("it is not a URL"))?;
    let mut reach = Reach::given(url.path());
    for _ in 0..=MAX_REDIRECTS {
        let response = send(&url, reach, bind, deadlines).await?;
        // No address would be a proxy's, and there is none: nothing inward is allowed then.
        let place = response.remote_addr().map_or(Place::Global, |addr| Place::of(addr.ip()));
        if !response.status().is_redirection() {
            let reply = read(response, deadlines).await?;
            return Ok(Answer { reply, local: place != Place::Global });
        }
        let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let location = location.ok_or_else(|| AnnounceError::Status(response.status()))?;
        url = url.join(location).map_err(|_| AnnounceError::Refused("it redirects to what is not a URL"))?;
        if let Some(why) = refusal(&url) {
            return Err(AnnounceError::Refused(why));
        }
        reach = Reach::redirected(place, url.path());
    }
    Err(AnnounceError::Redirects)
}

async fn send(url: &Url, reach: Reach, bind: Option<IpAddr>, deadlines: Deadlines) -> Result<Response, AnnounceError> {
    // The resolver checks names; addresses never get there.
    let literal = match url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
        _ => None,
    };
    if literal.is_some_and(|ip| !reach.admits(ip)) {
        return Err(AnnounceError::Refused(LOCAL_TARGET));
    }
    let request = client(bind, reach, deadlines.connect).map_err(failed)?.get(url.clone());
    let deadline = deadlines.connect + deadlines.receive;
    timeout(deadline, request.send()).await.map_err(|_| AnnounceError::Deadline(deadline))?.map_err(failed)
}

async fn read(mut response: Response, deadlines: Deadlines) -> Result<AnnounceReply, AnnounceError> {
    let status = response.status();
    let mut body = Vec::new();
    loop {
        let chunk = timeout(deadlines.receive, response.chunk()).await;
        match chunk.map_err(|_| AnnounceError::Deadline(deadlines.receive))?.map_err(failed)? {
            None => break,
            Some(chunk) if body.len() + chunk.len() > MAX_BODY => return Err(AnnounceError::TooLong),
            Some(chunk) => body.extend_from_slice(&chunk),
        }
    }
    let reply = decode_http_reply(&body);
    if status.is_success() || matches!(reply, Err(TrackerError::Failure(_))) {
        Ok(reply?)
    } else {
        Err(AnnounceError::Status(status))
    }
}

/// The innermost cause, which is what a user can act on ("connection refused"), without the URL.
fn failed(error: reqwest::Error) -> AnnounceError {
    if error.is_timeout() {
        return AnnounceError::Transfer("it cannot be reached in time".to_owned());
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    AnnounceError::Transfer(cause.to_string())
}

/// What clients differ in.
type ClientKey = (Option<IpAddr>, Reach, Duration);

/// The process's client for this reach: it resolves and checks names itself, so that what was checked is what is
/// connected to. There are a handful of them, and each loads the system's certificates once.
fn client(bind: Option<IpAddr>, reach: Reach, connect: Duration) -> reqwest::Result<Client> {
    static CLIENTS: Mutex<BTreeMap<ClientKey, Client>> = Mutex::new(BTreeMap::new());
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = clients.get(&(bind, reach, connect)) {
        return Ok(client.clone());
    }
    // reqwest panics without a provider. An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .user_agent(concat!("swarmfs/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .connect_timeout(connect)
            // Announces are minutes apart: an idle connection is a descriptor for nothing.
            .pool_max_idle_per_host(0)
            .local_address(bind)
            .dns_resolver(GuardedResolver(reach))
    };
    let client = builder().build().or_else(|error| {
        tracing::warn!("https trackers cannot be used: {}", failed(error));
        builder().tls_certs_only(std::iter::empty::<Certificate>()).build()
    })?;
    clients.insert((bind, reach, connect), client.clone());
    Ok(client)
}

/// The system's resolver, with what is out of reach left out.
#[derive(Debug)]
struct GuardedResolver(Reach);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let turn = LOOKUPS.acquire().await?;
            let lookup = tokio::task::spawn_blocking(move || {
                // Held until the thread is free again, though nobody may wait for it any more.
                let _turn = turn;
                (name.as_str(), 0).to_socket_addrs().map(Vec::from_iter)
            });
            let mut found: Vec<SocketAddr> = lookup.await??;
            let any = !found.is_empty();
            found.retain(|addr| reach.admits(addr.ip()));
            if any && found.is_empty() {
                return Err(AnnounceError::Refused(LOCAL_TARGET).into());
            }
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
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
        ] {
            assert_eq!(unusable(tracker), None, "{tracker}");
        }
        for (tracker, why) in [
            ("udp://t.example:6969/announce", "UDP trackers are not built yet"),
            ("wss://t.example", "WebTorrent trackers are not built yet"),
            ("ftp://t.example/announce", "only http and https trackers can be used"),
            ("file:///etc/passwd", "only http and https trackers can be used"),
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
        assert_eq!(origin("udp://t.example:6969"), "udp://t.example:6969");
        assert_eq!(origin("secret"), "a tracker without a URL");
    }

    #[test]
    fn a_query_reaches_the_wire_as_it_was_built() {
        let url = "http://t.example/announce?info_hash=%124Vx%9A%00~-._&peer_id=%25%26";
        assert_eq!(Url::parse(url).expect("a URL").as_str(), url);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn fifty_announces_run_at_once_and_the_others_wait_for_their_turn() {
        use std::sync::Arc;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/announce", listener.local_addr().expect("an address"));
        // Takes every connection and answers none.
        let held = Arc::new(Mutex::new(Vec::new()));
        let holder = Arc::clone(&held);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                holder.lock().expect("not poisoned").push(stream);
            }
        });
        let query = AnnounceQuery {
            info_hash: [1; 20],
            peer_id: crate::wire::PeerId([2; 20]),
            port: 1,
            uploaded: 0,
            downloaded: 0,
            left: 0,
            event: crate::wire::Event::Started,
            numwant: 200,
            key: 0,
            tracker_id: None,
        };
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..60 {
            let (url, query) = (url.clone(), query.clone());
            all.spawn(async move { announce(&url, &query, None, Deadlines::default()).await });
        }
        for wave in [50, 10] {
            let came = async {
                while held.lock().expect("not poisoned").len() < wave {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(9), came).await.expect("the wave comes");
            assert_eq!(ANNOUNCES.available_permits(), 50 - wave);
            // Hangs up on all of them.
            held.lock().expect("not poisoned").clear();
            for _ in 0..wave {
                let end = all.join_next().await.expect("one for each").expect("no panic");
                assert!(matches!(end, Err(AnnounceError::Transfer(_))), "{end:?}");
            }
        }
    }
}
