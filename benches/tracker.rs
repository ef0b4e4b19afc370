//! Announces per second with 100,000 peers in 10,000 torrents: through the registry alone, then over UDP and HTTP on
//! loopback, where the server has one core: a runtime with one thread, pinned, with the clients on the others. On a
//! machine that does other work as well, what counts is the rate by the processor time that the server's thread took.
//!
//! usage: cargo bench --bench tracker

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use swarmfs::tracker::{Registry, Room, Settings, Tracker, TrackerConfig};
use swarmfs::wire::{
    AnnounceQuery, Event, PeerId, UdpReply, UdpRequest, announce_query, decode_udp_reply, encode_udp_request,
};

const PEERS: u32 = 100_000;
const TORRENTS: u32 = 10_000;
const ROUND: Duration = Duration::from_secs(5);

/// The announce of a peer: ten of them to a torrent, every fifth a seed.
fn query(peer: u32) -> AnnounceQuery {
    let (mut info_hash, mut id) = ([7; 20], *b"-XX0000-............");
    // Spread over the whole range, as hashes are.
    info_hash[..4].copy_from_slice(&(peer % TORRENTS).wrapping_mul(0x9e37_79b1).to_be_bytes());
    id[8..12].copy_from_slice(&peer.to_be_bytes());
    AnnounceQuery {
        info_hash,
        peer_id: PeerId(id),
        // On loopback the port alone tells the peers of a torrent apart.
        port: u16::try_from(peer / TORRENTS % 60_000).unwrap_or(0) + 1024,
        uploaded: 0,
        downloaded: 0,
        left: u64::from(peer % 5),
        event: Event::None,
        numwant: 50,
        key: peer + 1,
        tracker_id: None,
    }
}

fn ip(peer: u32) -> IpAddr {
    if peer.is_multiple_of(4) {
        Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(peer)).into()
    } else {
        Ipv4Addr::from_bits(0x0a00_0000 + peer).into()
    }
}

/// Resident memory of this process, MiB.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Processor time of this thread, nanoseconds.
fn cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// Announces per second and per second of processor time, for people.
fn rates(count: u64, wall: Duration, cpu: u64) -> String {
    let rate = |seconds: f64| count as f64 / seconds.max(1e-9);
    format!("{:.0} announces/s, {:.0} per s of processor time", rate(wall.as_secs_f64()), rate(cpu as f64 / 1e9))
}

