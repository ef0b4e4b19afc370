//! The tracker over real sockets: HTTP and UDP, IPv4 and IPv6, what it refuses, what it forgets, and what a flood, rubbish
//! and clients that do nothing cannot do to it. Our own seed and mount find each other through it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::process::{Running, output, swarmfs};
use crate::support::torrent::Content;
use crate::support::wait_until;
use swarmfs::Error;
use swarmfs::tracker::{Tally, Tracker, TrackerConfig};
use swarmfs::wire::{
    AnnounceQuery, AnnounceReply, Event, PeerId, ScrapeEntry, TrackerError, UdpReply, UdpRequest, announce_query,
    decode_http_reply, decode_udp_reply, encode_udp_request,
};

const SECOND: Duration = Duration::from_secs(1);
const V4: [u8; 4] = [127, 0, 0, 1];
const V6: std::net::Ipv6Addr = std::net::Ipv6Addr::LOCALHOST;

/// A tracker with a runtime of its own.
struct Server {
    tracker: Tracker,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    /// On a free port of the IPv6 wildcard.
    fn start(config: TrackerConfig) -> Self {
        Self::start_on(&["[::]:0".parse().expect("an address")], config)
    }

    fn start_on(listen: &[SocketAddr], config: TrackerConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let tracker = runtime.block_on(Tracker::start(TrackerConfig { listen: listen.to_vec(), ..config }));
        Self { tracker: tracker.expect("a tracker"), runtime }
    }

    fn at(&self, ip: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(ip.into(), self.tracker.addr().port())
    }

    fn tally(&self) -> Tally {
        self.tracker.tally()
    }
}

/// An asker's query: peers are told apart by number, which is also their port.
fn query(torrent: u8, peer: u16) -> AnnounceQuery {
    let mut id = *b"-XX0000-............";
    id[8..10].copy_from_slice(&peer.to_be_bytes());
    AnnounceQuery {
        info_hash: [torrent; 20],
        peer_id: PeerId(id),
        port: peer,
        uploaded: 0,
        downloaded: 0,
        left: 1,
        event: Event::None,
        numwant: u32::MAX,
        key: u32::from(peer),
        tracker_id: None,
    }
}

/// Status and body of a request of this method.
fn request(addr: SocketAddr, method: &str, target: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(addr).expect("a connection");
    stream.set_read_timeout(Some(SECOND * 10)).expect("a timeout");
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    parse(&answer)
}

fn parse(answer: &[u8]) -> (u16, Vec<u8>) {
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
    let text = String::from_utf8_lossy(&answer[..head]).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer[head + 4..].to_vec())
}

fn get(addr: SocketAddr, target: &str) -> Vec<u8> {
    let (status, body) = request(addr, "GET", target);
    assert_eq!(status, 200, "{target}: {}", String::from_utf8_lossy(&body));
    body
}

fn http(addr: SocketAddr, query: &AnnounceQuery) -> AnnounceReply {
    decode_http_reply(&get(addr, &format!("/announce?{}", announce_query(query)))).expect("a reply")
}

/// The failure reason of a bad announce.
fn reason(addr: SocketAddr, target: &str) -> String {
    let Err(TrackerError::Failure(reason)) = decode_http_reply(&get(addr, target)) else { panic!("{target} is taken") };
    reason
}

/// A UDP client of one tracker, with its connection id.
struct Udp {
    socket: UdpSocket,
    v6: bool,
    connection: u64,
}

impl Udp {
    fn new(tracker: SocketAddr) -> Self {
        let local: IpAddr = if tracker.is_ipv4() { V4.into() } else { V6.into() };
        let socket = UdpSocket::bind((local, 0)).expect("a socket");
        // From here on the kernel drops what comes from another address than the one that is asked.
        socket.connect(tracker).expect("a peer");
        socket.set_read_timeout(Some(SECOND * 5)).expect("a timeout");
        let mut this = Self { socket, v6: tracker.is_ipv6(), connection: 0 };
        let UdpReply::Connect { transaction: 7, connection } = this.ask(&UdpRequest::Connect { transaction: 7 }) else {
            panic!("no connection id")
        };
        this.connection = connection;
        this
    }

    fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        self.socket.send(bytes).expect("sent");
        self.receive()
    }

    fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("a reply within 5 s");
        buffer[..length].to_vec()
    }

    fn ask(&self, request: &UdpRequest) -> UdpReply {
        decode_udp_reply(&self.raw(&encode_udp_request(request)), self.v6).expect("a reply")
    }

    fn announce_request(&self, query: &AnnounceQuery) -> UdpRequest {
        let url_data = b"/any/path?x=y".to_vec();
        UdpRequest::Announce { connection: self.connection, transaction: 9, query: query.clone(), url_data }
    }

    /// Leechers, seeds and peers.
    fn announce(&self, query: &AnnounceQuery) -> (u32, u32, BTreeSet<SocketAddr>) {
        match self.ask(&self.announce_request(query)) {
            UdpReply::Announce { transaction: 9, interval, leechers, seeders, peers } => {
                assert_eq!(interval, 1800);
                (leechers, seeders, peers.into_iter().collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn set<const N: usize>(addrs: [SocketAddr; N]) -> BTreeSet<SocketAddr> {
    addrs.into()
}

#[test]
fn askers_over_http_and_udp_of_both_families_meet() {
    let server = Server::start(TrackerConfig::default());
    let (four, six) = (server.at(V4), server.at(V6));
    let at4 = |port| SocketAddr::from((V4, port));
    let at6 = |port| SocketAddr::from((V6, port));
    assert_eq!(http(four, &query(1, 1)).peers, []);
    let (udp4, udp6) = (Udp::new(four), Udp::new(six));
    assert_eq!(udp4.announce(&query(1, 2)), (2, 0, set([at4(1)])));
    assert_eq!(udp6.announce(&query(1, 3)), (3, 0, set([])));
    let reply = http(six, &AnnounceQuery { left: 0, ..query(1, 4) });
    assert_eq!((reply.peers, reply.incomplete, reply.complete), (vec![at6(3)], Some(3), Some(1)));
    assert_eq!((reply.interval, reply.min_interval), (Some(1800), Some(900)));
    assert_eq!(reply.external_ip, Some(V6.into()));
    assert_eq!(udp6.announce(&query(1, 3)), (3, 1, set([at6(4)])));
    // One client of both families is one peer, and hears of both over HTTP.
    let both = http(six, &query(1, 1));
    assert_eq!((both.incomplete, both.complete), (Some(3), Some(1)));
    assert_eq!(both.peers.into_iter().collect::<BTreeSet<_>>(), set([at4(2), at6(3), at6(4)]));
    // Who stops is gone, and a seed hears of leechers only.
    udp4.announce(&AnnounceQuery { event: Event::Stopped, ..query(1, 1) });
    let seed = http(six, &AnnounceQuery { left: 0, event: Event::Completed, ..query(1, 5) });
    assert_eq!((seed.peers, seed.incomplete, seed.complete), (vec![at6(3)], Some(2), Some(2)));

    let figures = ScrapeEntry { complete: 2, downloaded: 1, incomplete: 2 };
    let info_hashes = vec![[9; 20], [1; 20]];
    let UdpReply::Scrape { transaction: 3, entries } =
        udp4.ask(&UdpRequest::Scrape { connection: udp4.connection, transaction: 3, info_hashes })
    else {
        panic!("no scrape")
    };
    assert_eq!(entries, [ScrapeEntry::default(), figures]);
    let hash = |byte: &str| format!("info_hash={}", byte.repeat(20));
    let scraped = get(six, &format!("/scrape?{}&{}", hash("%09"), hash("%01")));
    let expected = [&b"d5:filesd20:"[..], &[1; 20], b"d8:completei2e10:downloadedi1e10:incompletei2eeee"].concat();
    assert_eq!(scraped, expected);
    assert_eq!(server.tally(), Tally { http: 4, udp: 4, scrapes: 2, refused: 0, torrents: 1, peers: 4 });
}

#[test]
fn udp_answers_come_from_the_address_that_was_asked() {
    let server = Server::start(TrackerConfig::default());
    for host in [V4, [127, 0, 0, 77], [127, 9, 8, 7]] {
        Udp::new(server.at(host)).announce(&query(1, 1));
    }
    let wildcard = |port| SocketAddr::from(([0; 4], port));
    let four = Server::start_on(&[wildcard(0)], TrackerConfig::default());
    Udp::new(four.at([127, 0, 0, 78])).announce(&query(1, 1));
    // Beside the IPv4 wildcard of the same port the IPv6 one is IPv6 alone.
    let port = crate::support::free_port(wildcard(0).ip()).port();
    let both = [wildcard(port), SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port)];
    let both = Server::start_on(&both, TrackerConfig::default());
    for ip in [IpAddr::from(V4), V6.into()] {
        Udp::new(both.at(ip)).announce(&query(1, 1));
        http(both.at(ip), &query(1, 2));
    }
}

#[test]
fn who_announces_no_more_is_forgotten() {
    let lifetime = Some(Duration::from_millis(300));
    let server = Server::start(TrackerConfig { lifetime, ..TrackerConfig::default() });
    http(server.at(V4), &query(1, 1));
    assert_eq!(server.tally().peers, 1);
    // Nobody asks for anything meanwhile.
    wait_until(SECOND * 10, "the peer is forgotten", || server.tally().peers == 0);
    assert_eq!(server.tally().torrents, 0);
    assert_eq!(http(server.at(V4), &query(1, 2)).peers, []);
}

#[test]
fn forged_connection_ids_get_an_error_no_longer_than_what_was_sent() {
    let server = Server::start(TrackerConfig::default());
    let mut udp = Udp::new(server.at(V4));
    let good = udp.connection;
    // Of another address, whose sender cannot have seen it.
    let other = Udp::new(server.at(V6)).connection;
    for forged in [other, good ^ 1, 0, u64::MAX] {
        udp.connection = forged;
        let scrape = UdpRequest::Scrape { connection: forged, transaction: 9, info_hashes: vec![[1; 20]] };
        for request in [udp.announce_request(&query(1, 1)), scrape] {
            let request = encode_udp_request(&request);
            let reply = udp.raw(&request);
            assert!(reply.len() <= request.len());
            assert!(matches!(decode_udp_reply(&reply, false), Ok(UdpReply::Error { transaction: 9, .. })), "{reply:?}");
        }
    }
    assert_eq!(server.tally(), Tally { refused: 8, ..Tally::default() });
    udp.connection = good;
    udp.announce(&query(1, 1));
    // Port 0 is refused in words.
    let UdpReply::Error { message, .. } = udp.ask(&udp.announce_request(&query(1, 0))) else { panic!("it is taken") };
    assert!(message.contains("port 0"), "{message}");
}

#[test]
fn rubbish_gets_no_answer_over_udp() {
    let server = Server::start(TrackerConfig::default());
    let udp = Udp::new(server.at(V4));
    let announce = encode_udp_request(&udp.announce_request(&query(1, 1)));
    let mut random = crate::support::Random::new(7);
    let mut noise = vec![0; 1500];
    random.fill(&mut noise);
    noise[8..12].copy_from_slice(&[9; 4]);
    let mut connect = encode_udp_request(&UdpRequest::Connect { transaction: 1 });
    connect[0] ^= 1;
    for rubbish in [&b""[..], b"x", &noise, &connect, &announce[..97], &[0; 16], &[0xff; 2000]] {
        udp.socket.send(rubbish).expect("sent");
    }
    // Datagrams between two sockets of one machine keep their order: the first answer is that to the last request.
    assert_eq!(udp.announce(&query(1, 1)), (1, 0, set([])));
    // And what comes as HTTP.
    for rubbish in [&b"\x16\x03\x01\x02\0"[..], b"GET\r\n\r\n", &noise] {
        let mut stream = TcpStream::connect(server.at(V4)).expect("a connection");
        stream.write_all(rubbish).expect("sent");
        if let Err(error) = stream.shutdown(std::net::Shutdown::Write) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotConnected, "the server may have closed it, nothing else");
        }
        stream.set_read_timeout(Some(SECOND * 5)).expect("a timeout");
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    assert_eq!(http(server.at(V4), &query(1, 2)).peers.len(), 1);
}

#[test]
fn no_udp_reply_is_longer_than_a_packet() {
    let server = Server::start(TrackerConfig::default());
    for ip in [IpAddr::from(V4), V6.into()] {
        let udp = Udp::new(server.at(ip));
        for port in 1..=300 {
            udp.announce(&AnnounceQuery { numwant: 0, ..query(1, port) });
        }
        let asked = AnnounceQuery { numwant: 100_000, ..query(1, 1) };
        let reply = udp.raw(&encode_udp_request(&udp.announce_request(&asked)));
        let Ok(UdpReply::Announce { peers, .. }) = decode_udp_reply(&reply, udp.v6) else { panic!("no announce") };
        assert_eq!((reply.len(), peers.len()), if udp.v6 { (20 + 18 * 79, 79) } else { (20 + 6 * 200, 200) });
        let info_hashes = vec![[1; 20]; 74];
        let scrape = UdpRequest::Scrape { connection: udp.connection, transaction: 1, info_hashes };
        assert_eq!(udp.raw(&encode_udp_request(&scrape)).len(), 8 + 12 * 74);
    }
}

#[test]
fn only_torrents_on_the_list_are_served() {
    let whitelist = Some([[1; 20]].into());
    let server = Server::start(TrackerConfig { whitelist, ..TrackerConfig::default() });
    let addr = server.at(V4);
    http(addr, &query(1, 1));
    let refusal = "this tracker does not serve this torrent";
    assert_eq!(reason(addr, &format!("/announce?{}", announce_query(&query(2, 1)))), refusal);
    let udp = Udp::new(addr);
    let UdpReply::Error { message, .. } = udp.ask(&udp.announce_request(&query(2, 1))) else { panic!("it is taken") };
    assert_eq!(message, refusal);
    assert_eq!(get(addr, &format!("/scrape?info_hash={}", "%02".repeat(20))), b"d5:filesdee");
    assert_eq!((server.tally().torrents, server.tally().refused), (1, 2));
}

#[test]
fn bad_requests_over_http_get_a_reason() {
    let server = Server::start(TrackerConfig::default());
    let addr = server.at(V4);
    let good = announce_query(&query(1, 1));
    for (target, says) in [
        ("/announce", "info_hash is missing"),
        ("/announce?info_hash=%01%02&peer_id=x&port=1", "info_hash is not 20 bytes"),
        (&format!("/announce?{}", good.replace("port=1", "port=0")), "port 0"),
        (&format!("/announce?{}", good.replace("port=1", "port=70000")), "port is not a number"),
        ("/scrape", "does not list its torrents"),
        ("/scrape?info_hash=x", "info_hash is not 20 bytes"),
    ] {
        let reason = reason(addr, target);
        assert!(reason.contains(says), "{target}: {reason}");
    }
    let (status, body) = request(addr, "GET", "/");
    assert_eq!((status, body.iter().filter(|byte| **byte == b'\n').count()), (404, 1));
    for method in ["POST", "PUT", "HEAD", "OPTIONS"] {
        assert_eq!(request(addr, method, &format!("/announce?{good}")).0, 405, "{method}");
    }
    assert_eq!(server.tally().torrents, 0);
    // `ip` is not believed, and the long form is given to who asks for it.
    get(addr, &format!("/announce?{good}&ip=192.0.2.9"));
    let long = |more: &str| {
        let asked = announce_query(&query(1, 2)).replace("compact=1", "compact=0");
        String::from_utf8_lossy(&get(addr, &format!("/announce?{asked}{more}"))).into_owned()
    };
    let peer_id = format!("7:peer id20:{}", String::from_utf8_lossy(&query(1, 1).peer_id.0));
    assert!(long("").ends_with(&format!("5:peersld2:ip9:127.0.0.1{peer_id}4:porti1eeee")), "{}", long(""));
    assert!(long("&no_peer_id=1").ends_with("5:peersld2:ip9:127.0.0.14:porti1eeee"));
}

#[test]
fn a_connection_serves_many_requests_but_no_endless_one() {
    let server = Server::start(TrackerConfig::default());
    let stream = TcpStream::connect(server.at(V4)).expect("a connection");
    stream.set_read_timeout(Some(SECOND * 5)).expect("a timeout");
    let (mut sender, mut reader) = (stream.try_clone().expect("a clone"), BufReader::new(stream));
    for n in 1..=20 {
        write!(sender, "GET /announce?{} HTTP/1.1\r\nHost: t\r\n\r\n", announce_query(&query(1, n))).expect("sent");
        let length = reader.by_ref().lines().map(|line| line.expect("a line")).take_while(|line| !line.is_empty());
        let length = length.filter_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.max().expect("a length")];
        reader.read_exact(&mut body).expect("a body");
        assert_eq!(decode_http_reply(&body).expect("a reply").incomplete, Some(n.into()));
    }
    // A head without an end.
    let mut sent = 0;
    while sender.write_all(&b"X-More: and more\r\n".repeat(50)).is_ok() {
        sent += 900;
        assert!(sent < 8 << 20, "{sent} bytes of a head were taken");
    }
}

#[test]
fn a_flood_of_info_hashes_is_bounded() {
    let config = TrackerConfig { max_torrents: 100, max_peers: 150, ..TrackerConfig::default() };
    let server = Server::start(config);
    let udp = Udp::new(server.at(V4));
    for peer in 1..4 {
        udp.announce(&query(1, peer));
    }
    let mut flood = query(0, 9);
    for n in 0..2_000u32 {
        flood.info_hash[..4].copy_from_slice(&n.to_be_bytes());
        udp.announce(&flood);
    }
    let tally = server.tally();
    assert_eq!((tally.torrents, tally.peers, tally.udp), (100, 102, 2_003));
    assert_eq!(udp.announce(&query(1, 3)).2.len(), 2, "the swarm is still known");
}

#[test]
fn connections_that_do_nothing_end_and_block_nobody() {
    let patience = Duration::from_millis(1500);
    let config = TrackerConfig { max_connections: 8, patience, ..TrackerConfig::default() };
    let server = Server::start(config);
    let addr = server.at(V4);
    let idle: Vec<_> = (0..60)
        .map(|n| {
            let mut stream = TcpStream::connect(addr).expect("a connection");
            if n % 2 == 0 {
                stream.write_all(b"GET /announce?info_hash=").expect("sent");
            }
            stream
        })
        .collect();
    // Eight are held at the most, and yet the ninth is served at once.
    let start = Instant::now();
    for n in 1..20 {
        assert_eq!(http(addr, &query(1, n)).incomplete, Some(n.into()));
    }
    assert!(start.elapsed() < patience, "served after {:?}", start.elapsed());
    let ended = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(SECOND * 10)).expect("a timeout");
        match stream.read(&mut [0; 512]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    };
    assert!(idle.iter().all(ended), "they are ended");
    // One that trickles is ended as well, however busy it is.
    let mut slow = TcpStream::connect(addr).expect("a connection");
    let start = Instant::now();
    wait_until(SECOND * 10, "the slow one is ended", || slow.write_all(b"x").is_err());
    assert!(start.elapsed() >= patience / 2);
    let idle = TcpStream::connect(addr).expect("a connection");
    assert!(ended(&idle), "an idle one is ended without being pushed out");
}

