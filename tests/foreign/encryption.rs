//! Peers that require encryption: libtorrent, for the handshake alone and for all of it, and qBittorrent; dialled by us and
//! dialling us. What we require or refuse ourselves is refused on both sides.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, QBittorrent, swarmfs_seed_with, torrent_by_libtorrent};
use crate::support::gets::{get_at, start, succeeds};
use crate::support::lab::Lab;
use crate::support::mounts::mount_at;
use crate::support::process::shell;
use crate::support::{holds_within, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// libtorrent's `pe_forced` both ways; what it takes of plaintext (1) and RC4 (2) is added.
const FORCED: [&str; 2] = ["in_enc_policy=0", "out_enc_policy=0"];
/// libtorrent's `pe_disabled` both ways.
const DISABLED: [&str; 2] = ["in_enc_policy=2", "out_enc_policy=2"];

struct Fixture {
    lab: Lab,
    dataset: Dataset,
    file: PathBuf,
    hash: String,
}

fn fixture() -> Fixture {
    let dataset = Dataset::small();
    let lab = Lab::enter();
    let torrent = torrent_by_libtorrent(&dataset, 256);
    let file = torrent.write(lab.dir.path(), None);
    Fixture { lab, dataset, file, hash: torrent.hex() }
}

impl Fixture {
    fn seed(&self, settings: &[&str]) -> LibTorrent {
        LibTorrent::seed_with(&self.lab, &self.file, &self.dataset.parent, 0, settings)
    }

    fn ours(&self, arguments: &[&str]) -> (crate::support::process::Running, SocketAddr) {
        swarmfs_seed_with(&self.lab, &self.file, &self.dataset.parent, &[&["-v"], arguments].concat())
    }

    #[track_caller]
    fn is_right(&self, dir: &Path) {
        shell("diff -r \"$1\" \"$2\"", &[&self.dataset.root(), &dir.join(&self.dataset.name)], LIMIT);
    }

    /// We dial the seed and get it all.
    #[track_caller]
    fn we_get(&self, name: &str, from: SocketAddr, arguments: &[&str]) -> String {
        let dir = self.lab.subdir(name);
        let log = succeeds(get_at(self.lab.address(), &self.file, &dir, &[from], &[&["-v", "-v"], arguments].concat()));
        self.is_right(&dir);
        log
    }

    /// It dials us and gets it all.
    #[track_caller]
    fn it_gets(&self, name: &str, from: SocketAddr, settings: &[&str]) {
        let dir = self.lab.subdir(name);
        let peer = from.to_string();
        LibTorrent::leech_with(&self.lab, &self.file, &dir, &[&[peer.as_str()], settings].concat()).complete(LIMIT);
        self.is_right(&dir);
    }
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn libtorrent_that_requires_encryption_is_dialled() {
    let f = fixture();
    for (level, sealed) in [("allowed_enc_level=1", false), ("allowed_enc_level=2", true)] {
        let seed = f.seed(&[FORCED[0], FORCED[1], level]);
        let log = f.we_get(level, seed.address, &[]);
        let said = format!("utp=false sealed={sealed}");
        assert!(log.contains(&said), "no {said} in {log}");
        let mount = mount_at(&[&f.file], f.lab.address()).peer(seed.address).start();
        f.is_right(&mount.mountpoint);
        if sealed {
            f.we_get("require", seed.address, &["--encryption", "require"]);
        }
    }
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn libtorrent_that_requires_encryption_dials_us() {
    let f = fixture();
    let (ours, address) = f.ours(&[]);
    let (strict, strict_address) = f.ours(&["--encryption", "require"]);
    f.it_gets("plain", address, &[FORCED[0], FORCED[1], "allowed_enc_level=1"]);
    f.it_gets("rc4", address, &[FORCED[0], FORCED[1], "allowed_enc_level=2"]);
    f.it_gets("both", address, &[FORCED[0], FORCED[1], "allowed_enc_level=3", "prefer_rc4=1"]);
    f.it_gets("without", address, &DISABLED);
    f.it_gets("required", strict_address, &[FORCED[0], FORCED[1], "allowed_enc_level=3"]);
    assert!(ours.log().contains("sealed=true") && ours.log().contains("sealed=false"), "{}", ours.log());
    assert!(strict.log().contains("sealed=true") && !strict.log().contains("sealed=false"), "{}", strict.log());
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn what_we_require_or_refuse_is_refused() {
    let f = fixture();
    // They dial us.
    let (strict, strict_address) = f.ours(&["--encryption", "require"]);
    let (open, open_address) = f.ours(&["--encryption", "off"]);
    let dir = f.lab.subdir("refused");
    let leech = LibTorrent::leech_with(&f.lab, &f.file, &dir, &[&strict_address.to_string(), DISABLED[0], DISABLED[1]]);
    wait_until(LIMIT, "a plain peer is refused", || strict.log().contains("it does not encrypt"));
    assert_eq!(leech.downloaded(), 0.0);
    drop(leech);
    let dir = f.lab.subdir("refused too");
    let leech = LibTorrent::leech_with(&f.lab, &f.file, &dir, &[&open_address.to_string(), FORCED[0], FORCED[1]]);
    wait_until(LIMIT, "one that encrypts is refused", || open.log().contains("or one that encrypts"));
    assert_eq!(leech.downloaded(), 0.0);
    drop(leech);
    f.it_gets("in the clear", open_address, &DISABLED);
    // We dial them.
    let plain = f.seed(&DISABLED);
    f.we_get("off", plain.address, &["--encryption", "off"]);
    for (name, arguments, settings) in [("we require", "require", DISABLED), ("we refuse", "off", FORCED)] {
        let seed = f.seed(&settings);
        let dir = f.lab.subdir(name);
        let arguments = ["-v", "-v", "--encryption", arguments];
        let get = start(name, get_at(f.lab.address(), &f.file, &dir, &[seed.address], &arguments), f.lab.dir.path());
        wait_until(LIMIT, "our dial fails", || get.log().contains("cannot connect"));
        assert!(!get.log().contains("connected torrent"), "{}", get.log());
        assert_eq!(seed.uploaded(), 0.0);
    }
}

#[test]
#[ignore = "needs root, iproute2, libtorrent and qBittorrent"]
fn qbittorrent_that_requires_encryption_is_dialled_and_dials_us() {
    let f = fixture();
    let settings = ["Session\\Encryption=1"];
    let seed = QBittorrent::start_with(&f.lab, &f.file, &f.dataset.parent, &settings);
    wait_until(LIMIT, "qBittorrent has checked it", || seed.is_complete());
    let log = f.we_get("from qbittorrent", seed.address, &[]);
    assert!(log.contains("is dialled once more"), "it took us without encryption: {log}");
    f.we_get("from qbittorrent, sealed", seed.address, &["--encryption", "require"]);
    drop(seed);

    let (ours, address) = f.ours(&[]);
    let dir = f.lab.subdir("by qbittorrent");
    let leech = QBittorrent::start_with(&f.lab, &f.file, &dir, &settings);
    leech.add_peer(&f.hash, address);
    assert!(holds_within(LIMIT, || leech.is_complete()), "qBittorrent: {:?} {}", leech.info(), ours.log());
    f.is_right(&dir);
}
