//! `--upload-limit` and `--download-limit` hold over ten seconds, to one peer and to several that get the same, and hold
//! nothing up but payload: a mount that may hardly upload streams as fast, and a limit makes no peer look slow.
//!
//! A rate is bytes in a time, so these tests take that time. The limits are upper bounds, with 5 %; the lower bounds have
//! room for a machine that does other things.

mod support;

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::mounts::mount;
use crate::support::peer::{Peer, Request, handshake, message, piece_message, request_body};
use crate::support::process::{Running, swarmfs};
use crate::support::sink::Sink;
use crate::support::torrent::Content;
use crate::support::{MIB, free_address, loopback, wait_until};

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(10);
const KIB: u64 = 1 << 10;
const BLOCK: u64 = 16 * KIB;
const SECOND_NANOS: u64 = 1_000_000_000;

/// Bytes that come in ten seconds from now on, per second.
fn rate(bytes: impl Fn() -> u64) -> f64 {
    let (before, start) = (bytes(), Instant::now());
    std::thread::sleep(WINDOW);
    (bytes() - before) as f64 / start.elapsed().as_secs_f64()
}

#[track_caller]
fn assert_holds(limit: u64, rate: f64, what: &str) {
    let share = rate / limit as f64;
    println!("{what} at {} KiB/s: {:.1} % of it", limit / KIB, share * 100.0);
    assert!(share <= 1.05, "{what}: {rate:.0} B/s of {limit}");
    assert!(share >= 0.9, "{what}: {rate:.0} B/s of {limit}");
}

/// A `swarmfs seed` of this content.
fn seed(content: &Content, dir: &Path, args: &[&str]) -> (Running, SocketAddr) {
    std::fs::write(dir.join(&content.torrent.name), &content.bytes).expect("the data");
    let torrent = content.torrent.write(dir, None);
    let address = free_address();
    let mut command = swarmfs();
    command.arg("seed").arg(torrent).arg("--data").arg(dir).args(["--no-dht", "--no-lsd"]);
    command.args(["--listen", &address.to_string()]).args(args);
    let process = Running::spawn("swarmfs seed", command, &dir.join("seed.log"), SECOND * 120);
    wait_until(SECOND * 20, "the seed listens", || TcpStream::connect(address).is_ok());
    (process, address)
}

/// `sinks` peers with 200 requests out in all take what they can get.
fn upload(limit: u64, sinks: usize) {
    let content = Content::noise("film.mkv", 8 * MIB, 256 * KIB, limit);
    let dir = tempfile::tempdir().expect("a directory");
    let (_seed, address) = seed(&content, dir.path(), &["--upload-limit", &limit.to_string()]);
    let stop = AtomicBool::new(false);
    let counts: Vec<AtomicU64> = (0..sinks).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for count in &counts {
            let (stop, torrent) = (&stop, &content.torrent);
            scope.spawn(move || Sink::connect(address, torrent, 200 / sinks).run(u64::MAX, stop, count));
        }
        let each = || counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        wait_until(SECOND * 30, "everyone gets something", || each().iter().all(|&bytes| bytes > 0));
        let before = each();
        let rate = rate(|| each().iter().sum());
        let got: Vec<u64> = each().iter().zip(&before).map(|(now, then)| now - then).collect();
        stop.store(true, Ordering::Relaxed);
        assert_holds(limit, rate, &format!("upload to {sinks}"));
        let (least, most) = (got.iter().min().expect("a peer"), got.iter().max().expect("a peer"));
        println!("the peers got {got:?}");
        assert!(most - least <= most / 10 + 2 * BLOCK, "they got {got:?}");
    });
}

#[test]
fn the_upload_limit_holds_and_everyone_gets_the_same() {
    std::thread::scope(|scope| {
        for (limit, sinks) in [(64 * KIB, 1), (64 * KIB, 4), (4 * MIB, 1), (4 * MIB, 4)] {
            scope.spawn(move || upload(limit, sinks));
        }
    });
}

