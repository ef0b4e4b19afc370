//! The user's choice of network: what an interface, a proxy and a block list are for, as packets show it, and IPv6 alone.
//! Everything that finds peers is tempted to leave by another way.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::capture::{Capture, Packet};
use crate::support::dataset::Dataset;
use crate::support::dns::NameServer;
use crate::support::foreign::{LibTorrent, libtorrent};
use crate::support::lab::Lab;
use crate::support::mounts::{Mount, MountCommand, mount_at};
use crate::support::process::{Running, shell, succeed, swarmfs};
use crate::support::reading::assert_same_bytes;
use crate::support::socks::{SocksProxy, Wanted};
use crate::support::torrent::{Content, Torrent};
use crate::support::tracker::{Action, Tracker, ok, reply};
use crate::support::udp_tracker::{CONNECT, ERROR, ID, Send, UdpTracker};
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 78, 0, 1));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 78, 0, 2));

/// Where the proxy connects from.
const EXIT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 3));

/// A neighbour who has it all: a seed that introduces others, trackers, a name server, a node of the DHT. And the world, to
/// which everything leads that is not his.
struct Street {
    dataset: Dataset,
    torrent: Torrent,
    file: PathBuf,
    seed: LibTorrent,
    tracker: Tracker,
    udp: UdpTracker,
    names: NameServer,
    _node: Running,
    /// The last to go: the others' logs are in its directory.
    lab: Lab,
}

impl Street {
    fn build() -> Self {
        let dataset = Dataset::small();
        let torrent = Torrent::of(&dataset, 64 << 10);
        let lab = Lab::enter();
        let [_, there] = lab.neighbour();
        lab.world();
        // The first is this machine's own, as systemd-resolved's is.
        lab.replace("/etc/resolv.conf", "nameserver 127.0.0.53\nnameserver 10.78.0.2\noptions timeout:1 attempts:1\n");
        let file = torrent.write(lab.dir.path(), None);
        // Who knows a tracker by name only, behind a proxy, takes public addresses from it.
        shell("ip route add 203.0.113.0/24 via 10.78.0.2", &[], LIMIT);
        for ip in ["203.0.113.2/32", "203.0.113.3/32"] {
            let mut public = Command::new("ip");
            public.args(["address", "add", ip, "dev", "lo"]);
            succeed(&mut lab.placed(public, there), LIMIT);
        }
        let listens = "listen_interfaces=10.78.0.2:6881,203.0.113.2:6881";
        let settings =
            [listens, "outgoing_interfaces=", "enable_lsd=1", "enable_incoming_utp=1", "enable_outgoing_utp=1"];
        let settings = settings.map(str::to_owned);
        let more: Vec<String> = std::iter::once("0".to_owned()).chain(settings).collect();
        let seed = LibTorrent::start_at(&lab, there, "seed", &file, &dataset.parent, &more);
        let mut node = libtorrent();
        node.args(["node", "10.78.0.2:6999"]);
        let node = Running::spawn("libtorrent node", lab.placed(node, there), &lab.log("node"), LIMIT * 5);
        let (tracker, udp, names) = lab.inside(|| {
            // Beside the seed, who is nowhere near.
            let peers = ["203.0.113.2:6881", "203.0.113.9:7001"].map(|peer| peer.parse().expect("an address"));
            let tracker = Tracker::start(THERE, move |_, _| Action::Raw(ok(&reply("8:intervali60e", &peers))));
            // Whose refusal sends us on to the next one.
            let udp = UdpTracker::start((THERE, 0).into(), |seen, _| match seen.action() {
                CONNECT => vec![Send::Own(seen.connected(ID))],
                _ => vec![Send::Own(seen.reply(ERROR, b"ask another"))],
            });
            let names = ["tracker.test", "udp.test", "seed.test", "peer.test"].map(|name| (name, THERE));
            (tracker, udp, NameServer::start(THERE, &names))
        });
        // Asked from there: no packet of ours is about.
        lab.inside(|| wait_until(LIMIT, "the seed listens", || TcpStream::connect(there).is_ok()));
        // Until it has the torrent it closes every connection.
        wait_until(LIMIT, "the seed has it", || seed.done() >= 1.0);
        Self { lab, dataset, torrent, file, seed, tracker, udp, names, _node: node }
    }