#[test]
fn a_port_has_one_tracker_and_is_free_after_it() {
    let Server { tracker, runtime } = Server::start(TrackerConfig::default());
    let addr = tracker.addr();
    let start = |config| runtime.block_on(Tracker::start(config)).map(|tracker| tracker.addr());
    let again = || start(TrackerConfig { listen: vec![addr], ..TrackerConfig::default() });
    assert!(matches!(again(), Err(Error::Listen { addr: taken, .. }) if taken == addr));
    let kept = TcpStream::connect(SocketAddr::from((V4, addr.port()))).expect("a connection");
    runtime.block_on(tracker.stop());
    assert_eq!(again().expect("the port is free"), addr);
    kept.set_read_timeout(Some(SECOND * 5)).expect("a timeout");
    assert!(!matches!((&kept).read(&mut [0]), Ok(1)), "its connections have ended");
    let often = TrackerConfig { interval: SECOND * 4, ..TrackerConfig::default() };
    assert!(matches!(start(often), Err(Error::Interval(_))));
}

/// `swarmfs tracker` on a free port of loopback, and what it prints to stdout.
fn command(args: &[&str]) -> (Running, Vec<String>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = swarmfs();
    command.args(["tracker", "--listen", "127.0.0.1:0"]).args(args);
    let log = dir.path().join("log");
    let process = Running::spawn("swarmfs tracker", command, &log, SECOND * 60);
    wait_until(SECOND * 10, "the tracker says its URLs", || {
        process.log().lines().filter(|l| l.contains("://")).count() == 2
    });
    let urls = process.log().lines().filter(|line| line.contains("://")).map(str::to_owned).collect();
    (process, urls, dir)
}

