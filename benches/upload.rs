//! How fast `swarmfs seed` uploads, and what that costs, beside libtorrent's seed in alternating pairs.
//!
//! cargo bench --bench upload -- [sink|leech|many|memory]... [--pairs N] [--only ours|libtorrent]
//!
//! sink    1 GiB to a sink of std threads that discards it, 500 requests of 16 KiB outstanding
//! leech   1 GiB to a libtorrent leecher
//! many    50 sinks at `--upload-slots 50` for ten seconds: how even they are
//! memory  200 peers that ask for 500 blocks and read nothing: what the seed's memory grows by
//!
//! libtorrent is found through `SWARMFS_TEST_PYTHON` or python3; without it only ours is measured. Figures are medians
//! over the pairs; CPU is user and system time of the seeding process by /proc.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::dataset::{Dataset, FileEntry};
use support::foreign::libtorrent;
use support::peer::{Request, handshake, message, request_body};
use support::process::{Running, swarmfs};
use support::torrent::Torrent;
use support::{MIB, Random, free_address, wait_until};

const BLOCK: u32 = 16 * 1024;
const PIECE: u32 = 1 << 20;
const LENGTH: u64 = 1 << 30;
/// Requests that a sink has out: libtorrent's `max_out_request_queue`.
const OUTSTANDING: usize = 500;
const LIMIT: Duration = Duration::from_secs(120);

/// Who uploads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seed {
    Ours,
    Libtorrent,
}

/// 1 GiB of noise and its torrent, made once.
struct Payload {
    dataset: Dataset,
    torrent: Torrent,
    dir: tempfile::TempDir,
    file: PathBuf,
}

impl Payload {
    fn new() -> Self {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("upload-bench");
        let files = vec![FileEntry { path: "noise.bin".to_owned(), length: LENGTH, executable: false }];
        let dataset = Dataset { parent, name: "upload".to_owned(), files };
        let path = dataset.root().join("noise.bin");
        if std::fs::metadata(&path).map_or(0, |m| m.len()) != LENGTH {
            std::fs::create_dir_all(dataset.root()).expect("a directory");
            let mut out = BufWriter::with_capacity(1 << 20, File::create(&path).expect("a file"));
            let (mut random, mut buffer) = (Random::new(7), vec![0; 1 << 20]);
            for _ in 0..LENGTH / MIB {
                random.fill(&mut buffer);
                out.write_all(&buffer).expect("room on the disk");
            }
            out.flush().expect("room on the disk");
        }
        let torrent = Torrent::of(&dataset, PIECE.into());
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let file = torrent.write(dir.path(), None);
        Self { dataset, torrent, dir, file }
    }

    /// Starts a seed that has checked what it serves.
    fn serve(&self, by: Seed, args: &[&str]) -> Serving {
        let address = free_address();
        let log = self.dir.path().join("seed.log");
        let command = match by {
            Seed::Ours => {
                let mut command = swarmfs();
                command.arg("seed").arg(&self.file).arg("--data").arg(&self.dataset.parent);
                command.args(["--no-dht", "--no-lsd", "--listen", &address.to_string()]).args(args);
                command
            }
            Seed::Libtorrent => {
                let mut command = libtorrent();
                command.arg("seed").arg(&self.file).arg(&self.dataset.parent).arg(address.to_string());
                command.arg(self.dir.path().join("seed.json"));
                command
            }
        };
        let process = Running::spawn("seed", command, &log, LIMIT * 5);
        wait_until(LIMIT, "the seed listens", || TcpStream::connect(address).is_ok());
        Serving { process, address }
    }
}

struct Serving {
    process: Running,
    address: SocketAddr,
}

impl Serving {
    /// User and system time of the process so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').skip(11).take(2);
        let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
        // SAFETY: sysconf reads a constant.
        let second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100);
        Duration::from_millis(ticks * 1000 / second)
    }

    /// Resident memory, bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

/// A leecher that keeps nothing.
struct Sink<'a> {
    stream: TcpStream,
    torrent: &'a Torrent,
    /// The next block, and those that were rejected.
    next: u64,
    again: VecDeque<Request>,
    out: usize,
    unchoked: bool,
}

impl<'a> Sink<'a> {
    /// A seed may close connections until it is ready.
    fn connect(address: SocketAddr, torrent: &'a Torrent) -> Self {
        let mut sink = Self::try_connect(address, torrent);
        wait_until(LIMIT, "a connection to the seed", || {
            if sink.is_err() {
                sink = Self::try_connect(address, torrent);
            }
            sink.is_ok()
        });
        sink.expect("a connection")
    }

    fn try_connect(address: SocketAddr, torrent: &'a Torrent) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut hello = handshake(&torrent.info_hash);
        message(&mut hello, 15, &[]);
        message(&mut hello, 2, &[]);
        stream.write_all(&hello)?;
        stream.read_exact(&mut [0; 68])?;
        Ok(Self { stream, torrent, next: 0, again: VecDeque::new(), out: 0, unchoked: false })
    }

    fn blocks(&self) -> u64 {
        self.torrent.length.div_ceil(BLOCK.into())
    }

