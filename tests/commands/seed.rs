//! `swarmfs seed` serves a copy to a mount, keeps to its limits, and refuses a copy that is not one. A mount serves
//! what it has read to another mount.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::gets::{self, get, get_at, succeeds};
use crate::support::hostile::Behaviour;
use crate::support::mounts::mount;
use crate::support::peer::Peer;
use crate::support::process::{Running, output, swarmfs};
use crate::support::reading::assert_same_bytes;
use crate::support::torrent::{Content, Torrent};
use crate::support::{MIB, free_address, wait_until};
use rustix::process::Signal;

const SECOND: Duration = Duration::from_secs(1);

/// A `swarmfs seed` that listens on an address of its own.
fn seed(torrent: &Path, data: &Path, dir: &Path, args: &[&str]) -> (Running, std::net::SocketAddr) {
    let address = free_address();
    let mut command = seed_command(torrent, data);
    command.args(["--listen", &address.to_string()]).args(args);
    let process = Running::spawn("swarmfs seed", command, &dir.join("seed.log"), SECOND * 120);
    wait_until(SECOND * 20, "the seed listens", || std::net::TcpStream::connect(address).is_ok());
    (process, address)
}

fn seed_command(torrent: &Path, data: &Path) -> Command {
    let mut command = swarmfs();
    command.arg("seed").arg(torrent).arg("--data").arg(data).args(["--no-dht", "--no-lsd"]);
    command
}

#[test]
fn a_mount_reads_all_from_a_seed() {
    let dataset = Dataset::small();
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = Torrent::of(&dataset, 128 << 10).write(dir.path(), None);
    let (mut seed, address) = seed(&torrent, &dataset.parent, dir.path(), &[]);
    let mount = mount(&[&torrent]).peer(address).start();
    assert_same_bytes(&dataset, &mount.path(&dataset.name));
    seed.signal(Signal::TERM);
    let Some((status, _)) = seed.wait(SECOND * 5) else { panic!("SIGTERM does not end the seed: {}", seed.log()) };
    assert!(status.success(), "{status}");
}

#[test]
fn the_upload_limit_holds() {
    let content = Content::noise("film.mkv", 8 * MIB, 128 << 10, 12);
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("film.mkv"), &content.bytes).expect("the data");
    let torrent = content.torrent.write(dir.path(), None);
    let (_seed, address) = seed(&torrent, dir.path(), dir.path(), &["--upload-limit", "2MiB"]);
    let mount = mount(&[&torrent]).peer(address).start();
    let start = Instant::now();
    assert!(std::fs::read(mount.path("film.mkv")).expect("the file") == content.bytes);
    let took = start.elapsed();
    assert!(took > SECOND * 3 && took < SECOND * 7, "8 MiB at 2 MiB/s took {took:?}");
}

/// One alone is shown piece after piece. Two pass on what they are shown, so that the seed gives little more than one
/// copy: it would end at `--ratio`.
#[test]
fn a_super_seed_gives_one_copy_to_two() {
    let content = Content::noise("film.mkv", 2 * MIB, 128 << 10, 18);
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("film.mkv"), &content.bytes).expect("the data");
    let torrent = content.torrent.write(dir.path(), None);
    let right = |out: &Path| std::fs::read(out.join("film.mkv")).expect("the copy") == content.bytes;
    let start = |args: &[&str]| seed(&torrent, dir.path(), dir.path(), &[&["--super-seed"], args].concat());
    {
        let (_seed, address) = start(&[]);
        let out = dir.path().join("alone");
        succeeds(get(&torrent, &out, &[address], &[]));
        assert!(right(&out));
    }
    let (mut seed, address) = start(&["--ratio", "1.5"]);
    let (first, outs) = (free_address(), ["first", "second"].map(|name| dir.path().join(name)));
    let mut one = gets::start("first", get_at(first, &torrent, &outs[0], &[address], &[]), dir.path());
    succeeds(get(&torrent, &outs[1], &[address, first], &[]));
    let Some((status, _)) = one.wait(SECOND * 60) else { panic!("it is not done: {}", one.log()) };
    assert!(status.success() && outs.iter().all(|out| right(out)), "{}", one.log());
    assert!(seed.wait(SECOND).is_none(), "{}", seed.log());
}

