//! Mounts that are killed at random moments, over and over, on the same mountpoint: each next mount cleans up, comes up
//! and reads right. `tests/run --long` lets it run for 15 minutes.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::hostile::Behaviour;
use crate::support::mounts::{detach, is_mounted, mount};
use crate::support::peer::Peer;
use crate::support::process::Running;
use crate::support::torrent::Content;
use crate::support::{MIB, Random};
use rustix::process::Signal;

/// How long, in seconds; a minute if not set.
const SECONDS: &str = "SWARMFS_TEST_CHURN_SECONDS";

#[test]
#[ignore = "takes a minute, or as long as SWARMFS_TEST_CHURN_SECONDS says"]
fn mounts_that_are_killed_come_back_and_read_right() {
    let seconds = std::env::var(SECONDS).ok().map_or(60, |text| text.parse().expect("a number of seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let content = Arc::new(Content::noise("film.mkv", 24 * MIB, 64 << 10, 30));
    let seeds = [Peer::seed(&content), Peer::start(&content, Behaviour::Rate(8 * MIB))];
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a mountpoint");
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").subsec_nanos();
    println!("random seed {seed}");
    let mut random = Random::new(u64::from(seed));
    let (mut cycles, mut slowest) = (0, Duration::ZERO);
    while Instant::now() < end {
        let start = Instant::now();
        let mut mount = mount(&[&torrent]).peer(seeds[0].address).peer(seeds[1].address);
        mount =
            mount.args(&["--memory", "16MiB", "--read-timeout", "10s"]).on(&mountpoint).limit(Duration::from_secs(60));
        let mut mount = mount.start();
        slowest = slowest.max(start.elapsed());
        // Some readers are at it when the blow falls, at a moment that differs each time.
        let path = mount.path("film.mkv");
        let readers: Vec<Running> = (0..random.below(4))
            .map(|n| {
                let mut cat = std::process::Command::new("cat");
                cat.arg(&path);
                Running::spawn("cat", cat, std::path::Path::new("/dev/null"), Duration::from_secs(30 + n))
            })
            .collect();
        let file = std::fs::File::open(&path).expect("the file");
        for _ in 0..random.below(12) + 1 {
            let at = random.below(24 * MIB - (64 << 10));
            let mut bytes = vec![0; usize::try_from(random.below(64 << 10) + 1).expect("a length")];
            file.read_exact_at(&mut bytes, at).expect("a read");
            let from = usize::try_from(at).expect("an offset");
            assert!(bytes == content.bytes[from..from + bytes.len()], "cycle {cycles}, at {at}");
        }
        let gentle = cycles % 5 == 4;
        mount.process.signal(if gentle { Signal::TERM } else { Signal::KILL });
        assert!(mount.process.wait(Duration::from_secs(5)).is_some(), "cycle {cycles}: it lives on");
        drop(file);
        for mut reader in readers {
            assert!(reader.wait(Duration::from_secs(2)).is_some(), "cycle {cycles}: a reader hangs on a dead mount");
        }
        if gentle {
            assert!(!is_mounted(&mountpoint), "cycle {cycles}: SIGTERM left the mount behind");
        } else {
            let error = rustix::fs::statfs(&mountpoint).expect_err("it is dead");
            assert_eq!(error, rustix::io::Errno::NOTCONN, "cycle {cycles}");
        }
        // What a killed mount leaves is the next one's to clean: this guard must not do it.
        mount.leave();
        cycles += 1;
    }
    detach(&mountpoint);
    println!("{cycles} cycles, the slowest start took {slowest:?}");
    assert!(cycles >= seconds / 4, "only {cycles} cycles in {seconds} s");
}