    /// A link that names everything by name, and some of the world besides.
    fn link(&self) -> PathBuf {
        let (tracker, udp) = (self.tracker.port(), self.udp.addr().port());
        format!(
            "magnet:?xt=urn:btih:{}&tr=udp%3A%2F%2F10.79.0.2%3A6969&tr=http%3A%2F%2F10.79.0.2%3A6969%2Fannounce\
             &tr=udp%3A%2F%2Fudp.test%3A{udp}&tr=http%3A%2F%2Ftracker.test%3A{tracker}%2Fannounce&x.pe=peer.test%3A7003\
             &ws=http%3A%2F%2Fseed.test%2F&ws=http%3A%2F%2F10.79.0.2%2F",
            self.torrent.hex()
        )
        .into()
    }

    /// A mount of that with all that finds peers, told of peers and nodes in the world and on this machine.
    fn mount(&self) -> MountCommand {
        let mount = mount_at(&[&self.link()], SocketAddr::from(([0, 0, 0, 0], 6881)));
        let strangers = ["10.79.0.2:7004", "127.0.0.1:7005", "[2001:db8:79::2]:7006"];
        let mount = strangers.iter().fold(mount, |mount, peer| mount.peer(peer.parse().expect("an address")));
        let nodes = ["--dht-bootstrap", "10.79.0.2:6881", "--dht-bootstrap", "10.78.0.2:6999"];
        mount.without(&[]).args(&nodes).args(&["-v", "--read-timeout", "50s"]).limit(LIMIT * 3)
    }

    #[track_caller]
    fn reads(&self, mount: &Mount) {
        let there = mount.path(&self.dataset.name);
        wait_until(LIMIT, "the metadata comes", || there.is_dir());
        assert_same_bytes(&self.dataset, &there);
    }
}

/// How often a line of the log says this.
fn said(mount: &Mount, what: &str) -> usize {
    mount.log().lines().filter(|line| line.contains(what)).count()
}

#[test]
#[ignore = "needs root, iproute2, util-linux and libtorrent"]
fn without_a_choice_packets_go_everywhere() {
    // What the tests below look for can be seen.
    let street = Street::build();
    let capture = Capture::but_on("link0");
    let mount = street.mount().start();
    street.reads(&mount);
    let to = |what: &Packet, ip: &str, kind: &str| {
        what.kind == kind && what.to.is_some_and(|to| to.ip() == ip.parse::<IpAddr>().expect("an address"))
    };
    for (ip, kind) in [("127.0.0.53", "UDP"), ("10.79.0.2", "UDP"), ("10.79.0.2", "TCP"), ("239.192.152.143", "UDP")] {
        wait_until(LIMIT, &format!("{kind} to {ip}"), || capture.so_far().iter().any(|packet| to(packet, ip, kind)));
    }
}

#[test]
#[ignore = "needs root, iproute2, util-linux and libtorrent"]
fn with_an_interface_no_packet_leaves_by_another() {
    let street = Street::build();
    let capture = Capture::but_on("link0");
    let mut mount = street.mount().args(&["--interface", "link0"]).start();
    street.reads(&mount);
    street.names.wait_for("tracker.test");
    street.names.wait_for("udp.test");
    street.tracker.wait_for(1);
    street.udp.wait_for(2);
    wait_until(LIMIT, "it has heard of the seed by LSD", || {
        mount.log().contains("heard of a peer on the local network")
    });
    // A name in a link that leads inwards (peer.test) is looked up and not followed.
    for peer in ["203.0.113.9:7001", "10.79.0.2:7004", "[2001:db8:79::2]:7006"] {
        let tried = |line: &str| line.contains("cannot connect: ") && line.contains(&format!("addr={peer}"));
        wait_until(LIMIT, &format!("{peer} was tried"), || mount.log().lines().any(tried));
    }
    let off = "all sockets are bound to link0; off, since theirs cannot be: the DHT and port mapping";
    assert_eq!(said(&mount, off), 1, "{}", mount.log());
    mount.terminate(LIMIT);
    assert_eq!(capture.end(), []);
    assert!(street.seed.uploaded() > 0.0);
}

