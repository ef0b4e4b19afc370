//! A dataset of 1.1 GiB in 300 files that libtorrent and Transmission seed, found through opentracker, mounted: programs
//! see on the mount what they see on the original.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, OpenTracker, Transmission, torrent_by_libtorrent};
use crate::support::lab::Lab;
use crate::support::mounts::{Mount, MountCommand, mount_at};
use crate::support::process::{installed, shell};
use crate::support::reading::read_mapped;
use crate::support::torrent::Torrent;
use crate::support::{MIB, Random, wait_until};

const LIMIT: Duration = Duration::from_secs(300);

/// The lab, the tracker, and what it tracks.
struct Fixture {
    lab: Lab,
    dataset: Dataset,
    torrent: Torrent,
    tracker: OpenTracker,
    file: std::path::PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dataset = Dataset::big();
        assert_eq!(dataset.files.len(), 300);
        assert!(dataset.length() >= 1024 * MIB, "{} bytes", dataset.length());
        let lab = Lab::enter();
        let torrent = torrent_by_libtorrent(&dataset, 512);
        let tracker = OpenTracker::start(&lab, &[&torrent]);
        let file = torrent.write(lab.dir.path(), Some(&tracker.url()));
        Self { lab, dataset, torrent, tracker, file }
    }

    /// A mount that knows its peers from the tracker only.
    fn mount(&self) -> MountCommand {
        mount_at(&[&self.file], self.lab.address()).args(&["--read-timeout", "30s"]).limit(LIMIT * 2)
    }
}

/// Runs `step`, and says how long it took.
fn timed<T>(name: &str, step: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = step();
    println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    result
}

/// The same shell line on the mount and on the original prints the same.
#[track_caller]
fn same_on_both(line: &str, mounted: &Path, original: &Path) {
    let ours = timed(line, || shell(line, &[mounted], LIMIT));
    let theirs = shell(line, &[original], LIMIT);
    assert!(!theirs.is_empty(), "{line} prints something");
    assert!(ours == theirs, "{line}\non the mount: {}", String::from_utf8_lossy(&ours[..ours.len().min(2000)]));
}

#[test]
#[ignore = "needs root, iproute2, opentracker, libtorrent, Transmission, ffmpeg and sqlite3"]
fn programs_see_on_the_mount_what_they_see_on_the_original() {
    let fixture = Fixture::new();
    let dataset = &fixture.dataset;
    let seed = LibTorrent::seed(&fixture.lab, &fixture.file, &dataset.parent, 0);
    let other = Transmission::start(&fixture.lab, &fixture.file, &dataset.parent);
    timed("seeds announced", || fixture.tracker.wait_for_seeds(&fixture.torrent, 2));
    wait_until(Duration::from_secs(60), "Transmission has verified", || other.is_complete());
    let original = dataset.root();

    // The default memory, a quarter of the data: pieces come, go, and come again.
    let mount = fixture.mount().start();
    let mounted = mount.path(&dataset.name);
    timed("diff -r", || shell("diff -r \"$1\" \"$2\"", &[&original, &mounted], LIMIT));
    let sums = dataset.sums();
    timed("sha256sum -c", || shell("cd \"$1\" && sha256sum -c --quiet --strict \"$2\"", &[&mounted, &sums], LIMIT));
    end(mount);

    // All of it in memory.
    let mount = fixture.mount().args(&["--memory", "2GiB"]).start();
    let mounted = mount.path(&dataset.name);
    for line in [
        "cd \"$1\" && tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=a=rX -c . | sha256sum",
        "cd \"$1\" && grep -r -c needle docs | sort",
        "cd \"$1\" && grep -r -l Füße . | sort",
        "cd \"$1\" && find . -printf '%y %P\\n' | sort",
        "cd \"$1\" && find . -type f -printf '%s %P\\n' | sort",
    ] {
        same_on_both(line, &mounted, &original);
    }
    let copy = fixture.lab.subdir("copy");
    timed("cp -r", || shell("cp -r \"$1\" \"$2/copy\"", &[&mounted, &copy], LIMIT));
    shell("diff -r \"$1\" \"$2/copy\" && rm -r \"$2/copy\"", &[&original, &copy], LIMIT);
    assert!(installed("ffprobe") && installed("sqlite3"), "ffmpeg and sqlite3 are not installed");
    for line in [
        "cd \"$1/media\" && ffprobe -v error -show_format -show_streams -show_packets -of json clip.mkv",
        "cd \"$1/data\" && sqlite3 'file:table.sqlite?immutable=1' 'pragma integrity_check; \
         select count(*), sum(square) from numbers; select n from numbers where name = \"number 4711\"'",
    ] {
        same_on_both(line, &mounted, &original);
    }
    end(mount);
    // Transmission unchokes a newcomer up to 10 s late, which may be after the end: it has a test of its own.
    assert!(seed.uploaded() > 0.0, "libtorrent gave nothing");
    println!("libtorrent gave {} MB; Transmission gave something: {}", seed.uploaded() / 1e6, other.has_uploaded());
}

