//! Two hosts behind NATs, which drop what nobody inside has sent for: only a third node, to which both are connected, can
//! bring them together (BEP 55).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::foreign::{Lab, LibTorrent};
use crate::support::mounts::mount_at;
use crate::support::nat::Nat;
use crate::support::peer::{handshake, message};
use crate::support::process::{Running, swarmfs};
use crate::support::torrent::Content;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
/// Everywhere in the lab.
const ANYWHERE: &str = "0.0.0.0:6881";

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
    let (seed, reader) = (Nat::of(&lab, 1), Nat::of(&lab, 2));
    Fixture { lab, content, file, data, seed, reader }
}

impl Fixture {
    /// `swarmfs seed` or `swarmfs get` behind this NAT, which knows nobody but the lab.
    fn start(&self, nat: &Nat, verb: &str, option: &str, dir: &Path) -> Running {
        let mut command = swarmfs();
        command.arg(verb).arg(&self.file).arg(option).arg(dir).args(["--listen", &nat.inside.to_string()]);
        command.args(["--peer", &nat.lab.to_string(), "-vv", "--no-dht", "--no-lsd", "--no-port-map"]);
        command.env("XDG_STATE_HOME", self.lab.subdir(&format!("{verb}-state")));
        Running::spawn(verb, nat.placed(&command), &self.lab.log(verb), LIMIT * 4)
    }

    fn start_seed(&self) -> Running {
        self.start(&self.seed, "seed", "--data", &self.data)
    }

    /// The reader gets it all, from the seed, to which it was introduced.
    #[track_caller]
    fn gets(&self, limit: Duration) {
        let dir = self.lab.subdir("copy");
        let mut get = self.start(&self.reader, "get", "-o", &dir);
        let end = get.wait(limit);
        let log = get.log();
        assert!(end.is_some_and(|(status, _)| status.success()), "it ends well: {end:?}");
        assert!(std::fs::read(dir.join("noise.bin")).expect("its copy") == self.content.bytes);
        let met = format!("a peer that we were introduced to is dialled torrent=noise.bin addr={}", self.seed.outside);
        assert!(log.contains(&met), "{log}");
        assert!(connected(&log, self.seed.outside, true), "{log}");
    }
}

/// True if this log tells of a connection with this address, over uTP or TCP.
fn connected(log: &str, addr: SocketAddr, utp: bool) -> bool {
    let (addr, utp) = (format!(" addr={addr} "), format!(" utp={utp} "));
    log.lines().any(|line| line.contains("DEBUG connected ") && line.contains(&addr) && line.contains(&utp))
}

/// A peer that is there for a node to be told of: it connects to the lab and says where it listens.
fn somebody(fixture: &Fixture) -> (TcpStream, TcpListener) {
    let lab = fixture.seed.lab;
    let listener = TcpListener::bind((lab.ip(), 0)).expect("a listening socket");
    let port = listener.local_addr().expect("its address").port();
    let mut stream = TcpStream::connect(lab).expect("the node between listens");
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
    let between =
        mount_at(&[&fixture.file], ANYWHERE.parse().expect("an address")).args(&["--no-upload", "-v"]).start();
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
    fixture.gets(Duration::from_secs(50));
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
    let settings = ["stays=1", "download_rate_limit=1000", "upload_rate_limit=1000", "connection_speed=0"];
    let utp = ["enable_incoming_utp=1", "enable_outgoing_utp=1", "enable_incoming_tcp=0", "enable_outgoing_tcp=0"];
    let settings: Vec<String> = settings.iter().chain(&utp).map(|&setting| setting.to_owned()).collect();
    let anywhere = ANYWHERE.parse().expect("an address");
    let between = LibTorrent::start_at(lab, anywhere, "leech", &fixture.file, &lab.subdir("between"), &settings);
    wait_until(LIMIT, "it runs", || between.runs());
    let _seed = fixture.start_seed();
    wait_until(LIMIT, "the seed is there", || between.peers() >= 1.0);
    fixture.gets(LIMIT * 3);
}
