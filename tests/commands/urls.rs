//! http(s) URLs as SOURCE: what they lead to is a .torrent file like any other, and what is none says so at once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::loopback;
use crate::support::process::{output, swarmfs};
use crate::support::torrent::Torrent;

const LIMIT: Duration = Duration::from_secs(20);

/// A server that answers every request with this.
fn server(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::new(loopback(), 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(&answer);
        }
    });
    address
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn info(url: &str) -> Output {
    let mut command: Command = swarmfs();
    output(command.arg("info").arg(url), LIMIT)
}

#[track_caller]
fn refused(url: &str) -> String {
    let output = info(url);
    let sentence = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{sentence}");
    assert!(output.stdout.is_empty() && sentence.lines().count() == 1, "{sentence}");
    sentence
}

#[test]
fn a_torrent_is_fetched_through_a_redirect() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = Torrent::dead("over http", &[("x", 100)], 16 << 10);
    let file = std::fs::read(torrent.write(dir.path(), None)).expect("a torrent");
    let there = server(answer("200 OK", &file));
    let head = format!("HTTP/1.1 302 Found\r\nLocation: http://{there}/t?key=x\r\nContent-Length: 0\r\n\r\n");
    for url in [format!("http://{there}/some.torrent?passkey=1"), format!("HTTP://{}/", server(head.into_bytes()))] {
        let output = info(&url);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(&torrent.hex()), "{url}: {output:?}");
    }
}

#[test]
fn what_is_no_torrent_says_so_at_once() {
    let at = |answer: Vec<u8>| format!("http://{}/x", server(answer));
    assert!(refused(&at(answer("404 Not Found", b"no"))).contains("HTTP status 404"));
    assert!(refused(&at(answer("200 OK", b"<html>"))).contains("not a .torrent file"));
    assert!(refused(&at(answer("200 OK", b""))).contains("empty"));
    let endless = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
    let huge = [endless.as_bytes(), &vec![b'l'; (64 << 20) + 1]].concat();
    assert!(refused(&at(huge)).contains("longer than 64 MiB"));
    let closed = TcpListener::bind(SocketAddr::new(loopback(), 0)).and_then(|l| l.local_addr()).expect("a port");
    assert!(refused(&format!("http://{closed}/x")).contains("refused"));
    assert!(refused("http://").contains("http://"));
    let link = at(answer("200 OK", format!("magnet:?xt=urn:btih:{}", "a".repeat(40)).as_bytes()));
    assert!(info(&link).status.success(), "a magnet link behind a URL is one");
}