/// Keeps this thread on one processor, or on all others.
fn pin(own: bool) {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in 0..thread::available_parallelism().map_or(1, usize::from) {
        if (cpu == 0) == own {
            set.set(cpu);
        }
    }
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn registry() {
    let before = rss();
    let TrackerConfig { interval, max_torrents, max_peers, max_torrent_peers, .. } = TrackerConfig::default();
    let lifetime = interval * 2;
    let settings = Settings { interval, lifetime, whitelist: None, max_torrents, max_peers, max_torrent_peers };
    let mut registry = Registry::new(settings, 1);
    let room = Room { v4: 200, v6: 79, both: true };
    let start = Instant::now();
    let mut announce = |now: Instant, peer: u32| {
        let answer = registry.announce(now, ip(peer), &query(peer), room).expect("it is served");
        answer.peers.len()
    };
    for peer in 0..PEERS {
        announce(start, peer);
    }
    let filled = start.elapsed();
    // Then each again at its interval, half the lifetime later.
    let (again, cpu_before, mut count, mut named) = (Instant::now(), cpu(), 0u32, 0);
    while again.elapsed() < ROUND {
        for _ in 0..1000 {
            named += announce(again + interval, count.wrapping_mul(7919) % PEERS);
            count += 1;
        }
    }
    println!(
        "registry: {} peers in {} torrents in {:.2} s, then {}, {:.1} peers in each; {} MiB",
        registry.peers(),
        registry.torrents(),
        filled.as_secs_f64(),
        rates(count.into(), again.elapsed(), cpu() - cpu_before),
        named as f64 / f64::from(count),
        rss() - before
    );
    // A flood of made-up torrents up to every limit.
    let torrents = u32::try_from(max_torrents).unwrap_or(u32::MAX);
    for n in 0..3 * u32::try_from(max_peers).unwrap_or(u32::MAX) {
        let mut flood = query(n);
        flood.info_hash[..4].copy_from_slice(&(n % torrents).wrapping_mul(0x85eb_ca6b).to_be_bytes());
        let _ = registry.announce(again + interval, ip(n), &flood, room);
    }
    println!(
        "registry: after a flood {} peers in {} torrents; {} MiB",
        registry.peers(),
        registry.torrents(),
        rss() - before
    );
}

/// A tracker on a thread of its own, which is pinned: where it is, its processor time, and what ends it.
fn server() -> (SocketAddr, Arc<AtomicU64>, mpsc::Sender<()>) {
    let time = Arc::new(AtomicU64::new(0));
    let shown = Arc::clone(&time);
    let (send, address) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    thread::spawn(move || {
        pin(true);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
            let tracker =
                Tracker::start(TrackerConfig { listen, ..TrackerConfig::default() }).await.expect("a tracker");
            send.send(tracker.addr()).expect("somebody waits");
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                shown.store(cpu(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let tally = tracker.tally();
            println!("server: {} peers in {} torrents", tally.peers, tally.torrents);
            tracker.stop().await;
        });
    });
    (address.recv().expect("an address"), time, stop)
}

/// Announces per second of `clients` threads that each run `client` until it is told to stop.
fn measure(
    name: &str,
    clients: u32,
    time: &AtomicU64,
    client: impl Fn(u32, &AtomicBool, &AtomicU64) + Send + Sync + 'static,
) {
    let (end, count, client) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(client));
    let threads: Vec<_> = (0..clients)
        .map(|n| {
            let (end, count, client) = (Arc::clone(&end), Arc::clone(&count), Arc::clone(&client));
            thread::spawn(move || {
                pin(false);
                client(n, &end, &count);
            })
        })
        .collect();
    // The peers are announced once before it counts.
    while count.load(Ordering::Relaxed) < u64::from(PEERS) {
        thread::sleep(Duration::from_millis(5));
    }
    let now = || (Instant::now(), count.load(Ordering::Relaxed), time.load(Ordering::Relaxed));
    let (start, before, time_before) = now();
    thread::sleep(ROUND);
    let (end_at, after, time_after) = now();
    let rates = rates(after - before, end_at - start, time_after - time_before);
    end.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no panic");
    }
    println!("{name}: {rates}, from {clients} clients at once; {} MiB in all", rss());
}

fn main() {
    registry();
    const CLIENTS: u32 = 16;
    let (addr, time, stop) = server();
    measure("UDP", CLIENTS, &time, move |n, end, count| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(addr).expect("a peer");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let mut buffer = [0; 2048];
        let mut ask = |request: &UdpRequest| {
            socket.send(&encode_udp_request(request)).ok()?;
            let length = socket.recv(&mut buffer).ok()?;
            decode_udp_reply(&buffer[..length], false).ok()
        };
        let (mut connection, mut since) = (0, None);
        for peer in (n..PEERS).step_by(CLIENTS as usize).cycle() {
            if end.load(Ordering::Relaxed) {
                break;
            }
            if since.is_none_or(|since: Instant| since.elapsed() > Duration::from_secs(50)) {
                connection = match ask(&UdpRequest::Connect { transaction: 1 }) {
                    Some(UdpReply::Connect { connection, .. }) => connection,
                    _ => continue,
                };
                since = Some(Instant::now());
            }
            let request = UdpRequest::Announce { connection, transaction: 2, query: query(peer), url_data: Vec::new() };
            if matches!(ask(&request), Some(UdpReply::Announce { .. })) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    drop(stop);
    let (addr, time, stop) = server();
    measure("HTTP, connections kept", CLIENTS, &time, move |n, end, count| {
        let stream = TcpStream::connect(addr).expect("a connection");
        let (mut sender, mut reader) = (stream.try_clone().expect("a clone"), BufReader::new(stream));
        let (mut line, mut body) = (String::new(), Vec::new());
        for peer in (n..PEERS).step_by(CLIENTS as usize).cycle() {
            if end.load(Ordering::Relaxed) {
                break;
            }
            let request = format!("GET /announce?{} HTTP/1.1\r\nHost: t\r\n\r\n", announce_query(&query(peer)));
            sender.write_all(request.as_bytes()).expect("sent");
            let mut length = 0;
            loop {
                line.clear();
                reader.read_line(&mut line).expect("a line");
                if line.trim_end().is_empty() {
                    break;
                }
                if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = text.trim_end().parse().expect("a length");
                }
            }
            body.resize(length, 0);
            reader.read_exact(&mut body).expect("a body");
            assert!(!body.starts_with(b"d14:failure"), "refused");
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    drop(stop);
}