/// Half a copy cannot be a super-seed's: what is there is served as ever.
#[test]
fn a_super_seed_needs_a_whole_copy() {
    let content = Content::noise("film.mkv", MIB, 128 << 10, 19);
    let dir = tempfile::tempdir().expect("a directory");
    let mut half = content.bytes.clone();
    half[700 << 10..].fill(0);
    std::fs::write(dir.path().join("film.mkv"), &half).expect("the data");
    let torrent = content.torrent.write(dir.path(), None);
    let (seed, address) = seed(&torrent, dir.path(), dir.path(), &["--super-seed"]);
    assert!(seed.log().contains("super-seeding needs all of film.mkv"), "{}", seed.log());
    let mount = mount(&[&torrent]).peer(address).start();
    let mut begin = vec![0; 640 << 10];
    let mut file = std::fs::File::open(mount.path("film.mkv")).expect("the file");
    file.read_exact(&mut begin).expect("what is there");
    assert!(begin == content.bytes[..640 << 10]);
}

/// What refuses does so with one sentence and exit code 1.
#[track_caller]
fn refused(command: &mut Command, names: &str) {
    let start = Instant::now();
    let answer = output(command, SECOND * 20);
    let text = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert_eq!(answer.status.code(), Some(1), "{text}");
    assert!(text.contains(names), "it does not name {names}: {text}");
    assert!(start.elapsed() < SECOND * 10);
}

#[test]
fn a_directory_without_the_data_is_refused() {
    let dataset = Dataset::small();
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = Torrent::of(&dataset, 128 << 10).write(dir.path(), None);
    let empty = dir.path().join("nothing here");
    std::fs::create_dir(&empty).expect("a directory");
    refused(&mut seed_command(&torrent, &empty), "nothing here");
    refused(&mut seed_command(&torrent, &dir.path().join("missing")), "missing");
}

#[test]
fn data_of_another_torrent_is_refused() {
    let content = Content::noise("film.mkv", 4 * MIB, 128 << 10, 13);
    let dir = tempfile::tempdir().expect("a directory");
    let mut wrong = content.bytes.clone();
    wrong.reverse();
    std::fs::write(dir.path().join("film.mkv"), &wrong).expect("wrong data");
    refused(&mut seed_command(&content.torrent.write(dir.path(), None), dir.path()), "film.mkv");
}

/// What a mount has read is enough for another: the only seed is gone when the second one starts.
#[test]
fn a_mount_serves_what_it_has_read_to_another_mount() {
    let dataset = Dataset::small();
    let content = Arc::new(Content::of(&dataset, 64 << 10));
    let seed = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let first = mount(&[&torrent]).peer(seed.address).start();
    assert_same_bytes(&dataset, &first.path(&dataset.name));
    drop(seed);
    let second = mount(&[&torrent]).peer(first.address).start();
    assert_same_bytes(&dataset, &second.path(&dataset.name));
}

/// A mount that has it all and is fast is asked rather than a slow seed.
#[test]
fn a_fast_mount_is_asked_rather_than_a_slow_seed() {
    let content = Arc::new(Content::noise("film.mkv", 12 * MIB, 64 << 10, 17));
    let seed = Peer::start(&content, Behaviour::Rate(2 * MIB));
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let first = mount(&[&torrent]).peer(seed.address).start();
    assert!(std::fs::read(first.path("film.mkv")).expect("the file") == content.bytes);
    let before = seed.count(|c| &c.bytes);
    let second = mount(&[&torrent]).peer(seed.address).peer(first.address).start();
    let start = Instant::now();
    assert!(std::fs::read(second.path("film.mkv")).expect("the file") == content.bytes);
    let (took, given) = (start.elapsed(), seed.count(|c| &c.bytes) - before);
    println!("the slow seed gave {given} bytes in {took:?}");
    assert!(given < content.torrent.length / 2, "the slow seed gave {given} bytes in {took:?}");
}

/// With `--no-upload` nobody gets anything.
#[test]
fn no_upload_means_none() {
    let content = Arc::new(Content::noise("film.mkv", MIB, 64 << 10, 15));
    let seed = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let first = mount(&[&torrent]).peer(seed.address).args(&["--no-upload"]).start();
    assert!(std::fs::read(first.path("film.mkv")).expect("the file") == content.bytes);
    drop(seed);
    let second = mount(&[&torrent]).peer(first.address).args(&["--read-timeout", "3s"]).start();
    let error = std::fs::read(second.path("film.mkv")).expect_err("nobody uploads");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
}