#[test]
#[ignore = "needs root, iproute2, util-linux and libtorrent"]
fn with_a_proxy_no_packet_goes_elsewhere() {
    let street = Street::build();
    let proxy = street.lab.inside(|| {
        let names = ["tracker.test", "udp.test", "seed.test", "peer.test"].map(|name| (name, THERE));
        SocksProxy::start((THERE, 1080).into(), EXIT, Some(("me", "p@ss word")), &names)
    });
    // Nobody else is talked to, not even there.
    let capture = Capture::but_on("none");
    let url = "socks5h://me:p%40ss%20word@10.78.0.2:1080";
    let mut mount = street.mount().args(&["--proxy", url]).start();
    street.reads(&mount);
    let tracker = street.tracker.wait_for(1);
    assert_eq!(tracker[0].text("port"), Some("1"), "it can be reached nowhere");
    wait_until(LIMIT, "the peers were tried", || {
        [7001, 7004, 7005].iter().all(|port| {
            proxy.wanted().iter().any(|wanted| matches!(wanted, Wanted::Address(addr) if addr.port() == *port))
        })
    });
    let wanted = proxy.wanted();
    let named = |name: &str, port| wanted.contains(&Wanted::Name(name.to_owned(), port));
    assert!(named("tracker.test", street.tracker.port()) && named("seed.test", 80), "{wanted:?}");
    let seed = Wanted::Address("203.0.113.2:6881".parse().expect("an address"));
    assert!(wanted.contains(&seed), "the tracker's peer: {wanted:?}");
    assert_eq!(proxy.turned_away(), 0);
    let sockets = ["tcp", "tcp6", "udp", "udp6"].map(|kind| format!("/proc/{}/net/{kind}", mount.process.pid()));
    let own = sockets.map(|path| std::fs::read_to_string(path).expect("the sockets of this network"));
    // State 0A listens; the only datagrams would be ours.
    let lines = own.iter().flat_map(|table| table.lines().skip(1));
    let open: Vec<&str> = lines.filter(|line| matches!(line.split_whitespace().nth(3), Some("0A" | "07"))).collect();
    assert_eq!(open, [""; 0], "nobody can connect");
    let log = mount.log();
    assert_eq!(
        said(
            &mount,
            "through the proxy 10.78.0.2:1080 go HTTP and connections to peers; off: the DHT, port mapping, \
        local discovery, uTP, UDP trackers and connections from others"
        ),
        1,
        "{log}"
    );
    assert!(!log.contains("p@ss") && !log.contains("p%40ss"), "{log}");
    assert_eq!(street.udp.seen().len(), 0);
    mount.terminate(LIMIT);
    let stray = |packet: &Packet| packet.to != Some(proxy.addr()) && packet.kind != "ARP";
    let strays: Vec<Packet> = capture.end().into_iter().filter(stray).collect();
    assert_eq!(strays, []);
    // By way of an interface, the proxy is by name, too: its name is asked for there.
    let capture = Capture::but_on("link0");
    let url = "socks5h://me:p%40ss%20word@peer.test:1080";
    let mut mount = street.mount().args(&["--proxy", url, "--interface", "link0"]).start();
    street.reads(&mount);
    mount.terminate(LIMIT);
    assert_eq!(capture.end(), []);
}