/// A mount reads from `seeds` peers that are as fast as they can.
fn download(limit: u64, seeds: usize) {
    let length = limit * 20;
    let content = Arc::new(Content::noise("film.mkv", length, 64 * KIB, limit));
    let seeds: Vec<Peer> = (0..seeds).map(|_| Peer::seed(&content)).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let mount = mount(&[&torrent]).args(&["--download-limit", &limit.to_string(), "--read-timeout", "5m"]);
    let mount = seeds.iter().fold(mount, |mount, seed| mount.peer(seed.address)).start();
    let mut file = std::fs::File::open(mount.path("film.mkv")).expect("the file");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                if file.read(&mut buffer).unwrap_or(0) == 0 {
                    break;
                }
            }
        });
        let came = || seeds.iter().map(|seed| seed.count(|c| &c.bytes)).sum::<u64>();
        wait_until(SECOND * 30, "a first block", || came() > 0);
        let rate = rate(came);
        stop.store(true, Ordering::Relaxed);
        assert_holds(limit, rate, &format!("download from {}", seeds.len()));
    });
}

#[test]
fn the_download_limit_holds() {
    std::thread::scope(|scope| {
        for (limit, seeds) in [(64 * KIB, 1), (64 * KIB, 4), (4 * MIB, 1), (4 * MIB, 4)] {
            scope.spawn(move || download(limit, seeds));
        }
    });
}

/// Each of thirty seeds may send a block in eight seconds: longer than a peer may be silent without being snubbed.
#[test]
fn a_low_download_limit_makes_no_peer_look_slow() {
    let content = Arc::new(Content::noise("film.mkv", 512 * KIB, 32 * KIB, 9));
    let seeds: Vec<Peer> = (0..30).map(|_| Peer::seed(&content)).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let mount = mount(&[&torrent]).args(&["--download-limit", "64KiB"]);
    let mount = seeds.iter().fold(mount, |mount, seed| mount.peer(seed.address)).start();
    let start = Instant::now();
    assert!(std::fs::read(mount.path("film.mkv")).expect("the file") == content.bytes);
    let (took, sent) = (start.elapsed(), seeds.iter().map(|seed| seed.count(|c| &c.bytes)).sum::<u64>());
    println!("512 KiB at 64 KiB/s from 30 seeds: {took:?}, {} KiB sent", sent / KIB);
    assert_eq!(sent, content.torrent.length, "blocks were asked for twice");
    assert!(took > SECOND * 7, "8 s at the limit took {took:?}");
}

/// A leecher that lacks the last piece: serves at `RATE`, and asks for whatever it has served some pieces ago, 200 blocks
/// at a time.
struct Partner {
    address: SocketAddr,
    got: Arc<AtomicU64>,
}

impl Partner {
    const RATE: u64 = 6 * MIB;

