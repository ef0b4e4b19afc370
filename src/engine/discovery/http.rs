//! One announce or scrape over HTTP(S).

use reqwest::StatusCode;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Deadlines;
use super::ask::{Answer, AskError, of_all};
use crate::engine::http::{FetchError, Patience, Target, get};
use crate::engine::network::Network;
use crate::engine::reach::{Place, Purpose};
use crate::wire::{
    AnnounceQuery, ScrapeEntry, TrackerError, announce_url, decode_http_reply, decode_http_scrape, scrape_url,
};

/// The most bytes of a reply, inflated: libtorrent's cap.
const MAX_BODY: usize = 1 << 20;
/// Requests of the process at one time, so that many torrents do not open many sockets at once.
static REQUESTS: Semaphore = Semaphore::const_new(50);

/// Announces to one tracker, over every family that its name has addresses of.
pub(super) async fn announce(
    tracker: &str,
    query: &AnnounceQuery,
    network: &Network,
    deadlines: Deadlines,
) -> Result<Answer, AskError> {
    let target = Target::made(Purpose::Tracker, tracker, &announce_url(tracker, query))?;
    let families = timeout(deadlines.connect, target.clone().of_families(network)).await.unwrap_or_default();
    let mut flights = JoinSet::new();
    for target in families {
        let network = network.clone();
        flights.spawn(async move {
            let fetched = fetch(target, &network, deadlines).await?;
            Ok(Answer { reply: fetched.decoded(decode_http_reply)?, place: fetched.place })
        });
    }
    let late = || Err(FetchError::Deadline(deadlines.connect).into());
    of_all(flights).await.unwrap_or_else(late)
}

/// The figures of torrents, if the tracker's URL says where they are asked for (BEP 48).
pub(super) async fn scrape(
    tracker: &str,
    info_hashes: &[[u8; 20]],
    network: &Network,
    deadlines: Deadlines,
) -> Result<Vec<ScrapeEntry>, AskError> {
    let url = scrape_url(tracker, info_hashes);
    let url = url.ok_or(FetchError::Refused("its URL does not end in announce, so it says nowhere to scrape"))?;
    let target = Target::made(Purpose::Tracker, tracker, &url)?;
    fetch(target, network, deadlines).await?.decoded(|body| decode_http_scrape(body, info_hashes))
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
            Err(FetchError::Status(self.status.as_u16()).into())
        }
    }
}

/// Asks for a URL of a tracker: what may be announced to may be scraped. At most 50 such requests run at once in the
/// process; the others wait here, outside their deadlines.
async fn fetch(target: Target, network: &Network, deadlines: Deadlines) -> Result<Fetched, AskError> {
    // The semaphore is never closed.
    let _turn = REQUESTS.acquire().await;
    let patience = Patience { connect: deadlines.connect, receive: deadlines.receive };
    let fetched = async {
        let answer = get(network, Purpose::Tracker, target, None, patience).await?;
        let (status, place) = (answer.response.status(), answer.place);
        Ok(Fetched { status, body: answer.body(MAX_BODY).await?, place })
    };
    timeout(deadlines.total, fetched).await.unwrap_or_else(|_| Err(FetchError::Deadline(deadlines.total).into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use url::Url;

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
        let mut all = JoinSet::new();
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
                assert!(matches!(end, Err(AskError::Fetch(FetchError::Transfer(_)))), "{end:?}");
            }
        }
    }
}
