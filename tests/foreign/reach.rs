//! Whom a tracker's or a web seed's URL reaches: from public addresses never inwards, nobody on the block list, and both
//! families of a name.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use crate::support::announcing::{SHORT, spawn, spec};
use crate::support::lab::Lab;
use crate::support::mounts::mount_at;
use crate::support::process::{output, succeed, swarmfs};
use crate::support::torrent::{Content, Torrent};
use crate::support::tracker::{Action, Tracker, answer, ok, reply};
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// A service that nobody may be led to.
struct Trap(TcpListener);

impl Trap {
    fn at(ip: &str) -> Self {
        let listener = TcpListener::bind((ip.parse::<IpAddr>().expect("an address"), 8099)).expect("the trap");
        listener.set_nonblocking(true).expect("it does not wait");
        Self(listener)
    }

    #[track_caller]
    fn is_empty(&self, what: &str) {
        let visitor = self.0.accept().map(|(_, from)| from);
        assert!(visitor.is_err(), "{what}: {visitor:?} came");
    }
}

#[test]
#[ignore = "needs root and iproute2"]
fn a_public_tracker_leads_to_public_addresses_only() {
    let lab = Lab::enter();
    for ip in ["203.0.113.1/24", "203.0.113.2/24", "169.254.169.254/32", "10.0.0.7/32"] {
        succeed(Command::new("ip").args(["address", "add", ip, "dev", "lo"]), LIMIT);
    }
    let names = "127.0.0.1 loop.test localhost\n169.254.169.254 meta.test\n10.0.0.7 intern.test\n::1 six.test\n203.0.113.2 good.test\n";
    lab.replace("/etc/hosts", names);
    let traps: Vec<Trap> = ["127.0.0.1", "::1", "169.254.169.254", "10.0.0.7"].into_iter().map(Trap::at).collect();
    let all_empty = |what: &str| traps.iter().for_each(|trap| trap.is_empty(what));
    let public: IpAddr = [203, 0, 113, 1].into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // Announces are made on this thread, which is in the lab; the test looks on from it in between.
    let outcome = |url: String| {
        runtime.block_on(async {
            let mut short = spec(&[&[url]]);
            short.deadlines = SHORT;
            let client = spawn(short, 5);
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let status = client.announcer.status();
                if let Some(error) = status[0].error.clone() {
                    return Err(error);
                }
                if status[0].answered.is_some() {
                    return Ok(client.peers());
                }
            }
        })
    };
    let refused = "refused: it leads to an address of this machine or network";
    for host in [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.7",
        "loop.test",
        "meta.test",
        "intern.test",
        "six.test",
        "2130706433",
        "0.0.0.0",
        "[::]",
        "[64:ff9b::7f00:1]",
        "localhost",
    ] {
        let to = format!("http://{host}:8099/announce");
        let sly =
            Tracker::start(public, move |_, _| Action::Raw(answer("302 Found", &format!("Location: {to}\r\n"), b"")));
        let error = outcome(sly.announce()).expect_err(host);
        assert!(error.starts_with(refused), "a redirect to {host}: {error}");
        assert_eq!(sly.seen().len(), 1);
        all_empty(host);
    }
    // Through another public one it is no other.
    let second = Tracker::start([203, 0, 113, 2].into(), |_, _| {
        Action::Raw(answer("307 Temporary Redirect", "Location: http://127.0.0.1:8099/announce\r\n", b""))
    });
    let to = second.announce();
    let first =
        Tracker::start(public, move |_, _| Action::Raw(answer("301 Moved", &format!("Location: {to}\r\n"), b"")));
    assert!(outcome(first.announce()).expect_err("two redirects").starts_with(refused));
    assert_eq!(second.seen().len(), 1);
    // A torrent that names such a service itself gets no further, unless it looks like a tracker.
    for url in [
        "http://127.0.0.1:8099/shutdown",
        "http://loop.test:8099/shutdown",
        "http://[::1]:8099/x",
        "http://meta.test:8099/latest/meta-data",
    ] {
        assert!(outcome(url.to_owned()).expect_err(url).starts_with(refused), "{url}");
    }
    all_empty("a torrent's own");

    let good = Tracker::start([203, 0, 113, 2].into(), |_, _| {
        Action::Raw(ok(&reply("", &[([203, 0, 113, 9], 7000).into(), ([10, 0, 0, 9], 7000).into()])))
    });
    for host in [format!("203.0.113.2:{}", good.port()), format!("good.test:{}", good.port())] {
        let to = format!("http://{host}/announce");
        let moved =
            Tracker::start(public, move |_, _| Action::Raw(answer("302 Found", &format!("Location: {to}\r\n"), b"")));
        assert!(outcome(moved.announce()).is_ok_and(|peers| peers.len() == 2), "{host}");
    }
    all_empty("the end");
}

