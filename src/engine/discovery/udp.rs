//! One announce or scrape over UDP (BEP 15): a connected socket for each address, so that the kernel drops what others
//! send and tells what ICMP says. A name with addresses of both families is announced to over both, as a tracker can
//! only tell peers of the family that it is asked over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::{StdRng, SysRng};
use rand::{SeedableRng, TryRng};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};
use url::{Host, Url};

use super::Deadlines;
use super::ask::{Answer, AskError, of_all};
use super::exchange::{Connection, Exchange, Question, Reply, Step, wait};
use crate::engine::http::FetchError;
use crate::engine::network::Network;
use crate::engine::reach::{Place, Reach, international, lookup};
use crate::wire::{AnnounceQuery, AnnounceReply, Event, MAX_PEERS, ScrapeEntry, TrackerError};

/// Attempts before a tracker counts as silent: 15 s and 30 s. Those that BEP 15 has after them are the schedule's, so
/// that a dead tracker holds no socket for the two hours that they would take.
const ATTEMPTS: u32 = 2;
/// Addresses of one name and family that are tried at the most.
const MAX_ADDRESSES: usize = 4;
/// Bytes that are taken of a datagram: 1,000 peers of 18 bytes behind 20. What is longer is cut.
const MAX_DATAGRAM: usize = 20 + 18 * MAX_PEERS;
/// Sockets of the process for UDP trackers at one time; further exchanges wait for their turn.
static SOCKETS: Semaphore = Semaphore::const_new(50);

/// Where a UDP tracker is.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    /// Path and query of its URL, which it may tell its users apart by (BEP 41).
    url_data: Vec<u8>,
}

impl Endpoint {
    /// Where the tracker of this URL is, or why it cannot be used.
    pub(super) fn of(url: &Url) -> Result<Self, &'static str> {
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => {
                international(name).map_or_else(|| Ok(name.to_owned()), Err)?
            }
            None | Some(Host::Domain(_)) => return Err("it names no host"),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
        };
        let port = url.port().filter(|&port| port != 0).ok_or("it names no port")?;
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Self { host, port, url_data: format!("{}{query}", url.path()).into_bytes() })
    }
}

/// Announces to one tracker.
pub(super) async fn announce(
    endpoint: Endpoint,
    query: &AnnounceQuery,
    network: &Network,
    deadlines: Deadlines,
) -> Result<Answer, AskError> {
    // At the end there is no time for the usual waits, and yet a lost datagram should not leave us on the list.
    let stopping = query.event == Event::Stopped;
    let first_wait = if stopping { deadlines.retry.min(deadlines.stop / 3) } else { deadlines.retry };
    let question = Question::Announce { query: query.clone(), url_data: endpoint.url_data.clone() };
    ask_both(addresses(endpoint, network, deadlines).await?, question, network, first_wait).await
}

/// Announces over every family that has addresses.
async fn ask_both(
    addresses: [Vec<SocketAddr>; 2],
    question: Question,
    network: &Network,
    first_wait: Duration,
) -> Result<Answer, AskError> {
    let mut flights = JoinSet::new();
    for family in addresses.into_iter().filter(|family| !family.is_empty()) {
        let exchange = exchange(family, question.clone(), network.clone(), first_wait);
        flights.spawn(async move {
            match exchange.await? {
                (from, Reply::Announce { interval, leechers, seeders, peers }) => {
                    let reply = AnnounceReply {
                        peers,
                        interval: Some(interval.into()),
                        complete: Some(seeders.into()),
                        incomplete: Some(leechers.into()),
                        ..AnnounceReply::default()
                    };
                    Ok(Answer { reply, place: Place::of(from.ip()) })
                }
                (_, Reply::Refusal(words)) => Err(TrackerError::Failure(words).into()),
                // The exchange takes no other answer than one to its question.
                (_, Reply::Scrape(_)) => Err(TrackerError::Bencode.into()),
            }
        });
    }
    of_all(flights).await.unwrap_or_else(|| Err(no_socket()))
}

