//! Bad peers beside a good one: the bytes are right, no read stalls, liars are banned, and nobody else is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::support::hostile::{Behaviour, Flood, wait_for_contact};
use crate::support::mounts::{Mount, mount};
use crate::support::peer::Peer;
use crate::support::reading::read_timed;
use crate::support::torrent::Content;
use crate::support::{MIB, wait_until};

const PIECE: u64 = 128 << 10;
/// The good peer's rate: slow enough that the others are asked too, and that the test sees a swarm at work.
const RATE: u64 = 6 * MIB;
/// No `read` of 64 KiB may take longer.
const STALL: Duration = Duration::from_secs(3);

/// What a whole read of the file beside these peers showed.
struct Shown {
    mount: Mount,
    good: Peer,
    bad: Vec<Peer>,
    _dir: tempfile::TempDir,
}

impl Shown {
    /// True if the log says that this peer was banned.
    fn banned(&self, peer: &Peer) -> bool {
        let address = peer.address.to_string();
        self.mount.log().lines().any(|line| line.contains("banned") && line.contains(&address))
    }
}

/// Mounts a torrent of `mib` MiB, reads all of it beside one good peer and `bad` ones, and checks bytes and times.
#[track_caller]
fn read_beside(bad: &[Behaviour], mib: u64, options: &[&str]) -> Shown {
    let content = Arc::new(Content::noise("film.mkv", mib * MIB + 777, PIECE, 8));
    let bad: Vec<Peer> = bad.iter().map(|behaviour| Peer::start(&content, *behaviour)).collect();
    let good = Peer::start(&content, Behaviour::Rate(RATE));
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = mount(&[&content.torrent.write(dir.path(), None)]).args(&["--read-timeout", "20s"]).args(options);
    // The bad ones first: they are what the first read meets.
    for peer in bad.iter().chain([&good]) {
        command = command.peer(peer.address);
    }
    let mount = command.start();
    bad.iter().for_each(wait_for_contact);
    wait_for_contact(&good);
    let read = read_timed(&mount.path("film.mkv"));
    // What the peers saw says more than what the reader got.
    let seen = || [&good].into_iter().chain(&bad).map(Peer::summary).collect::<Vec<_>>().join("\n");
    let (bytes, slowest) = read.unwrap_or_else(|error| panic!("{error}; the good peer, then the bad:\n{}", seen()));
    assert!(bytes == content.bytes, "wrong bytes; the good peer, then the bad:\n{}", seen());
    assert!(slowest < STALL, "a read took {slowest:?}; the good peer, then the bad:\n{}", seen());
    let shown = Shown { mount, good, bad, _dir: dir };
    assert!(!shown.banned(&shown.good), "the good peer was banned: {}", shown.mount.log());
    shown
}

#[test]
fn one_flipped_bit_gets_its_sender_banned_and_nobody_else() {
    let shown = read_beside(&[Behaviour::SpoilsOne(RATE), Behaviour::Rate(RATE)], 24, &[]);
    let [liar, honest] = &shown.bad[..] else { panic!("two") };
    assert_eq!(liar.count(|c| &c.spoiled), 1, "the liar was asked and lied once");
    wait_until(STALL, "the liar is banned", || shown.banned(liar));
    assert!(!shown.banned(honest), "{}", shown.mount.log());
    wait_until(STALL, "its connection is closed", || liar.count(|c| &c.connections) == liar.count(|c| &c.ended));
}

#[test]
fn half_of_the_seeds_spoil_a_twentieth_of_their_blocks() {
    let bad = [
        Behaviour::SpoilsShare(5),
        Behaviour::Rate(RATE),
        Behaviour::SpoilsShare(5),
        Behaviour::Rate(RATE),
        Behaviour::SpoilsShare(5),
    ];
    let shown = read_beside(&bad, 24, &[]);
    for (peer, behaviour) in shown.bad.iter().zip(bad) {
        let lied = peer.count(|c| &c.spoiled) > 0;
        if lied {
            wait_until(STALL, "each liar is banned", || shown.banned(peer));
        }
        assert!(lied || !shown.banned(peer), "{behaviour:?} was banned without a lie");
    }
    assert!(shown.bad.iter().any(|peer| peer.count(|c| &c.spoiled) > 0), "nobody lied: nothing was shown");
}

/// Nothing but lies: EIO in time, never a wrong byte.
#[test]
fn a_lone_liar_gives_eio_and_no_wrong_byte() {
    let content = Arc::new(Content::noise("film.mkv", 4 * MIB, PIECE, 11));
    let liar = Peer::start(&content, Behaviour::SpoilsShare(100));
    let dir = tempfile::tempdir().expect("a directory");
    let mount = mount(&[&content.torrent.write(dir.path(), None)]).peer(liar.address);
    let mount = mount.args(&["--read-timeout", "3s"]).start();
    let start = std::time::Instant::now();
    let error = read_timed(&mount.path("film.mkv")).expect_err("no right byte is to be had");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(liar.count(|c| &c.spoiled) < 2000, "it is not asked without end: {}", liar.count(|c| &c.spoiled));
}

