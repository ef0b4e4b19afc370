//! One announce or scrape over HTTP(S): our own redirects, every address checked before a connection is made to it, every wait
//! under a deadline, every body capped after inflation.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Response, StatusCode, header};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use url::{Host, Url};

use super::Deadlines;
use super::ask::{Answer, AskError, LOCAL_TARGET, refusal};
use super::reach::{Place, Reach};
use super::resolve::lookup;
use crate::engine::network::Network;
use crate::wire::{
    AnnounceQuery, ScrapeEntry, TrackerError, announce_url, decode_http_reply, decode_http_scrape, scrape_url,
};

/// The most bytes of a reply, inflated: libtorrent's cap.
const MAX_BODY: usize = 1 << 20;
/// The most redirects of one announce.
pub(super) const MAX_REDIRECTS: usize = 5;
/// Requests of the process at one time, so that many torrents do not open many sockets at once.
static REQUESTS: Semaphore = Semaphore::const_new(50);

/// Announces to one tracker.
pub(super) async fn announce(
    tracker: &str,
    query: &AnnounceQuery,
    network: &Network,
    deadlines: Deadlines,
) -> Result<Answer, AskError> {
    let reach = reach_of(tracker)?;
    let fetched = fetch(&announce_url(tracker, query), reach, network, deadlines).await?;
    Ok(Answer { reply: fetched.decoded(decode_http_reply)?, place: fetched.place })
}

/// The figures of torrents, if the tracker's URL says where they are asked for (BEP 48).
pub(super) async fn scrape(
    tracker: &str,
    info_hashes: &[[u8; 20]],
    network: &Network,
    deadlines: Deadlines,
) -> Result<Vec<ScrapeEntry>, AskError> {
    // What may be announced to may be scraped.
    let reach = reach_of(tracker)?;
    let url = scrape_url(tracker, info_hashes);
    let url = url.ok_or(AskError::Refused("its URL does not end in announce, so it says nowhere to scrape"))?;
    fetch(&url, reach, network, deadlines).await?.decoded(|body| decode_http_scrape(body, info_hashes))
}

fn reach_of(tracker: &str) -> Result<Reach, AskError> {
    Url::parse(tracker).map(|url| Reach::given(url.path())).map_err(|_| AskError::Refused("it is not a URL"))
}

/// What came in the end.
struct Fetched {
    status: StatusCode,
    body: Vec<u8>,
    /// Where it came from.
    place: Place,
}

impl Fetched {
    /// The reply; of an HTTP failure only what the tracker itself gives as the reason.
    fn decoded<T>(&self, decode: impl FnOnce(&[u8]) -> Result<T, TrackerError>) -> Result<T, AskError> {
        let reply = decode(&self.body);
        if self.status.is_success() || matches!(reply, Err(TrackerError::Failure(_))) {
            Ok(reply?)
        } else {
            Err(AskError::Status(self.status.as_u16()))
        }
    }
}

/// Asks for a URL. At most 50 such requests run at once in the process; the others wait here, outside their deadlines.
async fn fetch(url: &str, reach: Reach, network: &Network, deadlines: Deadlines) -> Result<Fetched, AskError> {
    // The semaphore is never closed.
    let _turn = REQUESTS.acquire().await;
    timeout(deadlines.total, follow(url, reach, network, deadlines))
        .await
        .unwrap_or(Err(AskError::Deadline(deadlines.total)))
}

async fn follow(url: &str, mut reach: Reach, network: &Network, deadlines: Deadlines) -> Result<Fetched, AskError> {
    let mut url = Url::parse(url).map_err(|_| AskError::Refused("it is not a URL"))?;
    for _ in 0..=MAX_REDIRECTS {
        let response = send(&url, reach, network, deadlines).await?;
        // No address would be a proxy's, and there is none: nothing inward is allowed then.
        let place = response.remote_addr().map_or(Place::Global, |addr| Place::of(addr.ip()));
        if !response.status().is_redirection() {
            return Ok(Fetched { status: response.status(), body: read(response, deadlines).await?, place });
        }
        let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let location = location.ok_or_else(|| AskError::Status(response.status().as_u16()))?;
        url = url.join(location).map_err(|_| AskError::Refused("it redirects to what is not a URL"))?;
        if let Some(why) = refusal(&url) {
            return Err(AskError::Refused(why));
        }
        reach = Reach::redirected(place, url.path());
    }
    Err(AskError::Redirects)
}

