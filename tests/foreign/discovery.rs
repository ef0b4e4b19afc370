//! Peers that no tracker names: other clients introduce them, we introduce other clients, and neighbours on one link find
//! each other; a private torrent does nothing of all that.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, libtorrent, torrent_by_libtorrent};
use crate::support::lab::Lab;
use crate::support::mounts::{Mount, mount_at};
use crate::support::process::{Running, shell, swarmfs};
use crate::support::torrent::{Content, Torrent};
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// libtorrent that hardly dials anybody.
const WAITS: [&str; 2] = ["connection_speed=0", "torrent_connect_boost=0"];

struct Fixture {
    lab: Lab,
    dataset: Dataset,
    /// Without a tracker.
    file: PathBuf,
    /// A magnet link without anything else.
    link: PathBuf,
}

fn fixture() -> Fixture {
    let dataset = Dataset::small();
    let lab = Lab::enter();
    let torrent = torrent_by_libtorrent(&dataset, 256);
    let file = torrent.write(lab.dir.path(), None);
    let link = format!("magnet:?xt=urn:btih:{}", torrent.hex()).into();
    Fixture { lab, dataset, file, link }
}

impl Fixture {
    fn seed(&self, settings: &[&str]) -> LibTorrent {
        let seed = LibTorrent::seed_with(&self.lab, &self.file, &self.dataset.parent, 0, settings);
        listens(&seed);
        seed
    }

    /// What is read on the mount is right.
    #[track_caller]
    fn reads(&self, mount: &Mount) {
        shell("diff -r \"$1\" \"$2\"", &[&self.dataset.root(), &mount.path(&self.dataset.name)], LIMIT);
    }
}

/// Waits until it can be dialled: who is refused comes back after a minute.
#[track_caller]
fn listens(peer: &LibTorrent) {
    wait_until(LIMIT, "it listens", || TcpStream::connect(peer.address).is_ok());
}

/// True if this mount, with its log at its most, has connected to the peer that listens there: who comes to it has another
/// port.
fn has_dialled(mount: &Mount, peer: SocketAddr) -> bool {
    let address = format!(" addr={peer} ");
    mount.log().lines().any(|line| line.contains("DEBUG connected ") && line.contains(&address))
}