    fn block(&self, number: u64) -> Request {
        let at = number % self.blocks() * u64::from(BLOCK);
        let piece = u32::try_from(at / u64::from(PIECE)).expect("a piece");
        let begin = u32::try_from(at % u64::from(PIECE)).expect("an offset");
        let left = self.torrent.length - at;
        Request { piece, begin, length: u32::try_from(left.min(BLOCK.into())).expect("a block") }
    }

    /// Fills the pipeline up to block `end`, once a tenth of it is free.
    fn ask(&mut self, end: u64) -> io::Result<()> {
        if !self.unchoked || OUTSTANDING - self.out < OUTSTANDING / 10 {
            return Ok(());
        }
        let mut requests = Vec::with_capacity(17 * OUTSTANDING);
        while self.out < OUTSTANDING {
            let request = match self.again.pop_front() {
                Some(request) => request,
                None if self.next < end => {
                    self.next += 1;
                    self.block(self.next - 1)
                }
                None => break,
            };
            self.out += 1;
            message(&mut requests, 6, &request_body(request));
        }
        self.stream.write_all(&requests)
    }

    /// Fetches `blocks` (round and round) until `stop`; adds payload to `bytes`. Returns when the first request left.
    fn run(&mut self, blocks: u64, stop: &AtomicBool, bytes: &AtomicU64) -> io::Result<Instant> {
        let mut buffer = vec![0; 256 * 1024];
        let (mut held, mut came, mut start) = (0, 0, None);
        while came < blocks && !stop.load(Ordering::Relaxed) {
            // Whole messages but for a block's payload, of which only the end is looked for.
            let count = self.stream.read(&mut buffer[held..])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            held += count;
            let mut at = 0;
            while held - at >= 4 {
                let length = u32::from_be_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
                let end = at + 4 + usize::try_from(length).expect("a length");
                if end > held {
                    break;
                }
                let body = &buffer[at + 4..end];
                match body.first() {
                    Some(7) => {
                        self.out -= 1;
                        came += 1;
                        bytes.fetch_add(u64::from(length) - 9, Ordering::Relaxed);
                    }
                    Some(1) => {
                        self.unchoked = true;
                        start.get_or_insert_with(Instant::now);
                    }
                    Some(0) => self.unchoked = false,
                    Some(16) => {
                        let field = |n: usize| u32::from_be_bytes(body[n..n + 4].try_into().expect("four bytes"));
                        self.out -= 1;
                        self.again.push_back(Request { piece: field(1), begin: field(5), length: field(9) });
                    }
                    _ => {}
                }
                at = end;
            }
            buffer.copy_within(at..held, 0);
            held -= at;
            self.ask(blocks)?;
        }
        start.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

/// What a run gave.
#[derive(Clone, Copy, Debug)]
struct Figures {
    seconds: f64,
    cpu: f64,
}

impl Figures {
    fn line(self) -> String {
        let rate = LENGTH as f64 / 1e6 / self.seconds;
        format!("{rate:7.0} MB/s, {:.2} CPU-s per GiB", self.cpu)
    }
}

fn to_sink(payload: &Payload, by: Seed) -> Figures {
    let seed = payload.serve(by, &[]);
    let mut sink = Sink::connect(seed.address, &payload.torrent);
    let before = seed.cpu();
    let start = sink.run(LENGTH / u64::from(BLOCK), &AtomicBool::new(false), &AtomicU64::new(0)).expect("1 GiB");
    let seconds = start.elapsed().as_secs_f64();
    Figures { seconds, cpu: (seed.cpu() - before).as_secs_f64() }
}

fn to_leecher(payload: &Payload, by: Seed) -> Figures {
    let seed = payload.serve(by, &[]);
    let dir = tempfile::tempdir_in(payload.dir.path()).expect("a directory");
    let mut command = libtorrent();
    command.arg("leech").arg(&payload.file).arg(dir.path()).arg(free_address().to_string());
    command.arg(dir.path().join("leech.json")).arg(seed.address.to_string());
    let (before, start) = (seed.cpu(), Instant::now());
    let mut leech = Running::spawn("leech", command, &payload.dir.path().join("leech.log"), LIMIT);
    let Some((status, _)) = leech.wait(LIMIT) else { panic!("the leecher is not done: {}", leech.log()) };
    assert!(status.success(), "{status}");
    Figures { seconds: start.elapsed().as_secs_f64(), cpu: (seed.cpu() - before).as_secs_f64() }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn pairs(name: &str, who: &[Seed], pairs: usize, run: impl Fn(Seed) -> Figures) {
    let mut all: Vec<(Seed, Figures)> = Vec::new();
    for pair in 0..pairs {
        // Who is first changes from pair to pair.
        let order: Vec<Seed> = if pair % 2 == 0 { who.to_vec() } else { who.iter().rev().copied().collect() };
        for by in order {
            let figures = run(by);
            println!("{name} {pair} {by:?}: {}", figures.line());
            all.push((by, figures));
        }
    }
    let of = |by: Seed| {
        let runs = || all.iter().filter(move |(seed, _)| *seed == by).map(|(_, figures)| *figures);
        Figures { seconds: median(runs().map(|f| f.seconds).collect()), cpu: median(runs().map(|f| f.cpu).collect()) }
    };
    for &by in who {
        println!("{name} median of {pairs}, {by:?}: {}", of(by).line());
    }
    if who.len() == 2 {
        let (ours, theirs) = (of(Seed::Ours), of(Seed::Libtorrent));
        println!("{name}: rate x {:.2}, CPU x {:.2}", theirs.seconds / ours.seconds, ours.cpu / theirs.cpu);
    }
}

fn many(payload: &Payload) {
    const SINKS: usize = 50;
    let seed = payload.serve(Seed::Ours, &["--upload-slots", "50"]);
    let (stop, counts) = (AtomicBool::new(false), Arc::new([const { AtomicU64::new(0) }; SINKS]));
    let mut got: Vec<u64> = Vec::new();
    std::thread::scope(|scope| {
        for count in counts.iter() {
            let (stop, torrent, address) = (&stop, &payload.torrent, seed.address);
            scope.spawn(move || Sink::connect(address, torrent).run(u64::MAX, stop, count));
        }
        let all = || counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        wait_until(LIMIT, "every sink is unchoked", || all().iter().all(|&count| count > 0));
        let (before, cpu) = (all(), seed.cpu());
        std::thread::sleep(Duration::from_secs(10));
        let sent: u64 = all().iter().sum::<u64>() - before.iter().sum::<u64>();
        let cpu = (seed.cpu() - cpu).as_secs_f64() / (sent as f64 / LENGTH as f64);
        got = all().iter().zip(&before).map(|(now, then)| now - then).collect();
        println!(
            "many: {:.0} MB/s in all, {cpu:.2} CPU-s per GiB, {} MiB resident",
            sent as f64 / 1e7,
            seed.memory() / MIB
        );
        stop.store(true, Ordering::Relaxed);
    });
    got.sort_unstable();
    let (least, most, middle) = (got[0], got[SINKS - 1], got[SINKS / 2]);
    println!(
        "many: least {:.1} MB, median {:.1} MB, most {:.1} MB in 10 s; the least has {:.1} % of the most",
        least as f64 / 1e6,
        middle as f64 / 1e6,
        most as f64 / 1e6,
        100.0 * least as f64 / most as f64
    );
}

fn memory(payload: &Payload) {
    const PEERS: usize = 200;
    let seed = payload.serve(Seed::Ours, &["--upload-slots", "200"]);
    let before = seed.memory();
    let mut sinks: Vec<Sink<'_>> = (0..PEERS).map(|_| Sink::connect(seed.address, &payload.torrent)).collect();
    for sink in &mut sinks {
        // Up to the unchoke; then requests, and not one more byte is read.
        let mut seen = Vec::new();
        while !seen.windows(5).any(|w| w == [0, 0, 0, 1, 1]) {
            let mut byte = [0];
            sink.stream.read_exact(&mut byte).expect("an unchoke");
            seen.extend(byte);
        }
        sink.unchoked = true;
        sink.ask(u64::MAX).expect("requests");
    }
    let (mut last, mut most) = (0, 0);
    // Until it has stopped growing.
    wait_until(LIMIT, "the memory stands still", || {
        std::thread::sleep(Duration::from_secs(1));
        let still = seed.memory() == last;
        last = seed.memory();
        most = most.max(last);
        still
    });
    let grown = most.saturating_sub(before);
    println!(
        "memory: {} MiB before, {} MiB with {PEERS} peers that do not read: {} kB each",
        before / MIB,
        most / MIB,
        grown / 1000 / PEERS as u64
    );
}

fn main() {
    let (mut what, mut count, mut only) = (Vec::new(), 5, None);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--pairs" => count = arguments.next().and_then(|n| n.parse().ok()).expect("--pairs takes a number"),
            "--only" => only = arguments.next(),
            "sink" | "leech" | "many" | "memory" => what.push(argument),
            other => panic!("{other}: the parts are sink, leech, many and memory"),
        }
    }
    if what.is_empty() {
        what = ["sink", "leech", "many", "memory"].map(str::to_owned).to_vec();
    }
    let works = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let python = std::env::var_os("SWARMFS_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let there = works(Command::new(python).args(["-c", "import libtorrent"]));
    if !there {
        println!(
            "there is no libtorrent: SWARMFS_TEST_PYTHON names a Python that has it (pip install libtorrent==2.1.1)"
        );
    }
    let mut who = vec![Seed::Ours, Seed::Libtorrent];
    who.retain(|by| match only.as_deref() {
        Some("ours") => *by == Seed::Ours,
        Some("libtorrent") => there && *by == Seed::Libtorrent,
        _ => there || *by == Seed::Ours,
    });
    let payload = Payload::new();
    for part in what {
        match part.as_str() {
            "sink" => pairs("sink", &who, count, |by| to_sink(&payload, by)),
            "leech" if there => pairs("leech", &who, count, |by| to_leecher(&payload, by)),
            "many" => many(&payload),
            "memory" => memory(&payload),
            _ => {}
        }
    }
}
