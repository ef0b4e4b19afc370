//! Metadata from and for other people's programs (BEP 9), and magnet links whose peers only the DHT names.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, swarmfs_seed};
use crate::support::lab::Lab;
use crate::support::mounts::mount_at;
use crate::support::reading::assert_same_bytes;
use crate::support::torrent::Torrent;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root, FUSE and libtorrent"]
fn a_mount_gets_its_metadata_from_libtorrent() {
    let lab = Lab::enter();
    let dataset = Dataset::small();
    let torrent = Torrent::of(&dataset, 16 << 10);
    let file = torrent.write(lab.dir.path(), None);
    let seed = LibTorrent::seed(&lab, &file, dataset.root().parent().expect("its parent"), 0);
    wait_until(LIMIT, "it listens", || TcpStream::connect(seed.address).is_ok());
    let link = format!("magnet:?xt=urn:btih:{}&x.pe={}", torrent.hex(), seed.address);
    let mount = mount_at(&[Path::new(&link)], lab.address()).start();
    assert_same_bytes(&dataset, &mount.path(&dataset.name));
}

#[test]
#[ignore = "needs root and libtorrent"]
fn libtorrent_gets_its_metadata_from_a_seed() {
    let lab = Lab::enter();
    let dataset = Dataset::small();
    let torrent = Torrent::of(&dataset, 16 << 10);
    let file = torrent.write(lab.dir.path(), None);
    let (seed, address) = swarmfs_seed(&lab, &file, dataset.root().parent().expect("its parent"));
    wait_until(LIMIT, "it seeds", || seed.log().contains("seeding"));
    let link = format!("magnet:?xt=urn:btih:{}&x.pe={address}", torrent.hex());
    let into = lab.subdir("copy");
    let mut leech = LibTorrent::leech(&lab, Path::new(&link), &into);
    leech.complete(LIMIT);
    assert_same_bytes(&dataset, &into.join(&dataset.name));
}