/// The figures of torrents, at most [`crate::wire::MAX_SCRAPE`]: over IPv4, and over IPv6 if that yields nothing.
pub(super) async fn scrape(
    endpoint: Endpoint,
    info_hashes: &[[u8; 20]],
    network: &Network,
    deadlines: Deadlines,
) -> Result<Vec<ScrapeEntry>, AskError> {
    let mut failure = no_socket();
    for family in addresses(endpoint, network, deadlines).await?.into_iter().filter(|family| !family.is_empty()) {
        let question = Question::Scrape(info_hashes.to_vec());
        match exchange(family, question, network.clone(), deadlines.retry).await {
            Ok((_, Reply::Scrape(entries))) => return Ok(entries),
            Ok((_, Reply::Refusal(words))) => return Err(TrackerError::Failure(words).into()),
            Ok((_, Reply::Announce { .. })) => {}
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn no_socket() -> AskError {
    FetchError::Refused("it has no address of the family that we listen on").into()
}

/// The tracker's addresses, those of IPv4 first, that our sockets can reach.
async fn addresses(
    endpoint: Endpoint,
    network: &Network,
    deadlines: Deadlines,
) -> Result<[Vec<SocketAddr>; 2], AskError> {
    let found = timeout(deadlines.connect, lookup(network, &endpoint.host, endpoint.port, Reach::datagrams())).await;
    let found = found.map_err(|_| FetchError::Transfer("its name is not resolved in time".to_owned()))??;
    let mut families = [Vec::new(), Vec::new()];
    let mut seen = BTreeSet::new();
    for addr in found {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let [v4, v6] = &mut families;
        let family = if addr.is_ipv4() { v4 } else { v6 };
        if network.local(addr.is_ipv4()).is_some() && family.len() < MAX_ADDRESSES && seen.insert(addr) {
            family.push(addr);
        }
    }
    if families.iter().all(Vec::is_empty) { Err(no_socket()) } else { Ok(families) }
}

/// Asks the addresses of one family: the next one at once where nobody listens, and after silence with the next
/// attempt. Says who answered.
async fn exchange(
    addresses: Vec<SocketAddr>,
    question: Question,
    network: Network,
    first_wait: Duration,
) -> Result<(SocketAddr, Reply), AskError> {
    // The semaphore is never closed.
    let _turn = SOCKETS.acquire().await;
    let mut attempt = 0;
    let mut failure = no_socket();
    for (n, &addr) in addresses.iter().enumerate() {
        let attempts = if n + 1 == addresses.len() { attempt..ATTEMPTS } else { attempt..attempt + 1 };
        let end = attempts.end;
        match exchange_with(addr, &question, &network, attempts, first_wait).await {
            Ok(Some(reply)) => return Ok((addr, reply)),
            Ok(None) => {
                attempt = end;
                failure = AskError::Silent((0..end).map(|n| wait(first_wait, n)).sum());
            }
            Err(error) => failure = error,
        }
        if attempt == ATTEMPTS {
            break;
        }
    }
    Err(failure)
}

/// Connection ids that may still be good, by our address and the tracker's: it takes one from no other.
static CONNECTIONS: Mutex<BTreeMap<(IpAddr, SocketAddr), Connection>> = Mutex::new(BTreeMap::new());

/// Asks one address. `None`: it was silent.
async fn exchange_with(
    addr: SocketAddr,
    question: &Question,
    network: &Network,
    attempts: Range<u32>,
    first_wait: Duration,
) -> Result<Option<Reply>, AskError> {
    let local = network.local(addr.is_ipv4()).ok_or_else(no_socket)?;
    let socket = network.datagrams(SocketAddr::new(local, 0)).map_err(failed)?;
    socket.connect(addr).await.map_err(failed)?;
    let mut seed = <StdRng as SeedableRng>::Seed::default();
    SysRng.try_fill_bytes(&mut seed).map_err(|e| FetchError::Transfer(e.to_string()))?;
    let known = {
        let mut known = CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|_, connection| connection.is_good(now));
        known.get(&(local, addr)).copied()
    };
    let rng = StdRng::from_seed(seed);
    let mut exchange = Exchange::new(question.clone(), addr.is_ipv6(), attempts, first_wait, known, rng);
    let end = converse(&socket, &mut exchange).await;
    let mut known = CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    match exchange.connection() {
        Some(connection) if matches!(end, Ok(Some(_))) => known.insert((local, addr), connection),
        _ => known.remove(&(local, addr)),
    };
    end
}

/// Does what the exchange says until it ends.
async fn converse(socket: &UdpSocket, exchange: &mut Exchange) -> Result<Option<Reply>, AskError> {
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        match exchange.next(Instant::now()) {
            Step::Send(bytes) => {
                socket.send(&bytes).await.map_err(failed)?;
            }
            Step::GiveUp => return Ok(None),
            Step::Wait(until) => {
                let Ok(received) = timeout_at(until.into(), socket.recv(&mut datagram)).await else { continue };
                let datagram = datagram.get(..received.map_err(failed)?).unwrap_or_default();
                if let Some(reply) = exchange.received(Instant::now(), datagram) {
                    return Ok(Some(reply));
                }
            }
        }
    }
}

/// In the network's own words, as "Connection refused" where ICMP says that nobody listens.
fn failed(error: std::io::Error) -> AskError {
    FetchError::Transfer(error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::wire::{PeerId, UdpReply, UdpRequest, decode_udp_request, encode_udp_reply};

    /// So short that a test can wait for silence, so long that a busy machine is no silent tracker.
    const FIRST: Duration = Duration::from_millis(700);

    fn question() -> Question {
        let query = AnnounceQuery {
            info_hash: [1; 20],
            peer_id: PeerId([2; 20]),
            port: 1,
            uploaded: 0,
            downloaded: 0,
            left: 0,
            event: Event::Started,
            numwant: 200,
            key: 0,
            tracker_id: None,
        };
        Question::Announce { query, url_data: Vec::new() }
    }

    /// A tracker at `ip` that knows one peer, on port `peer` of its own address, or says no word. Counts what comes.
    async fn tracker(ip: &str, peer: u16, speaks: bool) -> (SocketAddr, Arc<AtomicUsize>) {
        let ip: IpAddr = ip.parse().expect("an address");
        let socket = UdpSocket::bind((ip, 0)).await.expect("a port");
        let addr = socket.local_addr().expect("an address");
        let count = Arc::new(AtomicUsize::new(0));
        let shown = Arc::clone(&count);
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::SeqCst);
                let reply = match decode_udp_request(&buffer[..length]).expect("a request") {
                    UdpRequest::Connect { transaction } => UdpReply::Connect { transaction, connection: 7 },
                    UdpRequest::Announce { transaction, .. } => {
                        let peers = vec![SocketAddr::new(ip, peer)];
                        UdpReply::Announce { transaction, interval: u32::from(peer), leechers: 2, seeders: 3, peers }
                    }
                    UdpRequest::Scrape { .. } => panic!("nobody scrapes"),
                };
                if speaks {
                    socket.send_to(&encode_udp_reply(&reply), from).await.expect("sent");
                }
            }
        });
        (addr, shown)
    }

    async fn closed(ip: &str) -> SocketAddr {
        UdpSocket::bind((ip, 0)).await.and_then(|socket| socket.local_addr()).expect("a port")
    }

    #[tokio::test]
    async fn both_families_give_their_peers() {
        let ((v4, _), (v6, _)) = (tracker("127.0.0.1", 1, true).await, tracker("::1", 2, true).await);
        let answer = ask_both([vec![v4], vec![v6]], question(), &Network::default(), FIRST).await.expect("an answer");
        let peers = ["127.0.0.1:1", "[::1]:2"].map(|p| p.parse().expect("an address"));
        assert_eq!(answer.reply.peers, peers);
        assert_eq!((answer.reply.interval, answer.reply.complete, answer.place), (Some(2), Some(3), Place::Loopback));
    }

    #[tokio::test]
    async fn a_family_that_is_cut_off_or_closed_takes_nothing_from_the_other() {
        let ((v4, _), (v6, asked)) = (tracker("127.0.0.1", 1, true).await, tracker("::1", 2, false).await);
        let begun = Instant::now();
        let answer =
            ask_both([vec![v4], vec![v6]], question(), &Network::default(), FIRST * 20).await.expect("an answer");
        assert_eq!(answer.reply.peers, [SocketAddr::new(v4.ip(), 1)]);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "it was asked");
        assert!(begun.elapsed() < FIRST * 10, "long before its silence is over");
        let (v4, v6) = (closed("127.0.0.1").await, tracker("::1", 2, true).await.0);
        let answer = ask_both([vec![v4], vec![v6]], question(), &Network::default(), FIRST).await.expect("an answer");
        assert_eq!(answer.reply.peers, [SocketAddr::new(v6.ip(), 2)]);
    }

    #[tokio::test]
    async fn the_next_address_is_asked_where_one_is_closed_or_silent() {
        let (silent, asked) = tracker("127.0.0.1", 1, false).await;
        let (good, _) = tracker("127.0.0.1", 2, true).await;
        let family = vec![closed("127.0.0.1").await, silent, good];
        let (from, _) = exchange(family, question(), Network::default(), FIRST).await.expect("an answer");
        assert_eq!((from, asked.load(Ordering::SeqCst)), (good, 1));
        // Two attempts in all.
        let (other, others) = tracker("127.0.0.1", 1, false).await;
        let (third, thirds) = tracker("127.0.0.1", 1, true).await;
        let end = exchange(vec![silent, other, third], question(), Network::default(), Duration::from_millis(50)).await;
        assert!(matches!(end, Err(AskError::Silent(waited)) if waited == Duration::from_millis(150)), "{end:?}");
        assert_eq!((others.load(Ordering::SeqCst), thirds.load(Ordering::SeqCst)), (1, 0));
    }
}