    fn start(content: &Arc<Content>) -> Self {
        let listener = TcpListener::bind((loopback(), 0)).expect("a listening socket");
        let (address, got) = (listener.local_addr().expect("its address"), Arc::<AtomicU64>::default());
        let (content, counted) = (Arc::clone(content), Arc::clone(&got));
        // It ends with its one connection, which ends with the mount.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = Self::trade(&content, &stream, &counted);
            }
        });
        Self { address, got }
    }

    fn trade(content: &Content, stream: &TcpStream, got: &AtomicU64) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BufReader::with_capacity(64 << 10, stream);
        input.read_exact(&mut [0; 68])?;
        let pieces = content.torrent.length / content.torrent.piece_length;
        let mut hello = handshake(&content.torrent.info_hash);
        let mut bits = vec![0xff; usize::try_from(pieces / 8).expect("few pieces")];
        *bits.last_mut().expect("a byte") = 0xfe;
        message(&mut hello, 5, &bits);
        message(&mut hello, 2, &[]);
        message(&mut hello, 1, &[]);
        (&mut &*stream).write_all(&hello)?;
        let (sender, requests) = std::sync::mpsc::channel::<Request>();
        let output = Mutex::new(stream);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut due = Instant::now();
                for request in requests {
                    // What a busy machine woke too late is made up for.
                    due =
                        due.max(Instant::now() - SECOND / 5) + Duration::from_nanos(BLOCK * SECOND_NANOS / Self::RATE);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let block = content.block(request.piece, request.begin, request.length).expect("a block");
                    let whole = piece_message(request, block);
                    if output.lock().expect("the socket").write_all(&whole).is_err() {
                        return;
                    }
                }
            });
            Self::listen(content, &mut input, &sender, &output, got)
        })
    }

    fn listen(
        content: &Content,
        input: &mut impl Read,
        requests: &std::sync::mpsc::Sender<Request>,
        output: &Mutex<&TcpStream>,
        got: &AtomicU64,
    ) -> io::Result<()> {
        let (mut served, mut next, mut out, mut unchoked) = (Vec::new(), 0, 0, false);
        let blocks = content.torrent.piece_length / BLOCK;
        loop {
            let mut length = [0; 4];
            input.read_exact(&mut length)?;
            let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("a length")];
            input.read_exact(&mut body)?;
            let field = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().expect("four bytes"));
            match body.first() {
                Some(0) => (unchoked, out) = (false, 0),
                Some(1) => unchoked = true,
                Some(6) => {
                    let request = Request { piece: field(1), begin: field(5), length: field(9) };
                    if served.last() != Some(&request.piece) {
                        served.push(request.piece);
                    }
                    if requests.send(request).is_err() {
                        return Ok(());
                    }
                }
                Some(7) => {
                    out -= 1;
                    got.fetch_add(u64::try_from(body.len()).expect("a length") - 9, Ordering::Relaxed);
                }
                Some(16) => out -= 1,
                _ => {}
            }
            let mut asks = Vec::new();
            while unchoked && out < 200 {
                let (at, block) = (usize::try_from(next / blocks).expect("few"), next % blocks);
                // Far enough behind that the other side has it, whole.
                let Some(&piece) = served.get(at).filter(|_| at + 200 < served.len()) else { break };
                let begin = u32::try_from(block * BLOCK).expect("an offset");
                message(&mut asks, 6, &request_body(Request { piece, begin, length: 16 << 10 }));
                next += 1;
                out += 1;
            }
            if !asks.is_empty() {
                output.lock().expect("the socket").write_all(&asks)?;
            }
        }
    }
}

/// How long a mount takes to read all but the end from a partner, and what it gave in return.
fn stream(content: &Arc<Content>, args: &[&str]) -> (Duration, u64) {
    let partner = Partner::start(content);
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let mount = mount(&[&torrent]).peer(partner.address).args(args).start();
    let mut file = std::fs::File::open(mount.path("film.mkv")).expect("the file");
    // The kernel reads ahead, and nobody has the last piece.
    let mut bytes = vec![0; content.bytes.len() - (2 << 20)];
    let start = Instant::now();
    file.read_exact(&mut bytes).expect("its bytes");
    let took = start.elapsed();
    assert!(content.bytes.starts_with(&bytes));
    (took, partner.got.load(Ordering::Relaxed))
}

#[test]
fn a_mount_that_may_hardly_upload_streams_as_fast() {
    const LIMIT: u64 = 64 * KIB;
    let content = Arc::new(Content::noise("film.mkv", 24 * MIB, 64 * KIB, 11));
    let (free, given) = stream(&content, &[]);
    println!("without a limit: {free:?}, {given} bytes given");
    let (limited, given) = stream(&content, &["--upload-limit", &LIMIT.to_string()]);
    println!("with one of 64 KiB/s: {limited:?}, {given} bytes given");
    assert!(given > 0, "the partner got nothing");
    let most = LIMIT as f64 * limited.as_secs_f64() * 1.05 + 2.0 * BLOCK as f64;
    assert!((given as f64) < most, "{given} bytes were given in {limited:?}");
    assert!(limited.as_secs_f64() < free.as_secs_f64() / 0.85, "{limited:?} with a limit, {free:?} without");
}