#[test]
#[ignore = "needs root, iproute2, util-linux and libtorrent"]
fn a_proxy_that_does_not_work_is_said_and_not_gone_around() {
    let street = Street::build();
    let peer = street.seed.address;
    let proxy = street.lab.inside(|| SocksProxy::start((THERE, 1080).into(), EXIT, Some(("me", "secret")), &[]));
    let _silent = street.lab.inside(|| TcpListener::bind((THERE, 1082)).expect("a port where nobody says a word"));
    for (url, why) in [
        ("socks5h://10.78.0.2:1081", "Connection refused"),
        ("socks5h://10.78.0.2:1080", "does it want a user name?"),
        ("socks5h://me:wrong-secret@10.78.0.2:1080", "it does not take our user name and password"),
        // It speaks something else, and then it goes.
        ("socks5h://10.78.0.2:6881", "unexpected end of file"),
        ("socks5h://10.78.0.2:1082", "it does not answer within 15s"),
    ] {
        let capture = Capture::but_on("none");
        let mut mount = mount_at(&[&street.file], (HERE, 6881).into())
            .peer(peer)
            .args(&["--proxy", url, "--read-timeout", "2s"])
            .start();
        let failed = std::fs::read(mount.path(&street.dataset.name).join("large.bin")).expect_err("nothing comes");
        assert_eq!(failed.raw_os_error(), Some(libc::EIO));
        let at = url.rsplit(['@', '/']).next().expect("an address");
        let sentence = format!("the proxy {at} does not work, and without it no peer is reached: ");
        wait_until(LIMIT, &sentence, || said(&mount, &sentence) == 1);
        let log = mount.log();
        assert!(log.contains(why) && !log.contains("secret"), "{url}: {log}");
        mount.terminate(LIMIT);
        let stray = |packet: &Packet| packet.to.is_some_and(|to| to.to_string() != at);
        assert_eq!(capture.end().into_iter().filter(stray).collect::<Vec<_>>(), []);
    }
    assert!(proxy.turned_away() >= 2);
}

#[test]
#[ignore = "needs root, iproute2, util-linux and libtorrent"]
fn an_interface_that_is_down_holds_nothing_up_and_works_when_it_is_up() {
    let street = Street::build();
    shell("ip link set link0 down", &[], LIMIT);
    let capture = Capture::but_on("link0");
    let mount = mount_at(&[&street.file], SocketAddr::from(([0, 0, 0, 0], 6881)));
    let mount =
        mount.without(&[]).peer(street.seed.address).args(&["--interface", "link0", "--read-timeout", "2s"]).start();
    let file = mount.path(&street.dataset.name).join("large.bin");
    let failed = std::fs::read(&file).expect_err("nothing comes");
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    shell("ip link set link0 up", &[], LIMIT);
    wait_until(LIMIT * 2, "it can be read", || std::fs::read(&file).is_ok());
    assert_same_bytes(&street.dataset, &mount.path(&street.dataset.name));
    assert_eq!(capture.end(), []);
    assert!(!mount.log().contains("ERROR"), "{}", mount.log());
}

