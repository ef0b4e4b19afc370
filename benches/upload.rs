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

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::dataset::Dataset;
use support::foreign::libtorrent;
use support::process::{Running, swarmfs};
use support::sink::Sink;
use support::torrent::Torrent;
use support::usage::usage;
use support::{MIB, free_address, median, wait_until};

const PIECE: u64 = 1 << 20;
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
        let dataset = Dataset::noise(LENGTH);
        let torrent = Torrent::of(&dataset, PIECE);
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
        usage(self.process.pid()).cpu
    }

    /// Resident memory, bytes.
    fn memory(&self) -> u64 {
        usage(self.process.pid()).resident
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
    let mut sink = Sink::connect(seed.address, &payload.torrent, OUTSTANDING);
    let before = seed.cpu();
    let start = sink.run(sink.blocks(), &AtomicBool::new(false), &AtomicU64::new(0)).expect("1 GiB");
    let seconds = start.elapsed().as_secs_f64();
    Figures { seconds, cpu: (seed.cpu() - before).as_secs_f64() }
}

/// Timed from the first byte on: libtorrent dials anew, without encryption, whom it cannot reach with it.
fn to_leecher(payload: &Payload, by: Seed) -> Figures {
    let seed = payload.serve(by, &[]);
    // Not a disk's speed is measured.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory } else { payload.dir.path() };
    let dir = tempfile::tempdir_in(place).expect("a directory");
    let status = dir.path().join("leech.json");
    let mut command = libtorrent();
    command.arg("leech").arg(&payload.file).arg(dir.path()).arg(free_address().to_string());
    command.arg(&status).arg(seed.address.to_string());
    let before = seed.cpu();
    let mut leech = Running::spawn("leech", command, &payload.dir.path().join("leech.log"), LIMIT);
    let downloaded = || {
        let text = std::fs::read(&status).unwrap_or_default();
        serde_json::from_slice::<serde_json::Value>(&text).ok().and_then(|s| s["downloaded"].as_u64()).unwrap_or(0)
    };
    wait_until(LIMIT, "the first byte", || downloaded() > 0);
    let (early, start) = (downloaded(), Instant::now());
    wait_until(LIMIT, "the last byte", || downloaded() >= LENGTH);
    let seconds = start.elapsed().as_secs_f64() * LENGTH as f64 / (LENGTH - early) as f64;
    let cpu = (seed.cpu() - before).as_secs_f64();
    let Some((status, _)) = leech.wait(LIMIT) else { panic!("the leecher does not end: {}", leech.log()) };
    assert!(status.success(), "{status}");
    Figures { seconds, cpu }
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
        Figures {
            seconds: median(&runs().map(|f| f.seconds).collect::<Vec<_>>()),
            cpu: median(&runs().map(|f| f.cpu).collect::<Vec<_>>()),
        }
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
            scope.spawn(move || Sink::connect(address, torrent, OUTSTANDING).run(u64::MAX, stop, count));
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
    let tenths: Vec<String> =
        got.iter().step_by(5).chain(got.last()).map(|b| format!("{:.0}", *b as f64 / 1e6)).collect();
    println!("many: MB in 10 s by tenths of the sinks: {}", tenths.join(" "));
    println!("many: the least has {:.1} % of the most", 100.0 * got[0] as f64 / got[SINKS - 1] as f64);
}

fn memory(payload: &Payload) {
    const PEERS: usize = 200;
    let seed = payload.serve(Seed::Ours, &["--upload-slots", "200"]);
    let before = seed.memory();
    let mut sinks: Vec<Sink<'_>> =
        (0..PEERS).map(|_| Sink::connect(seed.address, &payload.torrent, OUTSTANDING)).collect();
    for sink in &mut sinks {
        sink.ask_and_read_nothing().expect("an unchoke");
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
