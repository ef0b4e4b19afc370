//! libtorrent with TCP switched off, so that uTP is all it has: dialled by us and dialling us, encrypted too. A flood of
//! datagrams from strangers costs us nothing that stays.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, UTP_ONLY as UTP, swarmfs_seed_with, torrent_by_libtorrent};
use crate::support::gets::{get_at, start, succeeds};
use crate::support::lab::Lab;
use crate::support::link::{End, FAR, Far};
use crate::support::mounts::mount_at;
use crate::support::process::{Running, shell};
use crate::support::{Random, median, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// Encryption of everything, and nothing without.
const SEALED: [&str; 3] = ["in_enc_policy=0", "out_enc_policy=0", "allowed_enc_level=2"];

struct Fixture {
    lab: Lab,
    dataset: Dataset,
    file: PathBuf,
}

fn fixture() -> Fixture {
    let dataset = Dataset::small();
    let lab = Lab::enter();
    let file = torrent_by_libtorrent(&dataset, 256).write(lab.dir.path(), None);
    Fixture { lab, dataset, file }
}

impl Fixture {
    fn seed(&self, settings: &[&str]) -> LibTorrent {
        LibTorrent::seed_with(&self.lab, &self.file, &self.dataset.parent, 0, settings)
    }

    fn ours(&self) -> (Running, SocketAddr) {
        swarmfs_seed_with(&self.lab, &self.file, &self.dataset.parent, &["-v"])
    }

    #[track_caller]
    fn is_right(&self, dir: &Path) {
        shell("diff -r \"$1\" \"$2\"", &[&self.dataset.root(), &dir.join(&self.dataset.name)], LIMIT);
    }

    /// It dials us and gets it all.
    #[track_caller]
    fn it_gets(&self, name: &str, from: SocketAddr, settings: &[&str]) -> Duration {
        let dir = self.lab.subdir(name);
        let peer = from.to_string();
        let took =
            LibTorrent::leech_with(&self.lab, &self.file, &dir, &[&[peer.as_str()], settings].concat()).complete(LIMIT);
        self.is_right(&dir);
        took
    }
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn libtorrent_without_tcp_is_dialled() {
    let f = fixture();
    for (name, settings, sealed) in [("clear", &UTP[..], false), ("sealed", &[&UTP[..], &SEALED].concat(), true)] {
        let seed = f.seed(settings);
        let dir = f.lab.subdir(name);
        let get = get_at(f.lab.address(), &f.file, &dir, &[seed.address], &["-v", "-v"]);
        let log = succeeds(get);
        f.is_right(&dir);
        assert!(log.contains(&format!("utp=true sealed={sealed}")), "{log}");
        let mount = mount_at(&[&f.file], f.lab.address()).peer(seed.address).start();
        f.is_right(&mount.mountpoint);
    }
    let (seed, dir) = (f.seed(&UTP), f.lab.subdir("none"));
    let get = get_at(f.lab.address(), &f.file, &dir, &[seed.address], &["-v", "-v", "--no-utp"]);
    let get = start("none", get, f.lab.dir.path());
    wait_until(LIMIT, "there is no way without uTP", || get.log().contains("cannot connect"));
    assert_eq!(seed.uploaded(), 0.0);
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn libtorrent_without_tcp_dials_us() {
    let f = fixture();
    let (ours, address) = f.ours();
    f.it_gets("clear", address, &UTP);
    f.it_gets("sealed", address, &[&UTP[..], &SEALED].concat());
    let log = ours.log();
    assert!(log.contains("utp=true sealed=false") && log.contains("utp=true sealed=true"), "{log}");
}

/// Nobody has anything to say for longer than the library is patient by itself: a mount that nobody reads keeps its peers.
#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn an_idle_connection_lives() {
    const IDLE: Duration = Duration::from_secs(40);
    let f = fixture();
    let seed = f.seed(&UTP);
    let mount = mount_at(&[&f.file], f.lab.address()).peer(seed.address).args(&["-v", "-v"]).limit(LIMIT * 3).start();
    wait_until(LIMIT, "they are connected", || mount.log().contains("utp=true"));
    let since = Instant::now();
    wait_until(LIMIT, "it was idle for long", || {
        assert!(!mount.log().contains("disconnected"), "{}", mount.log());
        since.elapsed() > IDLE
    });
    f.is_right(&mount.mountpoint);
}

/// Noise, connections that are begun from thousands of addresses and left, and some whose handshake never comes: others
/// are served meanwhile and after it, and the process is no larger for it.
#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn datagrams_of_strangers_leave_nothing_behind() {
    let f = fixture();
    let (ours, address) = f.ours();
    f.it_gets("before", address, &UTP);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", ours.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory").to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let before = resident();
    let mut random = Random::new(7);
    let began = Instant::now();
    let stranger = f.lab.address().ip();
    for round in 0..2000u32 {
        let socket = UdpSocket::bind((stranger, 0)).expect("a socket");
        let mut noise = vec![0; usize::try_from(20 + random.below(1400)).expect("a length")];
        random.fill(&mut noise);
        // Every type, and version 1 in half of them.
        if round % 2 == 0 {
            noise[0] = (noise[0] & 0xF0) | 1;
        }
        let _ = socket.send_to(&noise, address);
        let syn = syn(&mut random);
        let _ = socket.send_to(&syn, address);
        if round % 4 == 0 {
            // Data that answers nothing, and a reset.
            for kind in [0x01, 0x31] {
                let mut more = syn.clone();
                more[0] = kind;
                more[16..].copy_from_slice(&[0; 4]);
                let _ = socket.send_to(&more, address);
            }
        }
    }
    println!("2,000 strangers in {:?}", began.elapsed());
    let dir = f.lab.subdir("tcp meanwhile");
    succeeds(get_at(f.lab.address(), &f.file, &dir, &[address], &["--no-utp"]));
    f.is_right(&dir);
    // Places of the strangers are free again.
    f.it_gets("after", address, &UTP);
    let after = resident();
    assert!(after < before + 24 * 1024, "{before} kB before, {after} kB after");
    assert!(!ours.log().contains("panicked"), "{}", ours.log());
}

