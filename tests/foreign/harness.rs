//! The harness against itself: the dataset, the peers in std threads and the foreign programs work before the program
//! under test is judged with them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, OpenTracker, Transmission, aria2, torrent_by_libtorrent};
use crate::support::hostile::Behaviour;
use crate::support::lab::Lab;
use crate::support::peer::{Peer, Request, handshake, message, request_body};
use crate::support::process::{shell, state_of};
use crate::support::reading::assert_same_but_for_empty_files;
use crate::support::torrent::Content;
use crate::support::{MIB, wait_until};

#[test]
fn the_small_dataset_is_what_it_says() {
    let dataset = Dataset::small();
    assert_eq!(dataset.files.len(), 41);
    assert!(dataset.length() > 19 * MIB && dataset.length() < 24 * MIB, "{}", dataset.length());
    assert_eq!(dataset.files.iter().filter(|file| file.executable).count(), 1);
    assert!(dataset.files.iter().filter(|file| file.length == 0).count() >= 3);
}

/// A seed's answer to one request, by hand.
fn first_block(peer: &Peer, content: &Content, length: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(peer.address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut hello = handshake(&content.torrent.info_hash);
    message(&mut hello, 2, &[]);
    message(&mut hello, 6, &request_body(Request { piece: 1, begin: 0, length: 16 << 10 }));
    stream.write_all(&hello).expect("sent");
    // Handshake, have all, unchoke, the head of the piece.
    let mut answer = vec![0; 68 + 5 + 5 + 13 + length];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer[68..73], [0, 0, 0, 1, 14], "have all");
    assert_eq!(answer[73..78], [0, 0, 0, 1, 1], "unchoke");
    answer.split_off(91)
}

#[test]
fn peers_answer_as_they_are_told() {
    let content = Arc::new(Content::noise("noise.bin", MIB, 64 << 10, 3));
    let right = content.block(1, 0, 16 << 10).expect("a block");
    let good = Peer::seed(&content);
    assert!(first_block(&good, &content, 16 << 10) == right);
    let liar = Peer::start(&content, Behaviour::SpoilsOne(MIB));
    let wrong = first_block(&liar, &content, 16 << 10);
    let flipped: u32 = wrong.iter().zip(right).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((flipped, liar.count(|c| &c.spoiled)), (1, 1));
    let slow = Peer::start(&content, Behaviour::Rate(64 << 10));
    let start = Instant::now();
    first_block(&slow, &content, 16 << 10);
    assert!(start.elapsed() >= Duration::from_millis(240), "16 KiB at 64 KiB/s took {:?}", start.elapsed());
}

/// Ends as soon as its test does, in every case.
#[test]
fn nothing_outlives_a_process_guard() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = std::process::Command::new("sleep");
    command.arg("1000");
    let held = crate::support::process::Running::spawn_held(
        "sleep",
        &command,
        &dir.path().join("log"),
        Duration::from_secs(60),
    );
    let children = format!("/proc/{0}/task/{0}/children", held.pid());
    let child = || std::fs::read_to_string(&children).ok().and_then(|text| text.trim().parse::<u32>().ok());
    wait_until(Duration::from_secs(5), "the shell has a child", || child().is_some());
    let stat = format!("/proc/{}/stat", child().expect("a child"));
    drop(held);
    wait_until(Duration::from_secs(2), "the child is gone", || !matches!(state_of(&stat), Some(state) if state != 'Z'));
}

/// Foreign seeds and leechers agree among themselves through opentracker, so that they can judge us.
#[test]
#[ignore = "needs root, iproute2, opentracker, libtorrent, Transmission and aria2"]
fn foreign_programs_share_a_torrent_without_us() {
    let dataset = Dataset::small();
    let lab = Lab::enter();
    let torrent = torrent_by_libtorrent(&dataset, 64);
    let tracker = OpenTracker::start(&lab, &[&torrent]);
    let file = torrent.write(lab.dir.path(), Some(&tracker.url()));
    let seed = LibTorrent::seed(&lab, &file, &dataset.parent, 0);
    let other = Transmission::start(&lab, &file, &dataset.parent);
    tracker.wait_for_seeds(&torrent, 2);
    assert!(other.is_complete(), "{}", other.info());
    let same = |dir: &std::path::Path| shell("diff -r \"$1\" \"$2\"", &[&dataset.root(), dir], Duration::from_secs(20));

    let libtorrent_downloads = |name: &str| {
        let dir = lab.subdir(name);
        LibTorrent::leech(&lab, &file, &dir).complete(Duration::from_secs(60));
        same(&dir.join(&dataset.name));
    };
    libtorrent_downloads("libtorrent");

    let dir = lab.subdir("aria2");
    let mut leech = aria2(&lab, &file, &dir);
    let end = leech.wait(Duration::from_secs(60));
    assert!(end.is_some_and(|(status, _)| status.success()), "aria2: {end:?} {}", leech.log());
    same(&dir.join(&dataset.name));

    let dir = lab.subdir("transmission");
    let leech = Transmission::start(&lab, &file, &dir);
    wait_until(Duration::from_secs(60), "Transmission has it all", || leech.is_complete());
    assert_same_but_for_empty_files(&dataset, &dir.join(&dataset.name));
    drop(leech);
    assert!(seed.uploaded() > 0.0, "libtorrent gave nothing");
    // It unchokes a newcomer up to 10 s late, which may be after the end while others give: now nobody else does.
    drop(seed);
    libtorrent_downloads("libtorrent-from-transmission");
    assert!(other.has_uploaded(), "Transmission gave nothing: {}", other.info());
}

/// The peers in std threads are ones that another client takes what it can from.
#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn libtorrent_downloads_from_the_peers_in_threads() {
    let lab = Lab::enter();
    let content = Arc::new(Content::noise("noise.bin", 4 * MIB + 99, 64 << 10, 4));
    let file = content.torrent.write(lab.dir.path(), None);
    for (name, behaviours) in [
        ("good", &[Behaviour::Good][..]),
        ("liar", &[Behaviour::SpoilsOne(MIB), Behaviour::Rate(2 * MIB)]),
        ("mixed", &[Behaviour::Silent, Behaviour::Flaps, Behaviour::Resets, Behaviour::Rate(2 * MIB)]),
    ] {
        let peers: Vec<Peer> = behaviours.iter().map(|behaviour| Peer::start(&content, *behaviour)).collect();
        let addresses: Vec<_> = peers.iter().map(|peer| peer.address).collect();
        let dir = lab.subdir(name);
        let took = LibTorrent::leech_from(&lab, &file, &dir, &addresses).complete(Duration::from_secs(90));
        assert!(std::fs::read(dir.join("noise.bin")).expect("the file") == content.bytes, "{name}");
        println!("{name}: {took:?}");
    }
}
