//! Peers from the DHT alone: the crate's own network of nodes on the loopback.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainline::Testnet;

use crate::support::mounts::{MountCommand, mount};
use crate::support::process::{Running, swarmfs};
use crate::support::torrent::Content;
use crate::support::{MIB, free_address, holds_within, wait_until};

/// A mount that knows no peer but from the DHT.
fn mount_by_dht(file: &Path, entry: &str) -> MountCommand {
    mount(&[file]).without(&["--no-lsd", "--no-pex"]).args(&["--dht-bootstrap", entry, "--read-timeout", "100s"])
}

#[test]
fn a_mount_finds_its_peers_in_the_dht_and_keeps_its_nodes_for_the_next_time() {
    let testnet = Testnet::builder(5).build().expect("a DHT");
    let content = Arc::new(Content::noise("film.mkv", 3 * MIB + 7, 64 << 10, 8));
    let dir = tempfile::tempdir().expect("a directory");
    let (file, data) = (content.torrent.write(dir.path(), None), dir.path().join("data"));
    std::fs::create_dir(&data).expect("a directory");
    std::fs::write(data.join("film.mkv"), &content.bytes).expect("the copy");
    let mut command = swarmfs();
    command.arg("seed").arg(&file).arg("--data").arg(&data).args(["--listen", &free_address().to_string()]);
    command.args(["--no-lsd", "--no-pex", "-v", "-v", "--dht-bootstrap", &testnet.bootstrap[0]]);
    command.env("XDG_STATE_HOME", dir.path().join("seed"));
    let seed = Running::spawn("swarmfs seed", command, &dir.path().join("seed.log"), Duration::from_secs(200));
    wait_until(Duration::from_secs(60), "the seed has announced itself", || {
        seed.log().contains("asked the DHT and announced")
    });

    let state = dir.path().join("state");
    let start = |entry: &str| mount_by_dht(&file, entry).state(&state).start();
    let mut first = start(&testnet.bootstrap[1]);
    assert!(std::fs::read(first.path("film.mkv")).expect("a read") == content.bytes);
    first.terminate(Duration::from_secs(10));
    let kept = std::fs::read_to_string(state.join("swarmfs/dht-nodes")).expect("the nodes that it knew");
    assert!(kept.lines().count() >= 4 && kept.lines().all(|node| node.parse::<SocketAddr>().is_ok()), "{kept}");

    // Nobody is at the place where it would enter.
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("an address");
    let second = start(&nobody.to_string());
    assert!(std::fs::read(second.path("film.mkv")).expect("a read") == content.bytes);
}

#[test]
fn a_dht_that_nobody_answers_for_is_said_once_and_holds_nothing_up() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let entry = silent.local_addr().expect("its address").to_string();
    let content = Content::noise("film.mkv", MIB, 64 << 10, 8);
    let dir = tempfile::tempdir().expect("a directory");
    let mut mount = mount_by_dht(&content.torrent.write(dir.path(), None), &entry).start();
    wait_until(Duration::from_secs(60), "it is said", || mount.log().contains("no node of the DHT answers"));
    silent.set_nonblocking(true).expect("a socket");
    let count = || std::iter::from_fn(|| silent.recv(&mut [0; 2048]).ok()).count();
    let asked = count();
    assert!((2..=200).contains(&asked), "{asked} datagrams in half a minute");
    assert!(!holds_within(Duration::from_secs(20), || count() > 0), "and none while it rests");
    let log = mount.log();
    assert_eq!(log.matches("DHT").count(), 1, "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    let (status, took) = mount.terminate(Duration::from_secs(10));
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
}

/// Datagrams that are no messages, nested as deep as a datagram can be among them, and then one that is.
#[test]
fn a_node_of_the_dht_survives_what_strangers_send() {
    let testnet = Testnet::builder(1).build().expect("a node");
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.connect(&testnet.bootstrap[0]).expect("its address");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let deep = |open: &str| open.repeat(2048 / open.len()).into_bytes();
    let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t4:aaaa1:y1:qe";
    let mut hostile = vec![deep("l"), deep("d1:a"), deep("d1:al"), vec![0xff; 2048], Vec::new(), b"i5e".to_vec()];
    hostile.push([b"d1:a".as_slice(), &deep("l")[..2000], b"1:q4:ping1:t4:aaaa1:y1:qe"].concat());
    hostile.extend((0..ping.len()).map(|cut| ping[..cut].to_vec()));
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/corpus/vectors/dht_krpc.tsv");
    match std::fs::read_to_string(&vectors) {
        Ok(rows) => hostile.extend(rows.lines().skip(1).filter_map(|row| {
            let hex = row.split('\t').nth(1)?.as_bytes();
            hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
        })),
        Err(e) => println!("{}: {e}; without its rows", vectors.display()),
    }
    assert!(hostile.len() > 60);
    for datagram in &hostile {
        socket.send(datagram).expect("sent");
    }
    // It answers those of them that are messages, too.
    let answered = holds_within(Duration::from_secs(20), || {
        socket.send(ping).expect("sent");
        let mut answer = [0; 2048];
        let length = socket.recv(&mut answer).unwrap_or(0);
        answer[..length].windows(7).any(|part| part == b"t4:aaaa")
    });
    assert!(answered, "the node is gone");
}