#[test]
fn the_command_says_its_urls_and_ends_at_once() {
    let list = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(list.path(), format!("# one\n{}\n", "01".repeat(20))).expect("a list");
    let (mut process, urls, _dir) =
        command(&["--interval", "10s", "--whitelist", list.path().to_str().expect("UTF-8")]);
    let addr = urls[0].strip_prefix("http://").and_then(|url| url.strip_suffix("/announce")).expect("a URL");
    assert_eq!(urls[1], format!("udp://{addr}/announce"));
    let socket: SocketAddr = addr.parse().expect("an address");
    assert_eq!(http(socket, &query(1, 1)).interval, Some(10));
    reason(socket, &format!("/announce?{}", announce_query(&query(2, 1))));

    let refused = |args: &[&str]| {
        let second = output(swarmfs().arg("tracker").args(args).stdout(Stdio::null()), SECOND * 10);
        assert_eq!(second.status.code(), Some(1));
        String::from_utf8_lossy(&second.stderr).into_owned()
    };
    let taken = refused(&["--listen", addr]);
    assert!(taken.contains(addr) && taken.contains("--listen") && taken.trim_end().lines().count() == 1, "{taken}");
    assert!(refused(&["--listen", "127.0.0.1:0", "--interval", "4s"]).contains("5 s or more"));
    assert!(refused(&["--whitelist", "/nowhere"]).contains("/nowhere"));

    let kept = TcpStream::connect(socket).expect("a connection that stays open");
    process.signal(rustix::process::Signal::INT);
    let Some((status, _)) = process.wait(SECOND * 3) else { panic!("Ctrl-C does not end it: {}", process.log()) };
    assert_eq!(status.code(), Some(0), "{}", process.log());
    let tally = "announces: 1 over HTTP, 0 over UDP; scrapes: 0; refused: 1; peers: 1; torrents: 1";
    assert!(process.log().contains(tally), "{}", process.log());
    drop(kept);
}