/// What `lt.py leech` takes.
fn words(peers: &[SocketAddr], settings: &[&str]) -> Vec<String> {
    peers.iter().map(SocketAddr::to_string).chain(settings.iter().map(|&setting| setting.to_owned())).collect()
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn libtorrent_introduces_two_others_to_us() {
    let fixture = fixture();
    let seeds = [fixture.seed(&WAITS), fixture.seed(&WAITS)];
    let known = words(&[seeds[0].address, seeds[1].address], &["stays=1", "download_rate_limit=20000"]);
    let lab = &fixture.lab;
    let between = LibTorrent::start_at(lab, lab.address(), "leech", &fixture.file, &lab.subdir("between"), &known);
    listens(&between);
    wait_until(LIMIT, "it has both", || between.peers() >= 2.0);
    let mount = mount_at(&[&fixture.file], lab.address()).peer(between.address).args(&["-v"]).start();
    // Who comes too late for its first message is in the next one, a minute later.
    wait_until(LIMIT * 2, "we know both", || seeds.iter().all(|seed| has_dialled(&mount, seed.address)));
    drop(between);
    fixture.reads(&mount);
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn we_introduce_libtorrent_to_another() {
    let fixture = fixture();
    let (lab, file) = (&fixture.lab, &fixture.file);
    let seed = fixture.seed(&WAITS);
    let dir = lab.subdir("copy");
    let mut leech = LibTorrent::start_at(lab, lab.address(), "leech", file, &dir, &[]);
    listens(&leech);
    // It gives nothing itself.
    let _between =
        mount_at(&[file], lab.address()).peer(seed.address).peer(leech.address).args(&["--no-upload", "-v"]).start();
    leech.complete(LIMIT);
    assert!(seed.uploaded() > 0.0);
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn without_exchange_nobody_is_introduced() {
    let fixture = fixture();
    let (lab, file) = (&fixture.lab, &fixture.file);
    let seed = fixture.seed(&WAITS);
    let known = words(&[seed.address], &["stays=1", "download_rate_limit=20000"]);
    let between = LibTorrent::start_at(lab, lab.address(), "leech", file, &lab.subdir("between"), &known);
    listens(&between);
    wait_until(LIMIT, "it has the seed", || between.peers() >= 1.0);
    let mount = mount_at(&[file], lab.address()).peer(between.address).args(&["--no-pex", "-v"]).start();
    wait_until(LIMIT, "we have the one between", || has_dialled(&mount, between.address));
    // It exchanges within a second or two with who wants it.
    std::thread::sleep(Duration::from_secs(5));
    assert!(!has_dialled(&mount, seed.address), "{}", mount.log());
}

#[test]
#[ignore = "needs root, iproute2, util-linux and libtorrent"]
fn neighbours_find_each_other() {
    let fixture = fixture();
    let (lab, file) = (&fixture.lab, &fixture.file);
    let [here, there] = lab.neighbour();
    let lsd = |more: &str| vec![more.to_owned(), "enable_lsd=1".to_owned()];

    // It answers who has just come.
    let seed = LibTorrent::start_at(lab, there, "seed", file, &fixture.dataset.parent, &lsd("0"));
    wait_until(LIMIT, "it runs", || seed.done() >= 1.0);
    let mount = mount_at(&[file], here).without(&["--no-dht", "--no-pex"]).args(&["-v"]).start();
    fixture.reads(&mount);
    let heard = format!("heard of a peer on the local network addr={there}");
    wait_until(LIMIT, "we have heard of it", || mount.log().contains(&heard));
    drop((seed, mount));

    // The other way round: we are the neighbour that has it all.
    let mut command = swarmfs();
    command.arg("seed").arg(file).arg("--data").arg(&fixture.dataset.parent).args(["--listen", &there.to_string()]);
    command.args(["-v", "--no-dht", "--no-pex"]);
    let log = lab.dir.path().join("seed.log");
    let _ours = Running::spawn("swarmfs seed", lab.placed(command, there), &log, LIMIT * 3);
    let dir = lab.subdir("copy");
    let mut leech = LibTorrent::start_at(lab, here, "leech", file, &dir, &["enable_lsd=1".to_owned()]);
    leech.complete(LIMIT);
    shell("diff -r \"$1\" \"$2\"", &[&fixture.dataset.root(), &dir.join(&fixture.dataset.name)], LIMIT);
}

/// A DHT of libtorrents; the first one is where others enter it.
struct DhtLab {
    nodes: Vec<Running>,
    entry: SocketAddr,
}

impl DhtLab {
    fn start(lab: &Lab) -> Self {
        let entry = lab.address();
        let mut nodes = Vec::new();
        for n in 0..4 {
            let address = if n == 0 { entry } else { lab.address() };
            let mut command = libtorrent();
            command.args(["node", &address.to_string()]);
            if n > 0 {
                command.arg(format!("dht_bootstrap_nodes={entry}"));
            }
            let log = lab.dir.path().join(format!("node-{n}.log"));
            nodes.push(Running::spawn("libtorrent node", command, &log, LIMIT * 5));
        }
        Self { nodes, entry }
    }

    /// With a seed that it knows.
    #[track_caller]
    fn with_seed(fixture: &Fixture) -> (Self, LibTorrent) {
        let dht = Self::start(&fixture.lab);
        let seed = fixture.seed(&["enable_dht=1", &dht.enter()]);
        dht.wait_for(seed.address);
        (dht, seed)
    }

    /// libtorrent's setting to enter it.
    fn enter(&self) -> String {
        format!("dht_bootstrap_nodes={}", self.entry)
    }

    /// Waits until a node was told of a peer at this address.
    #[track_caller]
    fn wait_for(&self, peer: SocketAddr) {
        let line = format!("incoming dht announce: {peer}");
        let told = || self.nodes.iter().any(|node| node.log().contains(&line));
        wait_until(LIMIT, &format!("the DHT has heard of {peer}"), told);
    }
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn a_dht_of_libtorrents_brings_us_together() {
    let fixture = fixture();
    let (lab, file) = (&fixture.lab, &fixture.file);
    let (dht, seed) = DhtLab::with_seed(&fixture);
    let entry = dht.entry.to_string();
    // Not even metadata is there: both come from who the DHT names. The link says where to enter it.
    let link = PathBuf::from(format!("{}&dht={entry}", fixture.link.display()));
    let mount = mount_at(&[&link], lab.address()).without(&["--no-lsd", "--no-pex"]).limit(LIMIT * 3).start();
    fixture.reads(&mount);
    dht.wait_for(mount.address);
    drop((seed, mount));

    // We are the one who is found.
    let (_ours, ours) = {
        let address = lab.address();
        let mut command = swarmfs();
        command.arg("seed").arg(file).arg("--data").arg(&fixture.dataset.parent);
        command.args(["--listen", &address.to_string(), "-v", "--no-lsd", "--no-pex", "--dht-bootstrap", &entry]);
        command.env("XDG_STATE_HOME", lab.subdir("state"));
        (Running::spawn("swarmfs seed", command, &lab.dir.path().join("seed.log"), LIMIT * 3), address)
    };
    dht.wait_for(ours);
    let dir = lab.subdir("copy");
    let settings = words(&[], &["enable_dht=1", &dht.enter()]);
    LibTorrent::start_at(lab, lab.address(), "leech", file, &dir, &settings).complete(LIMIT);
    shell("diff -r \"$1\" \"$2\"", &[&fixture.dataset.root(), &dir.join(&fixture.dataset.name)], LIMIT);
}

/// Nobody names a node of the DHT but a peer that has one (BEP 5 `port`).
#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn a_peer_tells_us_of_its_node() {
    let fixture = fixture();
    let (lab, file) = (&fixture.lab, &fixture.file);
    let (_dht, seed) = DhtLab::with_seed(&fixture);
    let mount = mount_at(&[file], lab.address()).without(&["--no-lsd", "--no-pex"]).peer(seed.address);
    let mount = mount.args(&["-v", "-v"]).limit(LIMIT * 3).start();
    fixture.reads(&mount);
    // Which the seed's node has taken.
    let line = "asked the DHT and announced";
    wait_until(LIMIT, line, || mount.log().contains(line));
}

/// What comes to a socket within so many seconds.
fn heard(socket: &UdpSocket, seconds: u64) -> Option<SocketAddr> {
    socket.set_read_timeout(Some(Duration::from_secs(seconds))).expect("a timeout");
    socket.recv_from(&mut [0; 2048]).ok().map(|(_, from)| from)
}

/// A torrent without trackers, private or not.
fn torrent(private: bool) -> Torrent {
    let content = Content::noise("noise.bin", 1 << 20, 64 << 10, 3).torrent;
    let mut info = content.info;
    if private {
        // Behind `pieces`, which is the last key.
        assert_eq!(info.pop(), Some(b'e'));
        info.extend_from_slice(b"7:privatei1ee");
    }
    Torrent::from_info(&content.name, info, content.piece_length, content.length)
}

#[test]
#[ignore = "needs root, iproute2 and util-linux"]
fn a_private_torrent_is_announced_to_nobody() {
    let lab = Lab::enter();
    let [here, _] = lab.neighbour();
    for private in [false, true] {
        let node = UdpSocket::bind((here.ip(), 0)).expect("a node's socket");
        let group = UdpSocket::bind("239.192.152.143:6771").expect("the group's socket");
        group.join_multicast_v4(&[239, 192, 152, 143].into(), &[10, 78, 0, 1].into()).expect("joined");
        let six = UdpSocket::bind("[ff15::efc0:988f]:6771").expect("the group's socket");
        let index = std::fs::read_to_string("/proc/thread-self/net/if_inet6").expect("the interfaces");
        let index = index.lines().find(|line| line.ends_with("link0")).expect("the link").split(' ').nth(1);
        let index = u32::from_str_radix(index.expect("its index"), 16).expect("a number");
        six.join_multicast_v6(&"ff15::efc0:988f".parse().expect("the group"), index).expect("joined");
        // Its own sockets share the port only with those who want to.
        for socket in [&group, &six] {
            rustix::net::sockopt::set_socket_reuseaddr(socket, true).expect("shared");
        }
        let file = torrent(private).write(lab.dir.path(), None);
        let entry = node.local_addr().expect("its address").to_string();
        let mount = mount_at(&[&file], SocketAddr::new([0, 0, 0, 0].into(), 6881));
        let _mount = mount.without(&[]).args(&["--dht-bootstrap", &entry]).start();
        for (name, socket) in [("the DHT", &node), ("the group", &group), ("the group of IPv6", &six)] {
            // What is to come may take its time on a machine that is busy.
            let seconds = if private { 5 } else { 30 };
            assert_eq!(heard(socket, seconds).is_some(), !private, "{name}, private: {private}");
        }
    }
}
