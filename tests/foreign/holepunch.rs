//! Two hosts behind NATs, which drop what nobody inside has sent for: only a third node, to which both are connected, can
//! bring them together (BEP 55).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::foreign::{LibTorrent, UTP_ONLY};
use crate::support::lab::Lab;
use crate::support::mounts::mount_at;
use crate::support::nat::Nat;
use crate::support::peer::{handshake, message};
use crate::support::process::{Running, swarmfs};
use crate::support::torrent::Content;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
/// The node between them, which both can reach.
const BETWEEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(80, 1, 0, 1)), 6881);

struct Fixture {
    lab: Lab,
    content: Content,
    file: PathBuf,
    data: PathBuf,
    seed: Nat,
    reader: Nat,
}

fn fixture() -> Fixture {
    let lab = Lab::enter();
    let content = Content::noise("noise.bin", 8 << 20, 64 << 10, 3);
    let file = content.torrent.write(lab.dir.path(), None);
    let data = lab.subdir("data");
    std::fs::write(data.join("noise.bin"), &content.bytes).expect("the data");
    let [seed, reader] = Nat::two(&lab);
    Fixture { lab, content, file, data, seed, reader }
}

impl Fixture {
    /// `swarmfs seed` or `swarmfs get` behind this NAT, which knows nobody but the node between.
    fn start(&self, nat: &Nat, verb: &str, option: &str, dir: &Path) -> Running {
        let mut command = swarmfs();
        command.arg(verb).arg(&self.file).arg(option).arg(dir).args(["--listen", &nat.inside.to_string()]);
        command.args(["--peer", &BETWEEN.to_string(), "-vv", "--no-dht", "--no-lsd", "--no-port-map"]);
        command.env("XDG_STATE_HOME", self.lab.subdir(&format!("{verb}-state")));
        Running::spawn(verb, nat.placed(&command), &self.lab.log(verb), LIMIT * 4)
    }

    fn start_seed(&self) -> Running {
        self.start(&self.seed, "seed", "--data", &self.data)
    }

    /// The reader gets it all, from the seed, to which it was introduced.
    #[track_caller]
    fn gets(&self, seed: &Running, limit: Duration, meanwhile: impl FnOnce(&Running)) {
        let dir = self.lab.subdir("copy");
        let mut get = self.start(&self.reader, "get", "-o", &dir);
        meanwhile(&get);
        let end = get.wait(limit);
        let log = get.log();
        assert!(end.is_some_and(|(status, _)| status.success()), "it ends well: {end:?}");
        assert!(std::fs::read(dir.join("noise.bin")).expect("its copy") == self.content.bytes);
        let met = |log: &str, addr| log.contains(&format!("introduced to is dialled torrent=noise.bin addr={addr}"));
        let log_of_seed = seed.log();
        // Who was dialled first does not dial any more.
        assert!(met(&log, self.seed.outside) || met(&log_of_seed, self.reader.outside), "{log}\n{log_of_seed}");
        assert!(connected(&log, self.seed.outside, true), "{log}");
    }
}

/// True if this log tells of a connection with this address, over uTP or TCP.
fn connected(log: &str, addr: SocketAddr, utp: bool) -> bool {
    let (addr, utp) = (format!(" addr={addr} "), format!(" utp={utp} "));
    log.lines().any(|line| line.contains("DEBUG connected ") && line.contains(&addr) && line.contains(&utp))
}

/// A peer that is there for a node to be told of: it connects to the node between and says where it listens.
fn somebody(fixture: &Fixture) -> (TcpStream, TcpListener) {
    let listener = TcpListener::bind((BETWEEN.ip(), 0)).expect("a listening socket");
    let port = listener.local_addr().expect("its address").port();
    let mut stream = TcpStream::connect(BETWEEN).expect("the node between listens");
    let mut hello = handshake(&fixture.content.torrent.info_hash);
    hello[25] |= 0x10;
    message(&mut hello, 15, &[]);
    message(&mut hello, 20, format!("\0d1:mde1:pi{port}ee").as_bytes());
    stream.write_all(&hello).expect("sent");
    stream.read_exact(&mut [0; 68]).expect("its handshake");
    (stream, listener)
}

#[test]
#[ignore = "needs root, fuse, iproute2, util-linux and nftables"]
fn two_behind_nats_are_introduced_by_us() {
    let fixture = fixture();
    // Nobody reads it, so that it has nothing.
    let between = mount_at(&[&fixture.file], BETWEEN).args(&["--no-upload", "-v"]).start();
    let seed = fixture.start_seed();
    wait_until(LIMIT, "the seed is there", || between.log().contains("DEBUG connected "));
    // Who has just been told of somebody is told of the next one a minute later: the seed does not dial the reader by
    // itself, which would open the NAT without an introduction.
    let (_somebody, listener) = somebody(&fixture);
    let (_dialled, by) = listener.accept().expect("a connection");
    assert_eq!(by.ip(), fixture.seed.outside.ip());
    let outside = &fixture.seed.outside;
    assert!(
        TcpStream::connect_timeout(outside, Duration::from_secs(1)).is_err(),
        "the NAT drops what it did not expect"
    );
    fixture.gets(&seed, Duration::from_secs(50), |_| ());
    let introduced = format!("introduced to each other asker_at={} target_at={outside}", fixture.reader.outside);
    assert!(between.log().contains(&introduced), "{}", between.log());
    wait_until(LIMIT, "both sides have seen it", || connected(&seed.log(), fixture.reader.outside, true));
}

#[test]
#[ignore = "needs root, iproute2, util-linux, nftables and libtorrent"]
fn two_behind_nats_are_introduced_by_libtorrent() {
    let fixture = fixture();
    let lab = &fixture.lab;
    // It takes uTP alone: of who came over TCP it does not know where to reach him. What little it has it keeps.
    let settings = ["stays=1", "download_rate_limit=20000", "upload_rate_limit=20000", "connection_speed=0"];
    let settings: Vec<String> = settings.iter().chain(&UTP_ONLY).map(|&setting| setting.to_owned()).collect();
    let between = LibTorrent::start_at(lab, BETWEEN, "leech", &fixture.file, &lab.subdir("between"), &settings);
    wait_until(LIMIT, "it runs", || between.runs());
    let seed = fixture.start_seed();
    wait_until(LIMIT, "the seed is there", || between.peers() >= 1.0);
    // It tells both at once, and two that dial each other at once need no introduction. So what the seed dials by itself
    // is lost, until somebody asks for one.
    fixture.seed.wall(&fixture.reader);
    fixture.gets(&seed, LIMIT * 2, |get| {
        let asked = "who named this peer is asked to introduce us";
        wait_until(LIMIT * 2, "one of them asks", || get.log().contains(asked) || seed.log().contains(asked));
        assert!(!connected(&get.log(), fixture.seed.outside, true), "they are not connected without");
        fixture.seed.unwall();
    });
}