#[test]
fn silent_peers_do_not_stall_reads() {
    let shown = read_beside(&[Behaviour::Silent; 5], 16, &[]);
    assert!(shown.bad.iter().any(|peer| peer.count(|c| &c.requests) > 0), "they were asked");
    assert!(!shown.bad.iter().any(|peer| shown.banned(peer)), "silence is no lie: {}", shown.mount.log());
}

#[test]
fn a_peer_that_sends_a_byte_per_second_does_not_stall_reads() {
    let shown = read_beside(&[Behaviour::Drips, Behaviour::Drips], 16, &[]);
    assert!(shown.bad.iter().any(|peer| peer.count(|c| &c.requests) > 0), "they were asked");
    assert!(!shown.bad.iter().any(|peer| shown.banned(peer)), "slowness is no lie: {}", shown.mount.log());
}

#[test]
fn floods_do_not_stall_reads_and_leave_memory_flat() {
    let kinds = [Flood::Requests, Flood::WildRequests, Flood::KeepAlives, Flood::Garbage, Flood::HugeMessage];
    for kind in kinds {
        let shown = read_beside(&[Behaviour::Floods(kind)], 8, &["--memory", "32MiB"]);
        let resident = resident(shown.mount.process.pid());
        assert!(resident < 96 * MIB + MIB, "{kind:?}: {} MiB resident with 32 MiB of memory", resident / MIB);
        if kind != Flood::Requests {
            let flooder = &shown.bad[0];
            wait_until(STALL, "the flood is cut off", || flooder.count(|c| &c.ended) > 0);
        }
    }
}

#[test]
fn a_slow_handshake_does_not_hold_anything_up() {
    let shown = read_beside(&[Behaviour::SlowHandshake; 3], 16, &[]);
    // 68 bytes at one per second never end in time: one deadline of 10 s holds for the whole handshake.
    wait_until(Duration::from_secs(15), "it is given up", || shown.bad.iter().all(|peer| peer.count(|c| &c.ended) > 0));
}

#[test]
fn pieces_that_nobody_asked_for_are_dropped() {
    let shown = read_beside(&[Behaviour::Unsolicited], 16, &[]);
    wait_until(STALL, "such a peer is cut off", || shown.bad[0].count(|c| &c.ended) > 0);
}

#[test]
fn flapping_chokes_are_survived() {
    let shown = read_beside(&[Behaviour::Flaps, Behaviour::Flaps], 16, &[]);
    assert!(!shown.bad.iter().any(|peer| shown.banned(peer)), "{}", shown.mount.log());
}

#[test]
fn resets_in_the_middle_of_a_block_put_the_block_back_at_once() {
    let shown = read_beside(&[Behaviour::Resets, Behaviour::Resets], 16, &[]);
    assert!(shown.bad.iter().any(|peer| peer.count(|c| &c.blocks) > 0), "they gave something first");
    assert!(!shown.bad.iter().any(|peer| shown.banned(peer)), "{}", shown.mount.log());
}

/// Everybody at once.
#[test]
fn a_swarm_of_every_kind_of_bad_peer_and_one_good_one() {
    let bad = [
        Behaviour::SpoilsShare(10),
        Behaviour::Silent,
        Behaviour::Drips,
        Behaviour::Floods(Flood::Requests),
        Behaviour::Floods(Flood::KeepAlives),
        Behaviour::SlowHandshake,
        Behaviour::Unsolicited,
        Behaviour::Flaps,
        Behaviour::Resets,
    ];
    let shown = read_beside(&bad, 16, &[]);
    for (peer, behaviour) in shown.bad.iter().zip(bad) {
        let liar = matches!(behaviour, Behaviour::SpoilsShare(_) | Behaviour::Unsolicited);
        assert!(liar || !shown.banned(peer), "{behaviour:?} was banned: {}", shown.mount.log());
    }
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// 300 strangers connect and say nothing: the mount reads on, and sends them away.
#[test]
fn silent_strangers_do_not_hold_anything_up() {
    let content = Arc::new(Content::noise("film.mkv", 8 * MIB, PIECE, 16));
    let good = Peer::start(&content, Behaviour::Rate(RATE));
    let dir = tempfile::tempdir().expect("a directory");
    let mount = mount(&[&content.torrent.write(dir.path(), None)]).peer(good.address).start();
    let strangers: Vec<TcpStream> = (0..300)
        .map(|n| {
            let mut stream = TcpStream::connect(mount.address).expect("it listens");
            if n % 2 == 0 {
                stream.write_all(b"\x13BitTorrent prot").expect("half a handshake");
            }
            stream
        })
        .collect();
    let (bytes, slowest) = read_timed(&mount.path("film.mkv")).expect("the file");
    assert!(bytes == content.bytes && slowest < STALL, "a read took {slowest:?}");
    for mut stream in strangers {
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
        // The end of the stream, or a reset: both are the end.
        let answer = stream.read(&mut [0; 68]);
        assert!(!matches!(&answer, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "not sent away");
    }
}
