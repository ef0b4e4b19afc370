//! Rows `handles` and `video`: streams that play while something else goes on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::bench::{Bench, MEMORY, PEAK};
use crate::clients::{Client, Who, mib};
use crate::seeks::{offsets, timed};
use crate::support::hostile::Behaviour;
use crate::support::torrent::Content;
use crate::support::{MIB, quantile};
use crate::swarm::{Original, PIECE, SEEDS, Swarm};
use crate::table::Figures;

/// Bytes of a player's read.
const CHUNK: usize = 128 << 10;

/// Reads files in order, a thread each, until `during` ends; MB/s of all of them from their start to that end.
fn streamed<T>(paths: &[std::path::PathBuf], during: impl FnOnce() -> T) -> (f64, T) {
    let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let start = Instant::now();
        for path in paths {
            let (stop, bytes) = (&stop, &bytes);
            scope.spawn(move || {
                let file = File::open(path).expect("the file");
                let (mut buffer, mut at) = (vec![0; CHUNK], 0);
                while !stop.load(Ordering::Relaxed) {
                    let count = file.read_at(&mut buffer, at).expect("a read") as u64;
                    assert!(count > 0, "the file is too short for this row");
                    at += count;
                    bytes.fetch_add(count, Ordering::Relaxed);
                }
            });
        }
        let result = during();
        let rate = bytes.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64() / 1e6;
        stop.store(true, Ordering::Relaxed);
        (rate, result)
    })
}

/// Four handles that stream and one that seeks, against each alone.
pub(crate) fn handles(bench: &Bench) {
    const STREAMS: usize = 4;
    const SEEKS: usize = 40;
    const RATE: u64 = 8 * MIB;
    const FILE: u64 = 256 * MIB;
    const TIME: Duration = Duration::from_secs(6);
    /// Before each seek. Without it the seeker is a fifth stream of whole pieces: to be within three times its latency
    /// alone it would have to have a third of the swarm, which the streams then miss.
    const PAUSE: Duration = Duration::from_millis(250);
    let names: Vec<String> = (0..=STREAMS).map(|n| format!("{n}.bin")).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), FILE)).collect();
    let content = Arc::new(Content::of_files("files", &files, PIECE, 8));
    let swarm = Swarm::scripted(bench, &content, &[Behaviour::Smooth(RATE); SEEDS]);
    let who = bench.clients("handles", &[Who::Ours], &[]);
    let table = bench.turns("handles", &who, |who| {
        let original = Original::Bytes(Arc::clone(&content), FILE * STREAMS as u64);
        let mut peak = 0;
        // A client of its own each time: nothing that one phase fetched helps the next.
        let mut with = |streams: usize, seeks: usize| {
            let client = Client::start(bench, who, &swarm, &[]);
            let paths: Vec<_> = names[..STREAMS].iter().map(|name| client.path("files").join(name)).collect();
            let file = File::open(client.path("files").join(&names[STREAMS])).expect("the file");
            let result = streamed(&paths[..streams], || {
                // Under way.
                std::thread::sleep(if streams == 0 { Duration::from_secs(1) } else { TIME });
                let seek = |offset, buffer: &mut [u8]| {
                    file.read_exact_at(buffer, offset).expect("a read");
                    original.assert_same(offset, buffer);
                };
                let one = |offset: &u64| {
                    std::thread::sleep(PAUSE);
                    timed(&[*offset], 64 << 10, seek)
                };
                offsets(FILE, seeks).iter().flat_map(one).collect::<Vec<f64>>()
            });
            peak = peak.max(client.usage().peak);
            drop(file);
            client.stop();
            result
        };
        let (one, _) = with(1, 0);
        let (four, _) = with(STREAMS, 0);
        let (_, alone) = with(0, SEEKS);
        let (beside, among) = with(STREAMS, SEEKS);
        Figures::default()
            .and("1 stream MB/s", one)
            .and("4 streams MB/s", four)
            .and("4 and seeks MB/s", beside)
            .and("seeks alone p95 ms", quantile(&alone, 0.95))
            .and("seeks among p50 ms", quantile(&among, 0.5))
            .and("seeks among p95 ms", quantile(&among, 0.95))
            .and("seeks among max ms", quantile(&among, 1.0))
            .and(PEAK, mib(peak))
    });
    for who in table.who() {
        let of = |name| table.median(who, name);
        table.note(format!(
            "{who}: seeks' p95 x {:.2} of that alone; four streams x {:.2} of one, x {:.2} with the seeks beside them",
            of("seeks among p95 ms") / of("seeks alone p95 ms"),
            of("4 streams MB/s") / of("1 stream MB/s"),
            of("4 and seeks MB/s") / of("1 stream MB/s"),
        ));
    }
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}

