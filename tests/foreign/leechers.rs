//! libtorrent, Transmission and aria2 download the whole set from us: from `swarmfs seed`, and from a mount that has
//! read it. And a mount gets it from a mount, and libtorrents from a super-seed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::foreign::{
    LibTorrent, OpenTracker, Transmission, aria2, swarmfs_seed, swarmfs_seed_with, torrent_by_libtorrent,
};
use crate::support::lab::Lab;
use crate::support::mounts::{Mount, mount_at};
use crate::support::process::shell;
use crate::support::reading::assert_same_but_for_empty_files;
use crate::support::torrent::Torrent;
use crate::support::{MIB, wait_until};

const LIMIT: Duration = Duration::from_secs(240);

struct Fixture {
    lab: Lab,
    dataset: Dataset,
    torrent: Torrent,
    tracker: OpenTracker,
    file: PathBuf,
}

impl Fixture {
    fn new(dataset: Dataset) -> Self {
        let lab = Lab::enter();
        let torrent = torrent_by_libtorrent(&dataset, 512);
        let tracker = OpenTracker::start(&lab, &[&torrent]);
        let file = torrent.write(lab.dir.path(), Some(&tracker.url()));
        Self { lab, dataset, torrent, tracker, file }
    }

    fn mount(&self) -> Mount {
        mount_at(&[&self.file], self.lab.address()).args(&["--memory", "2GiB"]).limit(LIMIT * 4).start()
    }

    fn read_all(&self, mount: &Mount) {
        let start = Instant::now();
        shell("diff -r \"$1\" \"$2\"", &[&self.dataset.root(), &mount.path(&self.dataset.name)], LIMIT);
        println!("a mount has read all: {:.1} s", start.elapsed().as_secs_f64());
    }

    /// One after the other, so that none gets anything from another.
    #[track_caller]
    fn everybody_downloads(&self, from: &str) {
        let root = |dir: &Path| dir.join(&self.dataset.name);

        let (start, dir) = (Instant::now(), self.lab.subdir("libtorrent"));
        LibTorrent::leech(&self.lab, &self.file, &dir).complete(LIMIT);
        println!("libtorrent from {from}: {:.1} s", start.elapsed().as_secs_f64());
        shell("diff -r \"$1\" \"$2\"", &[&self.dataset.root(), &root(&dir)], LIMIT);
        std::fs::remove_dir_all(dir).expect("its copy goes");

        let (start, dir) = (Instant::now(), self.lab.subdir("aria2"));
        let mut leech = aria2(&self.lab, &self.file, &dir);
        let Some((status, _)) = leech.wait(LIMIT) else { panic!("aria2 is not done after {LIMIT:?}: {}", leech.log()) };
        assert!(status.success(), "{}", leech.log());
        println!("aria2 from {from}: {:.1} s", start.elapsed().as_secs_f64());
        shell("diff -r \"$1\" \"$2\"", &[&self.dataset.root(), &root(&dir)], LIMIT);
        std::fs::remove_dir_all(dir).expect("its copy goes");

        let (start, dir) = (Instant::now(), self.lab.subdir("transmission"));
        let leech = Transmission::start(&self.lab, &self.file, &dir);
        let done = crate::support::holds_within(LIMIT, || leech.is_complete());
        assert!(done, "Transmission is not done after {LIMIT:?}: {}", leech.info());
        println!("Transmission from {from}: {:.1} s", start.elapsed().as_secs_f64());
        drop(leech);
        assert_same_but_for_empty_files(&self.dataset, &root(&dir));
        std::fs::remove_dir_all(dir).expect("its copy goes");
    }
}

