//! Announces and scrapes over UDP (BEP 15, BEP 41): trackers that answer well, late, badly or not at all (hardening: T6
//! and T7).

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::announcing::{HASH, SHORT, bound, peer, spawn, spec};
use crate::support::dataset::Dataset;
use crate::support::foreign::{OpenTracker, swarmfs_seed};
use crate::support::lab::Lab;
use crate::support::mounts::{mount, mount_at};
use crate::support::process::{Running, output, swarmfs};
use crate::support::reading::assert_same_bytes;
use crate::support::torrent::Torrent;
use crate::support::tracker::Tracker;
use crate::support::udp_tracker::{ANNOUNCE, CONNECT, ERROR, ID, SCRAPE, Seen, Send, UdpTracker, good, head};
use crate::support::{free_address, loopback, wait_until};
use swarmfs::engine::Network;
use swarmfs::engine::discovery::{self, AnnounceSpec, AskError, Deadlines};
use swarmfs::wire::ScrapeEntry;

const SECOND: Duration = Duration::from_secs(1);

/// A free port on an address that no other tracker has had: connection ids of an earlier one would be known there.
fn anywhere() -> SocketAddr {
    SocketAddr::new(loopback(), 0)
}

fn short(tiers: &[&[String]]) -> AnnounceSpec {
    AnnounceSpec { deadlines: SHORT, ..spec(tiers) }
}

fn own(bytes: Vec<u8>) -> Vec<Send> {
    vec![Send::Own(bytes)]
}