async fn send(url: &Url, reach: Reach, network: &Network, deadlines: Deadlines) -> Result<Response, AskError> {
    // The resolver checks names; addresses never get there.
    let literal = match url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
        _ => None,
    };
    if literal.is_some_and(|ip| !reach.admits(ip)) {
        return Err(AskError::Refused(LOCAL_TARGET));
    }
    let request = client(network, reach, deadlines.connect).map_err(failed)?.get(url.clone());
    let deadline = deadlines.connect + deadlines.receive;
    timeout(deadline, request.send()).await.map_err(|_| AskError::Deadline(deadline))?.map_err(failed)
}

async fn read(mut response: Response, deadlines: Deadlines) -> Result<Vec<u8>, AskError> {
    let mut body = Vec::new();
    loop {
        let chunk = timeout(deadlines.receive, response.chunk()).await;
        match chunk.map_err(|_| AskError::Deadline(deadlines.receive))?.map_err(failed)? {
            None => return Ok(body),
            Some(chunk) if body.len() + chunk.len() > MAX_BODY => return Err(AskError::TooLong),
            Some(chunk) => body.extend_from_slice(&chunk),
        }
    }
}

/// The innermost cause, which is what a user can act on ("connection refused"), without the URL.
fn failed(error: reqwest::Error) -> AskError {
    if error.is_timeout() {
        return AskError::Transfer("it cannot be reached in time".to_owned());
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    AskError::Transfer(cause.to_string())
}

/// What clients differ in.
type ClientKey = (Network, Reach, Duration);

/// The process's client for this reach: it resolves and checks names itself, so that what was checked is what is
/// connected to. There are a handful of them, and each loads the system's certificates once.
fn client(network: &Network, reach: Reach, connect: Duration) -> reqwest::Result<Client> {
    static CLIENTS: Mutex<BTreeMap<ClientKey, Client>> = Mutex::new(BTreeMap::new());
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = clients.get(&(network.clone(), reach, connect)) {
        return Ok(client.clone());
    }
    // reqwest panics without a provider. An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        network
            .http(Client::builder())
            .user_agent(concat!("swarmfs/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .connect_timeout(connect)
            // Announces are minutes apart: an idle connection is a descriptor for nothing.
            .pool_max_idle_per_host(0)
            .dns_resolver(GuardedResolver(network.clone(), reach))
    };
    let client = builder().build().or_else(|error| {
        tracing::warn!("https trackers cannot be used: {}", failed(error));
        builder().tls_certs_only(std::iter::empty::<Certificate>()).build()
    })?;
    clients.insert((network.clone(), reach, connect), client.clone());
    Ok(client)
}

/// The network's resolver, with what is out of reach left out.
#[derive(Debug)]
struct GuardedResolver(Network, Reach);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (network, reach) = (self.0.clone(), self.1);
        Box::pin(async move {
            let found = lookup(&network, name.as_str(), 0, reach).await?;
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            all.spawn(async move { announce(&url, &query, &Network::default(), Deadlines::default()).await });
        }
        for wave in [50, 10] {
            let came = async {
                while held.lock().expect("not poisoned").len() < wave {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(9), came).await.expect("the wave comes");
            assert_eq!(REQUESTS.available_permits(), 50 - wave);
            // Hangs up on all of them.
            held.lock().expect("not poisoned").clear();
            for _ in 0..wave {
                let end = all.join_next().await.expect("one for each").expect("no panic");
                assert!(matches!(end, Err(AskError::Transfer(_))), "{end:?}");
            }
        }
    }
}