#[test]
#[ignore = "needs root, iproute2, opentracker, libtorrent, Transmission and aria2"]
fn everybody_downloads_from_our_seed() {
    let fixture = Fixture::new(Dataset::big());
    let (mut seed, _) = swarmfs_seed(&fixture.lab, &fixture.file, &fixture.dataset.parent);
    fixture.tracker.wait_for_seeds(&fixture.torrent, 1);
    fixture.everybody_downloads("swarmfs seed");
    // A leecher that was killed may be among them, but none announces any more.
    let complete = || fixture.tracker.scrape(&fixture.torrent).map(|(complete, _)| complete);
    let before = complete().expect("a scrape");
    seed.signal(rustix::process::Signal::TERM);
    let Some((status, _)) = seed.wait(Duration::from_secs(5)) else { panic!("SIGTERM does not end the seed") };
    assert!(status.success(), "{status}");
    let gone = || complete().is_some_and(|now| now + 1 == before);
    wait_until(Duration::from_secs(5), "the tracker was told that the seed has stopped", gone);
}

#[test]
#[ignore = "needs root, iproute2, opentracker, libtorrent, Transmission and aria2"]
fn everybody_downloads_from_a_mount_that_has_read_it() {
    let fixture = Fixture::new(Dataset::big());
    let seed = LibTorrent::seed(&fixture.lab, &fixture.file, &fixture.dataset.parent, 0);
    fixture.tracker.wait_for_seeds(&fixture.torrent, 1);
    let mount = fixture.mount();
    fixture.read_all(&mount);
    // From here on the mount is the only one that has anything.
    drop(seed);
    fixture.everybody_downloads("a mount");
}

/// Two mounts and one slow seed, all known through the tracker. The seed stops once the first mount has read: what the
/// second reads can only come from the first.
#[test]
#[ignore = "needs root, iproute2, opentracker and libtorrent"]
fn the_second_mount_gets_bytes_from_the_first() {
    let fixture = Fixture::new(Dataset::small());
    let rate = 8 * MIB;
    let seed = LibTorrent::seed(&fixture.lab, &fixture.file, &fixture.dataset.parent, rate);
    fixture.tracker.wait_for_seeds(&fixture.torrent, 1);
    let (first, second) = (fixture.mount(), fixture.mount());
    fixture.read_all(&first);
    drop(seed);
    fixture.read_all(&second);
}

/// Three leechers of another program pass on what a super-seed shows them, and one that comes when they are gone gets
/// everything all the same. The seed is slower than they are: else it would help the last of them with what others have.
#[test]
#[ignore = "needs root, iproute2, opentracker and libtorrent"]
fn libtorrents_pass_on_what_a_super_seed_shows_them() {
    let fixture = Fixture::new(Dataset::small());
    let (lab, dataset) = (&fixture.lab, &fixture.dataset);
    let (_seed, _) =
        swarmfs_seed_with(lab, &fixture.file, &dataset.parent, &["--super-seed", "--upload-limit", "4MiB"]);
    fixture.tracker.wait_for_seeds(&fixture.torrent, 1);
    let dirs = ["first", "second", "third", "last"].map(|name| lab.subdir(name));
    let mut leeches: Vec<LibTorrent> =
        dirs[..3].iter().map(|dir| LibTorrent::leech_with(lab, &fixture.file, dir, &["stays=1"])).collect();
    let start = Instant::now();
    wait_until(LIMIT, "all of them have it all", || leeches.iter().all(|leech| leech.done() >= 1.0));
    let sum = |figure: fn(&LibTorrent) -> f64| leeches.iter().map(figure).sum::<f64>();
    // Nobody else has given anything.
    let copies = (sum(LibTorrent::downloaded) - sum(LibTorrent::uploaded)) / dataset.length() as f64;
    println!("the seed gave {copies:.2} copies in {:.1} s", start.elapsed().as_secs_f64());
    leeches.clear();
    let took = LibTorrent::leech(lab, &fixture.file, &dirs[3]).complete(LIMIT);
    println!("one that is alone has it after {took:?}");
    for dir in &dirs {
        shell("diff -r \"$1\" \"$2\"", &[&dataset.root(), &dir.join(&dataset.name)], LIMIT);
    }
    assert!(copies < 1.3, "the seed gave {copies:.2} copies");
}
