//! `swarmfs get` from libtorrent and from Transmission, whose copies are then right by libtorrent's own check; and
//! `swarmfs seed` of the folders that these two have made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, OpenTracker, Transmission, swarmfs_seed, torrent_by_libtorrent};
use crate::support::gets::{get_at, succeeds};
use crate::support::lab::Lab;
use crate::support::process::shell;
use crate::support::reading::assert_same_but_for_empty_files;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(120);

struct Fixture {
    lab: Lab,
    dataset: Dataset,
    file: PathBuf,
    _tracker: OpenTracker,
}

fn fixture() -> Fixture {
    let dataset = Dataset::small();
    let lab = Lab::enter();
    let torrent = torrent_by_libtorrent(&dataset, 256);
    let tracker = OpenTracker::start(&lab, &[&torrent]);
    let file = torrent.write(lab.dir.path(), Some(&tracker.url()));
    Fixture { lab, dataset, file, _tracker: tracker }
}

impl Fixture {
    /// A copy by us from whoever the tracker knows; libtorrent checks it.
    #[track_caller]
    fn get(&self, name: &str) {
        let dir = self.lab.subdir(name);
        succeeds(get_at(self.lab.address(), &self.file, &dir, &[], &[]));
        shell("diff -r \"$1\" \"$2\"", &[&self.dataset.root(), &dir.join(&self.dataset.name)], LIMIT);
        self.rechecks(&dir);
    }

    /// libtorrent finds the copy complete without fetching a byte.
    #[track_caller]
    fn rechecks(&self, dir: &Path) {
        LibTorrent::leech_from(&self.lab, &self.lab_file(), dir, &[]).complete(LIMIT);
    }

    /// The torrent without a tracker: who has it finds nobody.
    fn lab_file(&self) -> PathBuf {
        let dir = self.lab.dir.path().join("alone");
        let _ = std::fs::create_dir(&dir);
        torrent_by_libtorrent(&self.dataset, 256).write(&dir, None)
    }

    fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until(LIMIT, what, condition);
    }
}

#[test]
#[ignore = "needs root, ip, opentracker, libtorrent"]
fn libtorrents_seed_gives_a_copy_and_its_folder_is_seeded() {
    let f = fixture();
    let seed = LibTorrent::seed(&f.lab, &f.file, &f.dataset.parent, 0);
    f.get("from libtorrent");
    let theirs = f.lab.subdir("by libtorrent");
    LibTorrent::leech(&f.lab, &f.file, &theirs).complete(LIMIT);
    drop(seed);
    let (_ours, _) = swarmfs_seed(&f.lab, &f.file, &theirs);
    f.get("from the folder of libtorrent");
}

#[test]
#[ignore = "needs root, ip, opentracker, libtorrent, Transmission"]
fn transmissions_seed_gives_a_copy_and_its_folder_is_seeded() {
    let f = fixture();
    let theirs = f.lab.subdir("by Transmission");
    {
        let _seed = LibTorrent::seed(&f.lab, &f.file, &f.dataset.parent, 0);
        let transmission = Transmission::start(&f.lab, &f.file, &theirs);
        f.wait_for("Transmission has all of it", || transmission.is_complete());
        assert_same_but_for_empty_files(&f.dataset, &theirs.join(&f.dataset.name));
    }
    {
        let transmission = Transmission::start(&f.lab, &f.file, &theirs);
        f.wait_for("Transmission has checked it", || transmission.is_complete());
        f.get("from Transmission");
    }
    let (_ours, _) = swarmfs_seed(&f.lab, &f.file, &theirs);
    f.get("from the folder of Transmission");
}