#[test]
#[ignore = "needs root, iproute2, opentracker and libtorrent"]
fn eight_readers_and_mappings_read_right() {
    let fixture = Fixture::new();
    let dataset = &fixture.dataset;
    let _seed = LibTorrent::seed(&fixture.lab, &fixture.file, &dataset.parent, 0);
    fixture.tracker.wait_for_seeds(&fixture.torrent, 1);
    let mount = fixture.mount().start();
    let mounted = mount.path(&dataset.name);
    let large = &dataset.largest().path;
    timed("8 readers", || {
        std::thread::scope(|scope| {
            for reader in 0..8_u64 {
                let (ours, theirs) = (mounted.join(large), dataset.root().join(large));
                scope.spawn(move || read_along(reader, &ours, &theirs));
            }
        });
    });
    for photo in ["photos/0/000.raw", "photos/3/070.raw", "media/clip.mkv"] {
        let original = std::fs::read(dataset.root().join(photo)).expect("the original");
        for backwards in [true, false] {
            let mapped = read_mapped(&mounted.join(photo), backwards).expect("a mapping");
            assert!(mapped == original, "{photo}, backwards: {backwards}");
        }
    }
    end(mount);
}

/// Half of the readers read 48 MiB in order from places of their own, half read at random.
fn read_along(reader: u64, ours: &Path, theirs: &Path) {
    let (ours, theirs) = (std::fs::File::open(ours).expect("ours"), std::fs::File::open(theirs).expect("theirs"));
    let mut random = Random::new(reader);
    let mut buffers = [vec![0; 128 << 10], vec![0; 128 << 10]];
    for step in 0..384 {
        if reader % 2 == 1 && step == 64 {
            break;
        }
        let at =
            if reader.is_multiple_of(2) { reader * 80 * MIB + step * (128 << 10) } else { random.below(699 * MIB) };
        ours.read_exact_at(&mut buffers[0], at).expect("a read of the mount");
        theirs.read_exact_at(&mut buffers[1], at).expect("a read of the original");
        assert!(buffers[0] == buffers[1], "reader {reader} at {at}");
    }
}

/// Each kind of seed is enough alone.
#[test]
#[ignore = "needs root, iproute2, opentracker and Transmission"]
fn transmission_alone_is_enough() {
    let fixture = Fixture::new();
    let dataset = &fixture.dataset;
    let seed = Transmission::start(&fixture.lab, &fixture.file, &dataset.parent);
    fixture.tracker.wait_for_seeds(&fixture.torrent, 1);
    wait_until(Duration::from_secs(60), "Transmission has verified", || seed.is_complete());
    let mount = fixture.mount().start();
    let large = &dataset.largest().path;
    let (ours, theirs) = (mount.path(&dataset.name).join(large), dataset.root().join(large));
    // Transmission 3.00 gives about 10 MB/s to anybody here, so a part must do.
    timed("cmp of 100 MiB", || shell("cmp -n 100MiB \"$1\" \"$2\"", &[&ours, &theirs], LIMIT));
    end(mount);
}

/// Every mount ends well.
#[track_caller]
fn end(mut mount: Mount) {
    let (status, _) = mount.terminate(Duration::from_secs(5));
    assert!(status.success(), "{status}: {}", mount.log());
}
