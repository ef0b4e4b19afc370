//! Row `tar`: many small files over a long way, against one file of the same bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bench::{Bench, MEMORY, PEAK};
use crate::clients::{Client, Who, mib};
use crate::support::delay::Delay;
use crate::support::hostile::Behaviour;
use crate::support::process::shell;
use crate::support::torrent::Content;
use crate::swarm::{PIECE, SEEDS, Swarm};
use crate::table::Figures;

const FILES: u64 = 10_000;
/// Bytes of a small file.
const SMALL: u64 = 16 << 10;
/// From us to each seed, and from it to us.
const EACH_WAY: Duration = Duration::from_millis(25);
const LIMIT: Duration = Duration::from_secs(600);

/// `tar c` of 10,000 files of 16 KiB with seeds 50 ms away, against `cat` of one file that is as long.
pub(crate) fn tar(bench: &Bench) {
    let names: Vec<String> = (0..FILES).map(|n| format!("{:02}/{n:05}.txt", n / 100)).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), SMALL)).collect();
    let many = Arc::new(Content::of_files("many", &files, PIECE, 10));
    let one = Arc::new(Content::noise("one.bin", FILES * SMALL, PIECE, 11));
    let far = |content: &Arc<Content>| {
        let mut swarm = Swarm::scripted(bench, content, &[Behaviour::Good; SEEDS]);
        let ways: Vec<Delay> = swarm.peers.iter().map(|peer| Delay::to(*peer, EACH_WAY)).collect();
        swarm.peers = ways.iter().map(|way| way.address).collect();
        (swarm, ways)
    };
    let ((many, _ways), (one, _other_ways)) = (far(&many), far(&one));
    let who = bench.clients("tar", &[Who::Ours], &[]);
    let table = bench.turns("tar", &who, |who| {
        let mut peak = 0;
        // A program notices that its output is /dev/null, and reads nothing then.
        let mut took = |swarm: &Swarm, line: &str| {
            let client = Client::start(bench, who, swarm, &[]);
            let start = Instant::now();
            let bytes = shell(line, &[&client.path(&swarm.file)], LIMIT);
            let took = start.elapsed().as_secs_f64();
            let count: u64 = String::from_utf8_lossy(&bytes).trim().parse().expect("a count of bytes");
            assert!(count >= FILES * SMALL, "only {count} bytes came");
            peak = peak.max(client.usage().peak);
            client.stop();
            took
        };
        let tar = took(&many, r#"tar cf - -C "$1" . | wc -c"#);
        let cat = took(&one, r#"cat "$1" | wc -c"#);
        Figures::default().and("tar s", tar).and("cat s", cat).and("tar/cat", tar / cat).and(PEAK, mib(peak))
    });
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}