/// A video that plays at `RATE`: read in order, at most a second ahead of what is shown.
struct Player {
    file: File,
    at: u64,
    buffer: Vec<u8>,
}

/// Times at which the picture stood still.
#[derive(Default)]
struct Stalls {
    count: u32,
    longest: Duration,
}

impl Player {
    /// Bytes per second of video: 25 Mbit.
    const RATE: u64 = 25_000_000 / 8;

    fn new(path: &Path) -> Self {
        Self { file: File::open(path).expect("the file"), at: 0, buffer: vec![0; CHUNK] }
    }

    fn chunk(&mut self, original: &Original) {
        self.file.read_exact_at(&mut self.buffer, self.at).expect("a read");
        original.assert_same(self.at, &self.buffer);
        self.at += CHUNK as u64;
    }

    /// Reads a second of video, as players do before they show the first picture.
    fn prepare(&mut self, original: &Original) {
        let end = self.at + Self::RATE;
        while self.at < end {
            self.chunk(original);
        }
    }

    /// Shows this much video from `from` on, of which the first second has been read. Chunks that are late one after
    /// the other are one stall.
    fn play(&mut self, original: &Original, from: u64, length: Duration) -> Stalls {
        let time = |bytes: u64| Duration::from_secs_f64(bytes as f64 / Self::RATE as f64);
        let (mut shown, mut stalls, mut now) = (Instant::now(), Stalls::default(), Duration::ZERO);
        while time(self.at - from) < length {
            let due = shown + time(self.at - from);
            let ahead = due.checked_sub(Duration::from_secs(1)).unwrap_or(due);
            std::thread::sleep(ahead.saturating_duration_since(Instant::now()));
            self.chunk(original);
            let late = Instant::now().saturating_duration_since(due);
            if late.is_zero() {
                now = Duration::ZERO;
                continue;
            }
            stalls.count += u32::from(now.is_zero());
            // The picture goes on when the chunk is there, and everything after it is due later.
            shown += late;
            now += late;
            stalls.longest = stalls.longest.max(now);
        }
        stalls
    }
}

/// A video of 25 Mbit/s over 32 Mbit/s of uneven seeds: its start, its stalls, and a jump.
pub(crate) fn video(bench: &Bench) {
    /// Bytes per second, together 32 Mbit/s.
    const RATES: [u64; SEEDS] = [1_600_000, 1_200_000, 800_000, 400_000];
    let content = Arc::new(Content::noise("video.mkv", 512 * MIB, PIECE, 9));
    let swarm = Swarm::scripted(bench, &content, &RATES.map(Behaviour::Smooth));
    let who = bench.clients("video", &[Who::Ours], &[]);
    let table = bench.turns("video", &who, |who| {
        let client = Client::start(bench, who, &swarm, &[]);
        let opening = Instant::now();
        let mut player = Player::new(&client.path(&swarm.file));
        player.prepare(&swarm.original);
        let (start, since_open) = (client.started.elapsed(), opening.elapsed());
        let before = player.play(&swarm.original, 0, Duration::from_secs(60));
        let jump = Instant::now();
        let chunk = CHUNK as u64;
        player.at = u64::midpoint(player.at, swarm.length) / chunk * chunk;
        let from = player.at;
        player.prepare(&swarm.original);
        let resume = jump.elapsed();
        let after = player.play(&swarm.original, from, Duration::from_secs(20));
        let figures = Figures::default()
            .and("start s", start.as_secs_f64())
            .and("open to start s", since_open.as_secs_f64())
            .and("stalls", before.count.into())
            .and("longest s", before.longest.as_secs_f64())
            .and("resume s", resume.as_secs_f64())
            .and("stalls after", after.count.into())
            .and("longest after s", after.longest.as_secs_f64())
            .and(PEAK, mib(client.usage().peak));
        drop(player);
        client.stop();
        figures
    });
    let swarm_rate: u64 = RATES.iter().sum();
    let bound = Player::RATE as f64 / swarm_rate as f64;
    table.note(format!("the bound, a second of video at the swarm's rate: {bound:.2} s"));
    for who in table.who() {
        let ratio = |name| table.median(who, name) / bound;
        let (start, resume) = (ratio("open to start s"), ratio("resume s"));
        table.note(format!("{who}: open to start x {start:.2}, resume x {resume:.2} of the bound"));
    }
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}