#[test]
fn our_own_mount_finds_our_own_seed_through_it() {
    let server = Server::start(TrackerConfig::default());
    let content = Content::noise("film.mkv", 3 << 20, 64 << 10, 5);
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("film.mkv"), &content.bytes).expect("the data");
    let file = content.torrent.write(dir.path(), Some(&format!("http://{}/announce", server.at(V4))));
    let mut seed = swarmfs();
    seed.args(["seed", "-v", "--no-dht", "--no-lsd", "--listen", &crate::support::free_address().to_string()]);
    seed.arg(&file).arg("--data").arg(dir.path());
    let mut seed = Running::spawn("swarmfs seed", seed, &dir.path().join("seed.log"), SECOND * 60);
    wait_until(SECOND * 10, "the seed has announced", || server.tally().peers == 1);
    let mut mount = crate::support::mounts::mount(&[&file]).start();
    assert!(std::fs::read(mount.path("film.mkv")).expect("the file") == content.bytes);
    assert_eq!(server.tally().peers, 2);
    mount.terminate(SECOND * 10);
    seed.signal(rustix::process::Signal::TERM);
    assert!(seed.wait(SECOND * 10).is_some(), "SIGTERM ends the seed");
    wait_until(SECOND * 5, "both have said that they stop", || server.tally().peers == 0);
}