/// True if there is an answer to the first datagram of uTP (BEP 29) from here.
fn speaks_utp(at: SocketAddr) -> bool {
    let socket = UdpSocket::bind((THERE, 0)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut syn = [0; 20];
    // ST_SYN, version 1; connection 7, a window of 64 KiB, sequence number 1.
    (syn[0], syn[3], syn[13], syn[17]) = (0x41, 7, 1, 1);
    socket.send_to(&syn, at).is_ok() && socket.recv(&mut [0; 100]).is_ok_and(|length| length >= 20)
}

#[test]
#[ignore = "needs root, iproute2 and util-linux"]
fn an_interface_that_goes_and_comes_again_is_used_again() {
    let lab = Lab::enter();
    lab.neighbour();
    let content = Content::noise("noise.bin", 1 << 20, 64 << 10, 3);
    let file = content.torrent.write(lab.dir.path(), None);
    let options = ["--interface", "link0", "--read-timeout", "2s"];
    let mount =
        mount_at(&[&file], SocketAddr::from(([0, 0, 0, 0], 6881))).without(&["--no-dht"]).args(&options).start();
    let ours = SocketAddr::new(HERE, 6881);
    let reached =
        || lab.inside(|| TcpStream::connect_timeout(&ours, Duration::from_secs(1)).is_ok() && speaks_utp(ours));
    assert!(reached());
    lab.relink();
    wait_until(LIMIT, "it is reached again", reached);
    assert_eq!(said(&mount, "the interface is back"), 1, "{}", mount.log());
}

#[test]
#[ignore = "needs root, iproute2, util-linux and libtorrent"]
fn a_block_list_is_stronger_than_who_names_a_peer() {
    let street = Street::build();
    let list = street.lab.dir.path().join("list.p2p");
    std::fs::write(&list, "# mine\nthe street:10.78.0.2-10.78.0.2\nnonsense\n").expect("a list");
    let list = list.to_str().expect("a UTF-8 path");
    let mount = mount_at(&[&street.file], SocketAddr::from(([0, 0, 0, 0], 6881)));
    let mount = mount.peer(street.seed.address).args(&["-v", "--block-list", list, "--read-timeout", "2s"]).start();
    // It comes to us, too.
    let them = LibTorrent::start_at(
        &street.lab,
        "10.78.0.2:6900".parse().expect("an address"),
        "leech",
        &street.file,
        &street.lab.subdir("copy"),
        &["10.78.0.1:6881".to_owned()],
    );
    wait_until(LIMIT, "it is refused", || said(&mount, "its address is on the block list") > 0);
    let failed = std::fs::read(mount.path(&street.dataset.name).join("large.bin")).expect_err("nothing comes");
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    assert_eq!(said(&mount, "this peer is on the block list, and so it is not dialled peer=10.78.0.2:6881"), 1);
    assert_eq!(said(&mount, "1 lines of the block list are no ranges of addresses"), 1, "{}", mount.log());
    assert!(them.peers() < 1.0 && them.done() < 0.01);
}

#[test]
#[ignore = "needs root, iproute2 and libtorrent"]
fn ipv6_alone_is_enough() {
    let dataset = Dataset::small();
    let torrent = Torrent::of(&dataset, 64 << 10);
    let lab = Lab::enter_v6();
    let file = torrent.write(lab.dir.path(), None);
    let seed = LibTorrent::seed(&lab, &file, &dataset.parent, 0);
    let capture = Capture::but_on("none");
    for listen in [lab.address(), "[::]:6881".parse().expect("an address")] {
        // One of IPv4 that nobody may dial: we have no address of that kind, or nobody is there.
        let link = format!("magnet:?xt=urn:btih:{}&x.pe={}&x.pe=10.77.0.99:6881", torrent.hex(), seed.address);
        let mount = mount_at(&[Path::new(&link)], listen).start();
        let there = mount.path(&dataset.name);
        wait_until(LIMIT, "the metadata comes", || there.is_dir());
        assert_same_bytes(&dataset, &there);
        let dialled = capture.so_far().iter().any(|packet| packet.to.is_some_and(|to| to.ip().is_ipv4()));
        assert_eq!(dialled, listen.ip().is_unspecified(), "who listens on IPv6 alone dials IPv6 alone");
    }
    // A proxy and a tracker whose addresses are digits.
    let [at, exit, tracker] = [lab.address(), lab.address(), lab.address()].map(|address| address.ip());
    let proxy = SocksProxy::start((at, 1080).into(), exit, None, &[]);
    let tracker = Tracker::start(tracker, |_, _| Action::Raw(ok(&reply("", &[]))));
    let tracked = torrent.write(&lab.subdir("tracked"), Some(&tracker.announce()));
    let url = format!("socks5h://{}", proxy.addr());
    let mount = mount_at(&[&tracked], "[::]:6881".parse().expect("an address")).peer(seed.address);
    let mount = mount.args(&["--proxy", &url]).start();
    assert_same_bytes(&dataset, &mount.path(&dataset.name));
    tracker.wait_for(1);
    assert!(proxy.wanted().contains(&Wanted::Address(seed.address)), "{:?}", proxy.wanted());
    drop(mount);
    // Both directions, on a dual-stack socket: somebody of each family comes to us.
    let _ours = {
        let mut command = swarmfs();
        command.args(["seed", "--no-dht", "--no-lsd", "-v", "--listen", "[::]:6990", "--data"]);
        command.arg(&dataset.parent).arg(&file);
        Running::spawn("swarmfs seed", command, &lab.log("ours"), LIMIT * 3)
    };
    wait_until(LIMIT, "it listens", || TcpStream::connect("[2001:db8:77::2]:6990").is_ok());
    for (from, to) in [("[2001:db8:77::2]:6970", "[2001:db8:77::2]:6990"), ("10.77.0.50:6970", "10.77.0.1:6990")] {
        let into = lab.subdir(&from.replace([':', '[', ']'], "-"));
        let mut leech =
            LibTorrent::start_at(&lab, from.parse().expect("an address"), "leech", &file, &into, &[to.to_owned()]);
        leech.complete(LIMIT);
    }
}