/// The first datagram of a uTP connection (BEP 29).
fn syn(random: &mut Random) -> Vec<u8> {
    let mut packet = vec![0; 20];
    random.fill(&mut packet);
    packet[..2].copy_from_slice(&[0x41, 0]);
    packet
}

/// Over a link of 50 ms there and back that loses a packet in a hundred we get at least 0.7 times what libtorrent gets from
/// the same seed in the same minutes, over TCP and over uTP: medians of three, in turns.
#[test]
#[ignore = "needs root, iproute2, /dev/net/tun and libtorrent"]
fn a_poor_link_is_used_as_well_as_libtorrent_uses_it() {
    const BYTES: u64 = 3 << 20;
    let dataset = Dataset::noise(BYTES);
    let torrent = torrent_by_libtorrent(&dataset, 64);
    let lab = Lab::enter();
    let file = torrent.write(lab.dir.path(), None);
    let near = End::towards(&lab, FAR);
    for settings in [&[][..], &UTP] {
        let far = Far::seeds(near.again(), &file, &dataset.parent, 1, settings, Duration::from_millis(25), 100);
        let seed = far.addresses[0];
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..3 {
            let dir = lab.subdir(&format!("ours {round} {}", settings.len()));
            let began = Instant::now();
            succeeds(get_at(lab.address(), &file, &dir, &[seed], &[]));
            ours.push(BYTES as f64 / began.elapsed().as_secs_f64());
            shell("diff -r \"$1\" \"$2\"", &[&dataset.root(), &dir.join(&dataset.name)], LIMIT);
            let dir = lab.subdir(&format!("theirs {round} {}", settings.len()));
            let peer = seed.to_string();
            let mut leech = LibTorrent::leech_with(&lab, &file, &dir, &[&[peer.as_str()], settings].concat());
            theirs.push(BYTES as f64 / leech.complete(LIMIT).as_secs_f64());
        }
        let (ours, theirs) = (median(&ours) / 1e3, median(&theirs) / 1e3);
        println!("{}: {ours:.0} kB/s, libtorrent {theirs:.0} kB/s", if settings.is_empty() { "TCP" } else { "uTP" });
        assert!(ours >= 0.7 * theirs, "{ours} kB/s where libtorrent gets {theirs}");
    }
}