fn actions(seen: &[Seen]) -> Vec<u32> {
    seen.iter().map(Seen::action).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracker_sees_started_completed_and_stopped() {
    let tracker = UdpTracker::good(anywhere(), vec![peer(1), peer(2)]);
    let client = spawn(spec(&[&[tracker.url("/announce?passkey=p%26q")]]), 5);
    assert_eq!(client.peers(), [peer(1), peer(2)]);
    let status = client.status(|s| s[0].answered.is_some());
    assert_eq!((status[0].seeds, status[0].leechers, status[0].peers), (Some(4), Some(3), 2));
    assert_eq!(status[0].error, None);
    let rest = client.status(|s| s[0].next.is_some())[0].next.expect("next") - status[0].answered.expect("answered");
    assert_eq!(rest, SECOND * 1800);

    client.left.store(0, Ordering::SeqCst);
    client.announcer.completed();
    client.peers();
    client.announcer.stop().await;

    let seen = tracker.seen();
    assert_eq!(actions(&seen), [CONNECT, ANNOUNCE, ANNOUNCE, ANNOUNCE], "the connection id is used again");
    assert_eq!((seen[0].connection(), seen[0].bytes.len()), (0x0417_2710_1980, 16));
    let announces = &seen[1..];
    assert_eq!(announces.iter().map(Seen::event).collect::<Vec<_>>(), [2, 1, 3]);
    for announce in announces {
        assert_eq!(announce.connection(), ID);
        assert_eq!(announce.bytes[16..36], HASH);
        assert_eq!(&announce.bytes[36..56], b"-SF0010-abcdefghijkl");
        assert_eq!((announce.u64(56), announce.u64(72)), (11, 22), "downloaded and uploaded");
        assert_eq!((announce.u32(84), announce.u32(88), announce.u16(96)), (0, 0x5EED, 6881), "address, key, port");
        // BEP 41.
        assert_eq!(announce.bytes[98..100], [2, 23]);
        assert_eq!(&announce.bytes[100..], b"/announce?passkey=p%26q");
    }
    let of = |at| announces.iter().map(|a| a.u32(at)).collect::<Vec<_>>();
    assert_eq!(announces.iter().map(|a| a.u64(64)).collect::<Vec<_>>(), [5, 0, 0], "left");
    assert_eq!(of(92), [200, 200, 0], "numwant");
    let mut numbers: Vec<u32> = seen.iter().map(Seen::transaction).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 4, "every request has a number of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_trackers_own_reply_to_this_request_counts() {
    // T6: wrong transaction, wrong source, short, wrong action; then the right one.
    let tracker = UdpTracker::start(anywhere(), |seen, _| {
        let right = match seen.action() {
            CONNECT => seen.connected(ID),
            _ => seen.peers(&[peer(1)]),
        };
        let other = seen.transaction() ^ 0x8000_0000;
        let mut sends = vec![
            Send::Own(head(seen.action(), other, &right[8..])),
            Send::Own(head(ERROR, other, b"not for you")),
            Send::Stranger(seen.connected(666)),
            Send::Stranger(seen.peers(&[peer(66)])),
            Send::Stranger(seen.reply(ERROR, b"a stranger's word")),
            Send::Own(seen.reply(SCRAPE, &[0; 12])),
            Send::Own(seen.reply(7, &[0; 20])),
            Send::Own(if seen.action() == CONNECT { seen.peers(&[peer(66)]) } else { seen.connected(666) }),
        ];
        sends.extend((0..if seen.action() == CONNECT { 16 } else { 20 }).map(|n| Send::Own(right[..n].to_vec())));
        sends.push(Send::Own(right));
        sends
    });
    let client = spawn(spec(&[&[tracker.url("")]]), 5);
    assert_eq!(client.peers(), [peer(1)]);
    let seen = tracker.seen();
    assert_eq!(actions(&seen), [CONNECT, ANNOUNCE], "nothing was asked twice");
    assert_eq!((seen[1].connection(), seen[1].bytes.len()), (ID, 98), "the URL has no path");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_id_that_the_tracker_has_forgotten_is_renewed() {
    // T6.
    let tracker = UdpTracker::start(anywhere(), |seen, before| match (seen.action(), seen.connection()) {
        (CONNECT, _) if before == 0 => own(seen.connected(1)),
        (CONNECT, _) => own(seen.connected(2)),
        (_, 1) if before > 1 => own(seen.reply(ERROR, b"Connection ID mismatch.")),
        _ => own(seen.peers(&[peer(u8::try_from(before).expect("few"))])),
    });
    let client = spawn(spec(&[&[tracker.url("/announce")]]), 5);
    assert_eq!(client.peers(), [peer(1)]);
    client.announcer.completed();
    assert_eq!(client.peers(), [peer(4)]);
    let seen = tracker.seen();
    assert_eq!(actions(&seen), [CONNECT, ANNOUNCE, ANNOUNCE, CONNECT, ANNOUNCE]);
    assert_eq!(seen.iter().skip(1).map(|s| s.connection()).collect::<Vec<_>>(), [1, 1, 0x0417_2710_1980, 2]);
    assert_eq!(client.announcer.status()[0].error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_shown_and_the_next_tier_is_used() {
    for stage in [CONNECT, ANNOUNCE] {
        let refusing = UdpTracker::start(anywhere(), move |seen, _| match seen.action() {
            action if action == stage => own(seen.reply(ERROR, b"no such\x1b[31m torrent")),
            _ => own(seen.connected(ID)),
        });
        let tracker = UdpTracker::good(anywhere(), vec![peer(1)]);
        let client = spawn(spec(&[&[refusing.url("")], &[tracker.url("")]]), 5);
        assert_eq!(client.peers(), [peer(1)]);
        assert_eq!(client.error(), "the tracker refuses: no such[31m torrent");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_is_sent_again() {
    // T6.
    for lost in [0, 1] {
        let tracker = UdpTracker::start(anywhere(), move |seen, before| match before {
            n if n == lost => Vec::new(),
            _ => good(seen, &[peer(1)]),
        });
        let client = spawn(short(&[&[tracker.url("/announce")]]), 5);
        assert_eq!(client.peers(), [peer(1)]);
        let seen = tracker.seen();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[lost].bytes, seen[lost + 1].bytes, "the same datagram");
        let waited = seen[lost + 1].at - seen[lost].at;
        // A busy machine is late to look at its clock, and can seem a little early.
        assert!(waited >= SHORT.retry.mul_f64(0.9), "{waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tracker_is_asked_twice_and_rests_a_minute() {
    // T6.
    let silent = UdpTracker::start(anywhere(), |_, _| Vec::new());
    let client = spawn(short(&[&[silent.url("/announce")]]), 5);
    assert_eq!(client.error(), "no answer within 900ms");
    assert_eq!(actions(&silent.seen()), [CONNECT, CONNECT]);
    let status = client.status(|s| s[0].next.is_some());
    let rest = status[0].next.expect("it is asked again") - Instant::now();
    assert!(rest > SECOND * 50 && rest < SECOND * 76, "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tracker_does_not_hold_up_the_next_one() {
    let silent = UdpTracker::start(anywhere(), |_, _| Vec::new());
    let tracker = UdpTracker::good(anywhere(), vec![peer(1)]);
    let client = spawn(spec(&[&[silent.url("/announce")], &[tracker.url("")]]), 5);
    assert_eq!(client.peers(), [peer(1)]);
    assert!(client.announcer.status()[0].announcing, "it has 15 s, and is still being asked");
    assert_eq!(actions(&silent.seen()), [CONNECT]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracker_that_restarts_is_asked_for_a_new_connection_id() {
    // It forgets its first id, and says nothing to those who come with it.
    let tracker = UdpTracker::start(anywhere(), |seen, before| match (seen.action(), seen.connection()) {
        (CONNECT, _) => own(seen.connected(if before == 0 { 1 } else { 2 })),
        (_, 1) if before > 1 => Vec::new(),
        _ => own(seen.peers(&[peer(1)])),
    });
    let client = spawn(short(&[&[tracker.url("/announce")]]), 5);
    client.peers();
    client.announcer.completed();
    client.peers();
    assert_eq!(actions(&tracker.seen()), [CONNECT, ANNOUNCE, ANNOUNCE, CONNECT, ANNOUNCE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_listens_the_announce_fails_at_once() {
    let closed = UdpSocket::bind(anywhere()).expect("a port").local_addr().expect("an address");
    let begun = Instant::now();
    let client = spawn(spec(&[&[format!("udp://{closed}/announce")]]), 5);
    let error = client.error();
    assert!(error.to_lowercase().contains("refused"), "{error}");
    assert!(begun.elapsed() < SECOND * 10, "long before the 15 s of silence");
    let status = client.status(|s| s[0].next.is_some());
    assert!(status[0].next.expect("it is asked again") - Instant::now() < SECOND * 13, "as over HTTP");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_peers_are_left_out_and_a_thousand_are_enough() {
    // T7.
    let tracker = UdpTracker::start(anywhere(), |seen, _| match seen.action() {
        CONNECT => own(seen.connected(ID)),
        _ => {
            let mut bytes = seen.peers(&[peer(1), SocketAddr::from(([10, 0, 0, 2], 0)), peer(3)]);
            bytes.extend([10, 0, 0, 4, 1]);
            own(bytes)
        }
    });
    assert_eq!(spawn(spec(&[&[tracker.url("")]]), 5).peers(), [peer(1), peer(3)]);
    let many = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a00_0001 + n), 7));
    let tracker = UdpTracker::good(anywhere(), (0..5_000).map(many).collect());
    let peers = spawn(spec(&[&[tracker.url("")]]), 5).peers();
    assert_eq!(peers, (0..1_000).map(many).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracker_on_ipv6_gives_ipv6_peers() {
    let there: SocketAddr = "[2001:db8::7]:7000".parse().expect("an address");
    let tracker = UdpTracker::good(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0), vec![there]);
    assert!(tracker.url("").starts_with("udp://[::1]:"));
    let client = spawn(spec(&[&[tracker.url("/announce")]]), 5);
    assert_eq!(client.peers(), [there]);
    // Who listens on IPv4 alone is of no use there, and says so.
    let client = spawn(AnnounceSpec { network: bound(loopback()), ..spec(&[&[tracker.url("/announce")]]) }, 5);
    assert_eq!(client.error(), "refused: it has no address of the family that we listen on");
}

/// A tracker on every address that localhost has, all with one port.
fn on_localhost(start: impl Fn(SocketAddr) -> UdpTracker) -> Vec<UdpTracker> {
    let addrs: Vec<SocketAddr> = ("localhost", 0).to_socket_addrs().expect("localhost").collect();
    let first = start(addrs[0]);
    let others = addrs[1..].iter().filter(|addr| addr.ip() != addrs[0].ip());
    let port = first.addr().port();
    let others: Vec<_> = others.map(|addr| start(SocketAddr::new(addr.ip(), port))).collect();
    std::iter::once(first).chain(others).collect()
}

fn of_family(ip: IpAddr) -> SocketAddr {
    if ip.is_ipv4() { peer(1) } else { "[2001:db8::7]:7000".parse().expect("an address") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_announced_to_over_every_family_that_it_has() {
    let trackers = on_localhost(|at| UdpTracker::good(at, vec![of_family(at.ip())]));
    let url = format!("udp://localhost:{}/announce", trackers[0].addr().port());
    let client = spawn(spec(&[&[url]]), 5);
    let mut expected: Vec<_> = trackers.iter().map(|t| of_family(t.addr().ip())).collect();
    expected.sort_unstable();
    assert_eq!(client.peers(), expected, "on {} families", trackers.len());
    client.announcer.stop().await;
    for tracker in &trackers {
        assert_eq!(tracker.seen().last().map(Seen::event), Some(3), "both are told `stopped`");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_cannot_send_datagrams_to_what_is_no_host() {
    for url in [
        "udp://169.254.169.254:80/announce",
        "udp://[::ffff:169.254.169.254]:80/announce",
        "udp://2852039166:80/announce",
        "udp://224.0.0.251:5353/announce",
        "udp://255.255.255.255:6969/announce",
        "udp://[ff02::fb]:5353/announce",
    ] {
        let client = spawn(spec(&[&[url.to_owned()]]), 5);
        let error = client.error();
        assert_eq!(
            error, "refused: it leads to an address of this machine or network that is not allowed there",
            "{url}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_address_is_the_one_that_asks() {
    let tracker = UdpTracker::good(anywhere(), vec![peer(1)]);
    let bind = loopback();
    let client = spawn(AnnounceSpec { network: bound(bind), ..spec(&[&[tracker.url("")]]) }, 5);
    client.peers();
    assert!(tracker.seen().iter().all(|seen| seen.from.ip() == bind));
    // A connection id is good for the address that got it.
    spawn(spec(&[&[tracker.url("")]]), 5).peers();
    assert_eq!(actions(&tracker.seen()), [CONNECT, ANNOUNCE, CONNECT, ANNOUNCE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_is_sent_again_and_yet_ends_in_time() {
    let tracker = UdpTracker::start(anywhere(), |seen, _| match seen.action() {
        ANNOUNCE if seen.event() == 3 => Vec::new(),
        _ => good(seen, &[peer(1)]),
    });
    let client = spawn(spec(&[&[tracker.url("")]]), 5);
    client.peers();
    let begun = Instant::now();
    client.announcer.stop().await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(2900) && took < Duration::from_millis(4500), "{took:?}");
    // The announce, then (the id may be the reason for the silence) a connect request and the announce again.
    let seen = tracker.seen();
    assert_eq!(actions(&seen), [CONNECT, ANNOUNCE, ANNOUNCE, CONNECT, ANNOUNCE]);
    assert_eq!((seen[2].event(), seen[4].event()), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrapes_are_answered_over_udp_and_http() {
    let hashes: Vec<[u8; 20]> = (0..80).map(|n| [n; 20]).collect();
    let figures = ScrapeEntry { complete: 4, downloaded: 50, incomplete: 3 };
    let tracker = UdpTracker::good(anywhere(), Vec::new());
    let entries = discovery::scrape(&tracker.url("/x"), &hashes, &Network::default(), SHORT).await.expect("figures");
    assert_eq!(entries, vec![figures; 80]);
    let seen = tracker.seen();
    assert_eq!(actions(&seen), [CONNECT, SCRAPE, SCRAPE]);
    assert_eq!((seen[1].bytes.len(), seen[2].bytes.len()), (16 + 20 * 74, 16 + 20 * 6));
    assert_eq!(seen[2].bytes[16..36], hashes[74]);

    let mut body = b"d5:filesd20:".to_vec();
    body.extend(HASH);
    body.extend_from_slice(b"d8:completei4e10:downloadedi50e10:incompletei3eeee");
    let tracker = Tracker::answering(body);
    let entries =
        discovery::scrape(&tracker.url("/announce?k=v"), &[HASH], &Network::default(), SHORT).await.expect("figures");
    assert_eq!(entries, [figures]);
    let target = &tracker.seen()[0].target;
    assert!(target.starts_with("/scrape?k=v&info_hash=%00%01%20%25"), "{target}");

    // What cannot be scraped says so.
    let silent = UdpTracker::start(anywhere(), |_, _| Vec::new());
    let end = discovery::scrape(&silent.url(""), &[HASH], &Network::default(), SHORT).await;
    assert!(matches!(end, Err(AskError::Silent(_))), "{end:?}");
    let refusing = Tracker::answering(b"d14:failure reason2:noe".to_vec());
    for (url, why) in [
        (refusing.announce(), "the tracker refuses: no"),
        (Tracker::answering(b"d5:peers0:e".to_vec()).announce(), "the reply holds no figures of torrents"),
        (refusing.url("/announce/x"), "refused: its URL does not end in announce, so it says nowhere to scrape"),
        (refusing.url("/x/announce"), "refused: it leads to an address of this machine"),
        ("wss://t.example".to_owned(), "refused: WebTorrent trackers are not built yet"),
    ] {
        let error = discovery::scrape(&url, &[HASH], &Network::default(), Deadlines::default())
            .await
            .expect_err(why)
            .to_string();
        assert!(error.starts_with(why) || error.to_lowercase().contains("connection refused"), "{url}: {error}");
    }
}

/// A .torrent file with these trackers, a tier each.
fn torrent_with(dir: &Path, torrent: &Torrent, trackers: &[&str]) -> PathBuf {
    let tiers: String = trackers.iter().map(|url| format!("l{}:{url}e", url.len())).collect();
    let bytes = [format!("d13:announce-listl{tiers}e4:info").as_bytes(), &torrent.info, b"e"].concat();
    let path = dir.join(format!("{}-{}.torrent", &torrent.hex()[..8], trackers.len()));
    std::fs::write(&path, bytes).expect("a .torrent file");
    path
}

#[test]
fn info_tells_what_trackers_say_and_fails_if_none_says_anything() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = Torrent::dead("dead", &[("a", 100_000)], 32 << 10);
    let tracker = UdpTracker::good(anywhere(), Vec::new());
    let closed = format!("udp://{}", UdpSocket::bind(anywhere()).and_then(|s| s.local_addr()).expect("a port"));
    let url = tracker.url("/announce");
    let both = torrent_with(dir.path(), &torrent, &[&closed, &url]);
    let info = |args: &[&str], file: &Path| output(swarmfs().arg("info").args(args).arg(file), SECOND * 60);

    let text = info(&["--scrape"], &both);
    assert!(text.status.success(), "{text:?}");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("scrape        ")).collect();
    assert_eq!(lines[1], format!("{url}: seeds 4, leechers 3, completed 50"));
    assert!(lines[0].starts_with(&closed) && lines[0].to_lowercase().contains("refused"), "{text}");

    let json = info(&["--scrape", "--json"], &both);
    assert!(json.status.success(), "{json:?}");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let figures = serde_json::json!({"tracker": url, "seeds": 4, "leechers": 3, "completed": 50});
    assert_eq!((&json["name"], &json["scrape"][1]), (&"dead".into(), &figures));
    assert!(json["scrape"][0]["error"].is_string() && json["scrape"][0]["tracker"] == closed.as_str(), "{json}");
    let asked = tracker.seen().into_iter().filter(|seen| seen.action() == SCRAPE).map(|seen| seen.bytes[16..].to_vec());
    assert_eq!(asked.collect::<Vec<_>>(), [torrent.info_hash, torrent.info_hash]);

    let plain = info(&["--json"], &both);
    let plain: serde_json::Value = serde_json::from_slice(&plain.stdout).expect("JSON");
    assert_eq!(plain.get("scrape"), None, "only if asked for");

    for (file, why) in [
        (torrent_with(dir.path(), &torrent, &[&closed]), "none of its trackers answers"),
        (torrent.write(dir.path(), None), "it names no tracker"),
    ] {
        let none = info(&["--scrape"], &file);
        assert_eq!(none.status.code(), Some(1), "{none:?}");
        assert!(String::from_utf8_lossy(&none.stderr).contains(why), "{none:?}");
        assert!(String::from_utf8_lossy(&none.stdout).contains("dead"), "what is in the torrent is told all the same");
    }
}

/// A tracker that knows who has announced, and tells everybody of the others.
fn registering() -> UdpTracker {
    let known: Mutex<Vec<SocketAddr>> = Mutex::default();
    UdpTracker::start(anywhere(), move |seen, _| {
        let mut known = known.lock().expect("not poisoned");
        let others = if seen.action() == ANNOUNCE {
            let asker = SocketAddr::new(seen.from.ip(), seen.u16(96));
            known.retain(|peer| *peer != asker);
            let others = known.clone();
            if seen.event() != 3 {
                known.push(asker);
            }
            others
        } else {
            Vec::new()
        };
        good(seen, &others)
    })
}

#[test]
fn a_mount_learns_its_seed_from_a_udp_tracker() {
    let dataset = Dataset::small();
    let dir = tempfile::tempdir().expect("a directory");
    let tracker = registering();
    let torrent = Torrent::of(&dataset, 128 << 10).write(dir.path(), Some(&tracker.url("/announce")));
    let mut command = swarmfs();
    command.arg("seed").arg(&torrent).arg("--data").arg(&dataset.parent).args(["--no-dht", "--no-lsd"]);
    command.args(["--listen", &free_address().to_string()]);
    let _seed = Running::spawn("swarmfs seed", command, &dir.path().join("seed.log"), SECOND * 120);
    // It must be known before the mount asks, as the next announce is half an hour away.
    wait_until(SECOND * 30, "the seed has announced", || tracker.seen().iter().any(|s| s.action() == ANNOUNCE));
    let mut mount = mount(&[&torrent]).start();
    assert_same_bytes(&dataset, &mount.path(&dataset.name));
    let (status, took) = mount.terminate(SECOND * 5);
    assert!(status.success(), "{status} after {took:?}");
    let seen = tracker.seen();
    let told = |port: u16| -> Vec<u32> {
        seen.iter().filter(|s| s.action() == ANNOUNCE && s.u16(96) == port).map(Seen::event).collect()
    };
    let events = told(mount.address.port());
    assert_eq!((events.first(), events.last()), (Some(&2), Some(&3)), "{events:?}");
}

/// Debian's opentracker speaks IPv4 only, so this is IPv4 only.
#[test]
#[ignore = "needs root, iproute2 and opentracker"]
fn a_mount_and_a_seed_find_each_other_through_opentracker() {
    let dataset = Dataset::small();
    let lab = Lab::enter();
    let torrent = Torrent::of(&dataset, 128 << 10);
    let tracker = OpenTracker::start(&lab, &[&torrent]);
    let udp = format!("udp://{}/announce", tracker.address);
    for (n, url) in [udp, tracker.url()].iter().enumerate() {
        let file = torrent.write(&lab.subdir(&n.to_string()), Some(url));
        let (mut seed, _) = swarmfs_seed(&lab, &file, &dataset.parent);
        tracker.wait_for_seeds(&torrent, 1);
        let mut mount = mount_at(&[&file], lab.address()).start();
        assert_same_bytes(&dataset, &mount.path(&dataset.name));
        // All of it was read, and the mount has said `completed`.
        wait_until(SECOND * 10, "the mount is a seed", || tracker.scrape(&torrent) == Some((2, 0)));
        let scraped = output(swarmfs().args(["info", "--scrape"]).arg(&file), SECOND * 60);
        let text = String::from_utf8_lossy(&scraped.stdout).into_owned();
        assert!(scraped.status.success(), "{scraped:?}");
        assert!(text.contains(&format!("{url}: seeds 2, leechers 0, completed {}", n + 1)), "{text}");
        let (status, _) = mount.terminate(SECOND * 5);
        assert!(status.success(), "{url}: {status}");
        seed.signal(rustix::process::Signal::TERM);
        assert!(seed.wait(SECOND * 5).is_some_and(|(status, _)| status.success()), "{url}: {}", seed.log());
        // Both have said `stopped`, and opentracker has understood.
        wait_until(SECOND * 5, "opentracker knows nobody any more", || tracker.scrape(&torrent) == Some((0, 0)));
    }
}
