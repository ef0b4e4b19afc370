//! Announces against trackers that answer well, badly or not at all (hardening: T1 to T5 and T7).

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::announcing::{HASH, SHORT, bound, peer, spawn, spawn_with, spec};
use crate::support::tracker::{Action, Tracker, answer, gzip, gzip_bomb, ok, reply};
use swarmfs::engine::discovery::{AnnounceSpec, Progress};
use swarmfs::wire::PeerId;

fn good() -> Tracker {
    Tracker::answering(reply("8:intervali1800e", &[peer(1)]))
}

/// A hostile tracker in the first tier, a good one in the second: the error is shown, the good one used.
async fn hostile_then_good(hostile: &Tracker, what: &str) -> String {
    let good = good();
    let deadlines = SHORT;
    let client = spawn(AnnounceSpec { deadlines, ..spec(&[&[hostile.announce()], &[good.announce()]]) }, 5);
    assert_eq!(client.peers(), [peer(1)], "{what}");
    let error = client.error();
    let status = client.status(|s| s[0].next.is_some());
    assert_eq!((status[1].error.as_deref(), status[1].peers), (None, 1), "{what}");
    let rest = status[0].next.expect("it is asked again") - Instant::now();
    assert!(rest > Duration::from_secs(5), "{what}: it rests, {rest:?}");
    client.announcer.stop().await;
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracker_sees_started_completed_and_stopped() {
    let body = reply("8:completei4e10:incompletei3e8:intervali1800e10:tracker id3:x&y", &[peer(1), peer(2)]);
    let tracker = Tracker::answering(body);
    let client = spawn(spec(&[&[tracker.url("/announce?passkey=p%26q")]]), 5);
    assert_eq!(client.peers(), [peer(1), peer(2)]);
    let status = client.status(|s| s[0].answered.is_some());
    assert_eq!((status[0].seeds, status[0].leechers, status[0].peers), (Some(4), Some(3), 2));
    assert_eq!(status[0].error, None);

    client.left.store(0, Ordering::SeqCst);
    client.announcer.completed();
    client.announcer.completed();
    tracker.wait_for(2);
    client.peers();
    client.announcer.completed();
    client.announcer.stop().await;

    let seen = tracker.seen();
    let events: Vec<_> = seen.iter().map(|s| s.text("event")).collect();
    assert_eq!(events, [Some("started"), Some("completed"), Some("stopped")]);
    for request in &seen {
        assert_eq!(request.query["info_hash"], HASH);
        assert_eq!(request.text("peer_id"), Some("-SF0010-abcdefghijkl"));
        assert_eq!(request.text("passkey"), Some("p&q"));
        assert_eq!((request.text("port"), request.text("compact")), (Some("6881"), Some("1")));
        assert_eq!((request.text("downloaded"), request.text("uploaded")), (Some("11"), Some("22")));
        assert_eq!(request.text("key"), Some("00005eed"));
    }
    let of = |key| seen.iter().map(|s| s.text(key)).collect::<Vec<_>>();
    assert_eq!(of("left"), [Some("5"), Some("0"), Some("0")]);
    assert_eq!(of("numwant"), [Some("200"), Some("200"), Some("0")]);
    assert_eq!(of("trackerid"), [None, Some("x&y"), Some("x&y")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_from_the_start_is_never_completed() {
    let tracker = good();
    let client = spawn(spec(&[&[tracker.announce()]]), 0);
    client.peers();
    client.announcer.completed();
    client.announcer.stop().await;
    let events: Vec<_> = tracker.seen().iter().map(|s| s.text("event").map(str::to_owned)).collect();
    assert_eq!(events, [Some("started".to_owned()), Some("stopped".to_owned())]);
}

/// BEP 21. It comes with what would have no event, and takes the place of none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_seed_says_paused() {
    let tracker = Tracker::answering(reply("8:intervali1800e12:min intervali5e", &[peer(1)]));
    let progress = Progress { left: 5, partial_seed: true, ..Progress::default() };
    let client = spawn_with(spec(&[&[tracker.announce()]]), progress);
    client.peers();
    client.announcer.want_peers();
    client.peers();
    client.announcer.stop().await;
    let events: Vec<_> = tracker.seen().iter().map(|s| s.text("event").map(str::to_owned)).collect();
    assert_eq!(events, ["started", "paused", "stopped"].map(|event| Some(event.to_owned())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_no_reply_are_shown_and_the_next_tier_is_used() {
    // T1.
    let gzipped = |body: &[u8]| answer("200 OK", "Content-Encoding: gzip\r\n", body);
    let whole = gzip(&reply("", &[peer(9)]));
    let bencode = "not a bencoded dictionary";
    for (what, raw, shown) in [
        ("HTML", ok(b"<html><body>Welcome</body></html>"), bencode),
        ("empty", ok(b""), "the reply is empty"),
        ("random", ok(&[0x9C, 0x00, 0xFF, 0x64, 0x31, 0x3A]), bencode),
        ("nested lists", ok(&b"l".repeat(20_000)), bencode),
        ("a failure", ok(b"d14:failure reason7:no\x1b[31me"), "the tracker refuses: no[31m"),
        ("truncated gzip", gzipped(&whole[..whole.len() - 12]), ""),
        ("gzip of nothing", gzipped(b"nothing"), ""),
        ("a gzip bomb", gzipped(&gzip_bomb(65_000)), "longer than 1 MiB"),
        ("a failure with a status", answer("403 Forbidden", "", b"d14:failure reason6:bannede"), "refuses: banned"),
    ] {
        let hostile = Tracker::start([127, 0, 0, 1].into(), move |_, _| Action::Raw(raw.clone()));
        let error = hostile_then_good(&hostile, what).await;
        assert!(error.contains(shown), "{what}: {error}");
    }
    // The good counterpart of the gzip ones.
    let tracker = Tracker::start([127, 0, 0, 1].into(), move |_, _| Action::Raw(gzipped(&whole)));
    assert_eq!(spawn(spec(&[&[tracker.announce()]]), 5).peers(), [peer(9)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_and_broken_http_are_shown_and_the_next_tier_is_used() {
    // T2, and the negative chunk size of CVE-2016-5301.
    let negative = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-89abc9abcdef\r\n\xd6\r\nT\xbd\r\n\r\n";
    let foreign = b"HoTP/1.1 200 OK\r\nCont-Length: 20\r\nTransfer-Encoding: chunked\r\n\r\r\n\r\n\n-89abc9abcdef\r\n";
    for (what, raw, shown) in [
        ("500", answer("500 Internal Server Error", "", b"d5:peers0:e"), "HTTP status 500"),
        ("404", answer("404 Not Found", "", b"gone"), "HTTP status 404"),
        ("302 to nowhere", answer("302 Found", "", b""), "HTTP status 302"),
        ("closed at once", Vec::new(), ""),
        ("a short body", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nd5:peers0:e".to_vec(), ""),
        ("a negative chunk", negative.to_vec(), ""),
        ("another protocol", foreign.to_vec(), ""),
    ] {
        let hostile = Tracker::start([127, 0, 0, 1].into(), move |_, _| Action::Raw(raw.clone()));
        let error = hostile_then_good(&hostile, what).await;
        assert!(error.contains(shown) && !error.contains("info_hash"), "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_followed_five_times_and_never_inwards() {
    // T2.
    let redirect = |to: String| Action::Raw(answer("302 Found", &format!("Location: {to}\r\n"), b""));
    let looping = Tracker::start([127, 0, 0, 1].into(), move |seen, _| redirect(seen.target.clone()));
    assert_eq!(hostile_then_good(&looping, "a loop").await, "it redirects more than 5 times");
    assert_eq!(looping.seen().len(), 6);

    for target in [
        "http://169.254.169.254/announce",
        "http://[::ffff:169.254.169.254]/announce",
        "http://127.0.0.1:1/shutdown",
        "http://localhost:1/shutdown",
        "http://2130706433/shutdown",
    ] {
        let sly = Tracker::start([127, 0, 0, 1].into(), move |_, _| redirect(target.to_owned()));
        let error = hostile_then_good(&sly, target).await;
        assert!(error.starts_with("refused: it leads to an address of this machine"), "{target}: {error}");
    }
    for target in ["file:///etc/passwd", "ftp://127.0.0.1/announce", "http://xn--80ak6aa92e.com/announce"] {
        let sly = Tracker::start([127, 0, 0, 1].into(), move |_, _| redirect(target.to_owned()));
        let error = hostile_then_good(&sly, target).await;
        assert!(error.starts_with("refused: "), "{target}: {error}");
    }

    let good = good();
    let to = good.url("/announce?moved=1");
    let moved = Tracker::start([127, 0, 0, 1].into(), move |_, _| redirect(to.clone()));
    let client = spawn(spec(&[&[moved.announce()]]), 5);
    assert_eq!(client.peers(), [peer(1)]);
    assert_eq!(good.seen()[0].text("moved"), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_cannot_send_us_to_other_services_of_this_machine() {
    let victim = good();
    let local = "refused: it leads to an address of this machine or network that is not allowed there";
    for url in [
        victim.url("/shutdown"),
        format!("http://localhost:{}/shutdown", victim.port()),
        format!("http://2130706433:{}/shutdown", victim.port()),
        format!("http://[::ffff:127.0.0.1]:{}/shutdown", victim.port()),
    ] {
        let client = spawn(spec(&[std::slice::from_ref(&url)]), 5);
        assert_eq!(client.error(), local, "{url}");
    }
    assert!(victim.seen().is_empty());
    // By name, a tracker of this machine is fine.
    let client = spawn(spec(&[&[format!("http://localhost:{}/announce", victim.port())]]), 5);
    assert_eq!(client.peers(), [peer(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_body_is_cut_at_a_mebibyte() {
    // T3.
    let first = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let again = [&b"4000\r\n"[..], &[b'd'; 0x4000], b"\r\n"].concat();
    let endless = Tracker::start([127, 0, 0, 1].into(), move |_, _| {
        Action::Endless(first.clone(), again.clone(), Duration::ZERO)
    });
    assert_eq!(hostile_then_good(&endless, "endless").await, "its answer is longer than 1 MiB");
    // What the kernel's buffers take besides.
    assert!(endless.sent() < 16 << 20, "{} bytes were taken", endless.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_and_trickles_meet_their_deadlines() {
    // T4.
    let silent = Tracker::start([127, 0, 0, 1].into(), |_, _| Action::Silence);
    assert_eq!(hostile_then_good(&silent, "silence").await, "no answer within 800ms");

    let halting = Tracker::start([127, 0, 0, 1].into(), |_, _| {
        Action::Endless(b"HTTP/1.1 200 OK\r\n\r\nd5:peers".to_vec(), vec![b'x'], Duration::from_secs(3600))
    });
    assert_eq!(hostile_then_good(&halting, "a pause").await, "no answer within 400ms");

    let trickling = Tracker::start([127, 0, 0, 1].into(), |_, _| {
        Action::Endless(b"HTTP/1.1 200 OK\r\n\r\nd5:peers9999:".to_vec(), vec![b'x'], Duration::from_millis(50))
    });
    assert_eq!(hostile_then_good(&trickling, "a trickle").await, "no answer within 1.2s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tracker_does_not_hold_up_the_next_one() {
    let silent = Tracker::start([127, 0, 0, 1].into(), |_, _| Action::Silence);
    let good = good();
    let begun = Instant::now();
    let client = spawn(spec(&[&[silent.announce()], &[good.announce()]]), 5);
    assert_eq!(client.peers(), [peer(1)]);
    assert!(begun.elapsed() < Duration::from_secs(6), "long before the silent one's 10 s");
    assert!(client.announcer.status()[0].announcing, "it is still being asked");
    let begun = Instant::now();
    client.announcer.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "it was not told `started`, so nobody waits for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_ends_in_time_whatever_trackers_do() {
    let tracker = Tracker::start([127, 0, 0, 1].into(), |seen, _| match seen.text("event") {
        Some("started") => Action::Raw(ok(&reply("", &[peer(1)]))),
        _ => Action::Silence,
    });
    let client = spawn(spec(&[&[tracker.announce()]]), 5);
    client.peers();
    let begun = Instant::now();
    client.announcer.stop().await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(2900) && took < Duration::from_millis(3500), "{took:?}");
    assert_eq!(tracker.wait_for(2)[1].text("event"), Some("stopped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intervals_are_bounded() {
    // T5, on a local tracker; the public bounds are the schedule's unit tests.
    for (stated, expected) in [("0", 5), ("-1", 5), ("2147483648", 3600), ("7", 7)] {
        let tracker = Tracker::answering(reply(&format!("8:intervali{stated}e"), &[peer(1)]));
        let client = spawn(spec(&[&[tracker.announce()]]), 5);
        client.peers();
        let status = client.status(|s| s[0].next.is_some() && s[0].answered.is_some());
        let rest = status[0].next.expect("next") - status[0].answered.expect("answered");
        assert_eq!(rest, Duration::from_secs(expected), "{stated}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wanted_peers_come_at_the_min_interval() {
    let tracker = Tracker::answering(reply("8:intervali1800e12:min intervali5e", &[peer(1)]));
    let client = spawn(spec(&[&[tracker.announce()]]), 5);
    client.peers();
    let answered = client.status(|s| s[0].answered.is_some())[0].answered.expect("answered");
    client.announcer.want_peers();
    client.peers();
    let again = client.status(|s| s[0].answered > Some(answered))[0].answered.expect("answered");
    let pause = again - answered;
    assert!(pause >= Duration::from_secs(5) && pause < Duration::from_secs(7), "{pause:?}");
    assert_eq!(tracker.seen()[1].text("event"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_shown_and_passed_over() {
    let good = good();
    let tiers: [&[String]; 3] = [
        &["udp://127.0.0.1/announce".to_owned()],
        &["wss://127.0.0.1:9".to_owned(), "nonsense".to_owned()],
        &[good.announce(), "wss://127.0.0.1:9".to_owned()],
    ];
    let client = spawn(spec(&tiers), 5);
    assert_eq!(client.peers(), [peer(1)]);
    let status = client.announcer.status();
    let errors: Vec<_> = status.iter().map(|s| s.error.as_deref()).collect();
    assert_eq!(
        errors,
        [Some("it names no port"), Some("WebTorrent trackers are not built yet"), Some("it is not a URL"), None],
        "and the repeated one counts once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_ports_that_lead_nowhere_are_passed_over() {
    // T4: NXDOMAIN, and a closed port.
    let closed = good();
    let url = closed.announce();
    drop(closed);
    let good = good();
    let nowhere = "http://no-such-host.invalid/announce".to_owned();
    let client = spawn(spec(&[&[nowhere], &[url], &[good.announce()]]), 5);
    assert_eq!(client.peers(), [peer(1)]);
    let status = client.status(|s| s[0].error.is_some());
    assert!(status[1].error.as_deref().is_some_and(|e| e.to_lowercase().contains("refused")), "{status:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_address_is_the_one_that_connects() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/announce", listener.local_addr().expect("an address"));
    let client = spawn(AnnounceSpec { network: bound([127, 0, 0, 77].into()), ..spec(&[&[url]]) }, 5);
    let (_stream, from) = listener.accept().expect("a connection");
    assert_eq!(from.ip(), std::net::IpAddr::from([127, 0, 0, 77]));
    drop(client);
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs opentracker, and root for its chroot"]
async fn opentracker_brings_two_peers_together() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("readable to nobody");
    // Debian's build serves what its white list names; the list's lines are the info-hashes.
    let hex: String = HASH.iter().map(|b| format!("{b:02X}")).collect();
    std::fs::write(dir.path().join("wl.txt"), format!("{hex}\n")).expect("a white list");
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("an address").port().to_string()
    };
    let dir_name = dir.path().to_str().expect("a plain path");
    let _tracker = Running(
        Command::new("opentracker")
            .args(["-i", "127.0.0.1", "-p", &port, "-P", &port, "-d", dir_name, "-u", "nobody", "-w", "/wl.txt"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("opentracker"),
    );
    let url = format!("http://127.0.0.1:{port}/announce");
    let until = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port.parse().expect("a port"))).is_err() {
        assert!(Instant::now() < until, "opentracker does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    let with =
        |id: u8, port: u16| AnnounceSpec { peer_id: PeerId([id; 20]), port, ..spec(&[std::slice::from_ref(&url)]) };
    let first = spawn(with(b'1', 7001), 0);
    first.status(|s| s[0].answered.is_some());
    let second = spawn(with(b'2', 7002), 5);
    let found = second.peers();
    assert!(found.contains(&SocketAddr::from(([127, 0, 0, 1], 7001))), "{found:?}");
    let status = second.status(|s| s[0].answered.is_some());
    assert_eq!((status[0].seeds, status[0].leechers, status[0].error.as_deref()), (Some(1), Some(1), None));
    first.announcer.stop().await;
    let third = spawn(with(b'3', 7003), 5);
    let found = third.peers();
    assert!(!found.contains(&SocketAddr::from(([127, 0, 0, 1], 7001))), "the first one has stopped: {found:?}");
    assert!(found.contains(&SocketAddr::from(([127, 0, 0, 1], 7002))), "{found:?}");
}