#[test]
#[ignore = "needs root, FUSE and iproute2"]
fn a_public_web_seed_leads_to_public_addresses_only() {
    let lab = Lab::enter();
    for ip in ["203.0.113.1/24", "203.0.113.2/24"] {
        succeed(Command::new("ip").args(["address", "add", ip, "dev", "lo"]), LIMIT);
    }
    lab.replace("/etc/hosts", "127.0.0.1 loop.test localhost\n");
    let trap = Trap::at("127.0.0.1");
    let content = Content::noise("noise.bin", 64 << 10, 64 << 10, 3);
    let mount = |web_seeds: &[&str]| {
        let dir = lab.subdir(&format!("{}", web_seeds.iter().map(|url| url.len()).sum::<usize>()));
        let file = content.torrent.write_with(&dir, None, web_seeds);
        mount_at(&[&file], lab.address()).args(&["-v", "--read-timeout", "2s"]).start()
    };
    let redirect = |to: String| {
        let public: IpAddr = [203, 0, 113, 1].into();
        let head = format!("Location: {to}\r\n");
        Tracker::start(public, move |_, _| Action::Raw(answer("302 Found", &head, b"")))
    };
    let seeds =
        ["127.0.0.1", "loop.test", "[::ffff:127.0.0.1]"].map(|host| redirect(format!("http://{host}:8099/noise.bin")));
    let urls = seeds.each_ref().map(|seed| seed.url("/noise.bin"));
    let ours = ["http://127.0.0.1:8099/noise.bin?reboot=1", "http://loop.test:8099/noise.bin?reboot=1"];
    let urls: Vec<&str> = urls.iter().map(String::as_str).chain(ours).collect();
    let led = mount(&urls);
    let failed = std::fs::read(led.path("noise.bin")).expect_err("nobody gives it");
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    wait_until(LIMIT, "all of them are refused", || {
        led.log().matches("refused: it leads to an address of this machine").count() >= 5
    });
    assert!(seeds.iter().all(|seed| !seed.seen().is_empty()), "they were asked");
    trap.is_empty("a web seed");

    let bytes = content.bytes.clone();
    let good = Tracker::start([203, 0, 113, 2].into(), move |_, _| Action::Raw(ok(&bytes)));
    let moved = redirect(good.url("/noise.bin"));
    let mount = mount(&[&moved.url("/noise.bin")]);
    assert!(std::fs::read(mount.path("noise.bin")).is_ok_and(|read| read == content.bytes), "{}", mount.log());
    trap.is_empty("the end");
}

#[test]
#[ignore = "needs root and iproute2"]
fn a_tracker_on_the_block_list_is_not_asked() {
    let lab = Lab::enter();
    let tracker = Tracker::start(lab.address().ip(), |_, _| Action::Raw(ok(&reply("", &[]))));
    let list = lab.dir.path().join("list.txt");
    std::fs::write(&list, "10.77.0.0/24\n").expect("a list");
    let file = Torrent::dead("dead", &[("x", 1 << 20)], 64 << 10).write(lab.dir.path(), Some(&tracker.announce()));
    let mut scrape = swarmfs();
    scrape.args(["info", "--scrape"]).arg(&file).arg("--block-list").arg(&list);
    let output = output(&mut scrape, LIMIT);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("refused: its address is on the block list"), "{said}");
    assert_eq!(tracker.seen().len(), 0);
}

/// A tracker tells peers of the family that it is asked over (BEP 7), so one with a name is asked over both.
#[test]
#[ignore = "needs root and iproute2"]
fn a_tracker_with_addresses_of_both_families_is_asked_over_both() {
    let lab = Lab::enter_v6();
    let (six, four) = (lab.address().ip(), IpAddr::from([10, 77, 0, 9]));
    lab.replace("/etc/hosts", &format!("{four} both.test four.test\n{six} both.test\n"));
    // Its threads are of this network.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let peers = ["10.77.0.50:1", "10.77.0.51:2"].map(|peer| peer.parse::<SocketAddr>().expect("an address"));
    let answering = move |n: usize| move |_: &_, _| Action::Raw(ok(&reply("8:intervali60e", &peers[n..=n])));
    let over_four = Tracker::start(four, answering(0));
    let port = over_four.port();
    let over_six = Tracker::start_at((six, port).into(), answering(1));
    let client = spawn(spec(&[&[format!("http://both.test:{port}/announce")]]), 1);
    let mut found = client.peers();
    found.sort();
    assert_eq!(found, peers);
    assert_eq!((over_four.wait_for(1).len(), over_six.wait_for(1).len()), (1, 1));
    // Nothing else is asked twice, and one that is gone takes nothing from the other.
    drop((client, over_six));
    for name in ["four.test", "both.test"] {
        let before = over_four.seen().len();
        let client = spawn(spec(&[&[format!("http://{name}:{port}/announce")]]), 1);
        assert_eq!(client.peers(), peers[..1], "{name}");
        assert_eq!(over_four.seen().len(), before + 1, "{name}");
    }
}
