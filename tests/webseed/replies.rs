//! What servers answer to a request for a range (hardening: W1): used, refused for this file, or left alone for a while.
//! Whatever one of them does, the torrent comes from the other.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::session::fetching;
use crate::support::holds_within;
use crate::support::torrent::Content;
use crate::support::tracker::{Action, Seen, Tracker, answer, gzip};

const LENGTH: usize = 400_000;
const LIMIT: Duration = Duration::from_secs(20);

fn content() -> Arc<Content> {
    Arc::new(Content::noise("file.bin", LENGTH as u64, 64 << 10, 19))
}

/// A 206 with this Content-Range, more headers, and this body.
fn partial(range: &str, more: &str, body: &[u8]) -> Action {
    Action::Raw(answer("206 Partial Content", &format!("Content-Range: {range}\r\n{more}"), body))
}

/// What a good server answers.
fn right(bytes: &[u8], seen: &Seen) -> Action {
    let Some(range) = seen.range() else { return Action::Raw(answer("200 OK", "", bytes)) };
    partial(&span(&range, bytes.len()), "", &bytes[range])
}

fn span(range: &Range<usize>, length: usize) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

fn status(line: &'static str, headers: &'static str) -> impl Fn(&[u8], Range<usize>, usize) -> Action {
    move |_, _, _| Action::Raw(answer(line, headers, b"sorry"))
}

/// What a server does with a request for a range of `bytes`; `n` requests came before it.
type Script = Box<dyn Fn(&[u8], Range<usize>, usize) -> Action + Send + Sync>;

fn server(content: &Arc<Content>, script: Script) -> Tracker {
    let content = Arc::clone(content);
    Tracker::start([127, 0, 0, 1].into(), move |seen, n| match seen.range() {
        Some(range) => script(&content.bytes, range, n),
        None => Action::Raw(answer("400 Bad Request", "", b"")),
    })
}

/// A good server that answers nothing before the other one is known to be bad.
fn second(content: &Arc<Content>, known: Arc<AtomicBool>) -> Tracker {
    let content = Arc::clone(content);
    Tracker::start([127, 0, 0, 1].into(), move |seen, _| {
        if holds_within(LIMIT, || known.load(Ordering::SeqCst)) { right(&content.bytes, seen) } else { Action::Silence }
    })
}

/// From this server alone all of it comes.
async fn usable(what: &str, script: Script) {
    let content = content();
    let server = server(&content, script);
    let fetching = fetching(&content, &[&server.url("/file.bin")]);
    let took = fetching.finished(LIMIT).await;
    assert!(took.is_some(), "{what}: {:?} after {} requests", fetching.status(0), server.seen().len());
    assert_eq!(fetching.status(0).error, None, "{what}");
    fetching.stop().await;
}

/// This server is given up for this reason, and all of it comes from the other.
async fn refused(what: &str, script: Script, reason: &str) {
    let content = content();
    let known = Arc::new(AtomicBool::new(false));
    let (hostile, good) = (server(&content, script), second(&content, Arc::clone(&known)));
    let fetching = fetching(&content, &[&hostile.url("/file.bin"), &good.url("/file.bin")]);
    let error = fetching.error(0, reason, LIMIT).await;
    known.store(true, Ordering::SeqCst);
    assert!(!error.contains("127.0.0.1"), "{what}: no URL: {error}");
    let took = fetching.finished(LIMIT).await;
    assert!(took.is_some(), "{what}: the other goes on: {:?}", fetching.status(1));
    assert_eq!(fetching.status(1).error, None, "{what}");
    let requests = hostile.seen().len();
    // Two rounds over three connections; each may be redirected five times.
    assert!(requests <= 2 * 3 * 6, "{what}: it was asked {requests} times");
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usable_replies() {
    let cases: Vec<(&str, Script)> = vec![
        (
            "a file that is said to be compressed, since it is",
            Box::new(|b, r, _| partial(&span(&r, b.len()), "Content-Encoding: x-gzip\r\n", &b[r])),
        ),
        ("a range", Box::new(|b, r, _| partial(&span(&r, b.len()), "", &b[r]))),
        (
            "a range of an unknown whole",
            Box::new(|b, r, _| partial(&format!("bytes {}-{}/*", r.start, r.end - 1), "", &b[r])),
        ),
        ("a named identity", Box::new(|b, r, _| partial(&span(&r, b.len()), "Content-Encoding: identity\r\n", &b[r]))),
        (
            "more than was asked for",
            Box::new(|b, r, _| {
                let more = r.start..(r.end + 100_000).min(b.len());
                partial(&span(&more, b.len()), "", &b[more])
            }),
        ),
        (
            "less than was asked for",
            Box::new(|b, r, _| {
                let less = r.start..r.end.min(r.start + 20_000);
                partial(&span(&less, b.len()), "", &b[less])
            }),
        ),
        (
            "in chunks",
            Box::new(|b, r, _| {
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Range: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
                    span(&r, b.len())
                );
                let mut out = head.into_bytes();
                for chunk in b[r].chunks(7_001) {
                    out.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                }
                out.extend(b"0\r\n\r\n");
                Action::Raw(out)
            }),
        ),
        (
            "until the connection ends",
            Box::new(|b, r, _| {
                let head = format!("HTTP/1.0 206 Partial Content\r\nContent-Range: {}\r\n\r\n", span(&r, b.len()));
                Action::Raw([head.as_bytes(), &b[r]].concat())
            }),
        ),
        (
            "one connection that breaks",
            Box::new(|b, r, n| {
                if n > 0 {
                    return partial(&span(&r, b.len()), "", &b[r]);
                }
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Range: {}\r\nContent-Length: {}\r\n\r\n",
                    span(&r, b.len()),
                    r.len()
                );
                Action::Raw([head.as_bytes(), &b[r.start..r.start + 30_000]].concat())
            }),
        ),
        (
            "a moment too many connections",
            Box::new(|b, r, n| match n {
                1 => Action::Raw(answer("503 Service Unavailable", "Retry-After: 1\r\n", b"")),
                _ => partial(&span(&r, b.len()), "", &b[r]),
            }),
        ),
        (
            "a redirect",
            Box::new({
                let content = content();
                let there = Arc::clone(&content);
                let other = Tracker::start([127, 0, 0, 1].into(), move |seen, _| right(&there.bytes, seen));
                let location = format!("Location: {}\r\n", other.url("/moved/x.bin"));
                move |_, _, _| {
                    let _lives = &other;
                    Action::Raw(answer("302 Found", &location, b""))
                }
            }),
        ),
    ];
    for (what, script) in cases {
        usable(what, script).await;
    }
}

/// 200 instead of 206: of use where the range begins near the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_ranges_gives_small_files() {
    let small =
        Arc::new(Content::of_files("small", &[("a", 30_000), ("b", 0), ("c/d", 48_000), ("e", 10)], 16 << 10, 3));
    let there = Arc::clone(&small);
    let server = Tracker::start([127, 0, 0, 1].into(), move |seen, _| {
        let body = match seen.target.as_str() {
            "/small/a" => &there.bytes[..30_000],
            "/small/c/d" => &there.bytes[30_000..78_000],
            "/small/e" => &there.bytes[78_000..],
            _ => return Action::Raw(answer("404 Not Found", "", b"")),
        };
        Action::Raw(answer("200 OK", "", body))
    });
    let fetching = fetching(&small, &[&server.url("/")]);
    assert!(fetching.finished(LIMIT).await.is_some(), "{:?} {:?}", fetching.status(0), server.seen());
    fetching.stop().await;
    refused("a large file", Box::new(|b, _, _| Action::Raw(answer("200 OK", "", b))), "does not support ranges").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_cost_the_file() {
    let cases: Vec<(&str, Script, &str)> = vec![
        (
            "another start",
            Box::new(|b, r, _| {
                let other = r.start + 1..r.end;
                partial(&span(&other, b.len()), "", &b[other])
            }),
            "another range",
        ),
        (
            "no Content-Range",
            Box::new(|b, r, _| Action::Raw(answer("206 Partial Content", "", &b[r]))),
            "another range",
        ),
        ("a garbled Content-Range", Box::new(|b, r, _| partial("bytes one-two/three", "", &b[r])), "another range"),
        (
            "numbers without end",
            Box::new(|b, r, _| partial(&format!("bytes {}-{}/{}", r.start, "9".repeat(40), "9".repeat(41)), "", &b[r])),
            "another range",
        ),
        (
            "several ranges",
            Box::new(|_, _, _| {
                let kind = "Content-Type: multipart/byteranges; boundary=x\r\n";
                Action::Raw(answer("206 Partial Content", kind, b"--x\r\n\r\n--x--"))
            }),
            "another range",
        ),
        ("another length", Box::new(|b, r, _| partial(&span(&r, b.len() + 1), "", &b[r])), "another length"),
        ("a whole of another length", Box::new(|b, _, _| Action::Raw(answer("200 OK", "", &b[1..]))), "another length"),
        (
            "gzip",
            Box::new(|b, r, _| partial(&span(&r, b.len()), "Content-Encoding: gzip\r\n", &gzip(&b[r][..60_000]))),
            "compressed",
        ),
        ("404", Box::new(status("404 Not Found", "")), "does not have it"),
        ("410", Box::new(status("410 Gone", "")), "does not have it"),
        ("401", Box::new(status("401 Unauthorized", "WWW-Authenticate: Basic\r\n")), "status 401"),
        ("403", Box::new(status("403 Forbidden", "")), "status 403"),
        ("416", Box::new(status("416 Range Not Satisfiable", "")), "another length"),
        ("204", Box::new(status("204 No Content", "")), "status 204"),
        ("304", Box::new(status("304 Not Modified", "")), "status 304"),
        ("400", Box::new(status("400 Bad Request", "")), "status 400"),
        (
            "wrong bytes",
            Box::new(|b, r, _| {
                let mut wrong = b[r.clone()].to_vec();
                wrong[5] ^= 1;
                partial(&span(&r, b.len()), "", &wrong)
            }),
            "wrong bytes",
        ),
        ("a redirect to a file", Box::new(status("302 Found", "Location: file:///etc/passwd\r\n")), "neither http nor"),
        (
            "a redirect to a look-alike",
            Box::new(status("302 Found", "Location: http://xn--80ak6aa92e.com/\r\n")),
            "international",
        ),
        ("a redirect with a query", Box::new(status("302 Found", "Location: /x?reboot\r\n")), "not allowed there"),
    ];
    for (what, script, reason) in cases {
        refused(what, script, reason).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_cost_a_while() {
    let cases: Vec<(&str, Script, &str)> = vec![
        ("503 for long", Box::new(status("503 Service Unavailable", "Retry-After: 3600\r\n")), "status 503"),
        ("500", Box::new(status("500 Internal Server Error", "")), "status 500"),
        ("no HTTP", Box::new(|_, _, _| Action::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())), ""),
        ("nothing", Box::new(|_, _, _| Action::Raw(Vec::new())), ""),
        ("a loop", Box::new(status("302 Found", "Location: /again\r\n")), "redirects more than 5 times"),
        ("a redirect to nowhere", Box::new(status("302 Found", "")), "status 302"),
        (
            "a body that ends too soon",
            Box::new(|b, r, _| {
                let head = format!("HTTP/1.0 206 Partial Content\r\nContent-Range: {}\r\n\r\n", span(&r, b.len()));
                Action::Raw([head.as_bytes(), &b[r.start..r.start + 5]].concat())
            }),
            "were to come",
        ),
        (
            "a byte at a time",
            Box::new(|b, r, _| {
                let one = r.start..r.start + 1;
                partial(&span(&one, b.len()), "", &b[one])
            }),
            "were to come",
        ),
    ];
    for (what, script, reason) in cases {
        refused(what, script, reason).await;
    }
}

/// All of it comes from this server, sooner or later.
async fn comes_from(content: &Content, seed: &Tracker) {
    let fetching = fetching(content, &[&seed.url("/file.bin")]);
    assert!(fetching.finished(LIMIT).await.is_some(), "{:?}", fetching.status(0));
    fetching.stop().await;
}

/// All connections break at once, as when the server starts anew: that is one failure, not two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_back_after_a_moment_is_asked_at_once() {
    let content = Arc::new(Content::noise("file.bin", 4_000_000, 64 << 10, 19));
    let (bytes, came) = (Arc::clone(&content), Arc::new(AtomicUsize::new(0)));
    let seed = Tracker::start([127, 0, 0, 1].into(), move |seen, _| {
        if came.fetch_add(1, Ordering::SeqCst) < 2 {
            let all = holds_within(LIMIT, || came.load(Ordering::SeqCst) >= 2);
            assert!(all, "the background has two connections");
            return Action::Raw(Vec::new());
        }
        right(&bytes.bytes, seen)
    });
    comes_from(&content, &seed).await;
}

/// One mirror of many does not have the file yet, and another that we were led to has lost it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_lacks_a_file_does_not_cost_it() {
    let content = content();
    let (bytes, asked) = (Arc::clone(&content), AtomicUsize::new(0));
    let seed = Tracker::start([127, 0, 0, 1].into(), move |seen, _| match seen.target.as_str() {
        "/mirror" if asked.fetch_add(1, Ordering::SeqCst) == 0 => Action::Raw(answer("404 Not Found", "", b"")),
        "/mirror" => right(&bytes.bytes, seen),
        _ => Action::Raw(answer("302 Found", "Location: /mirror\r\n", b"")),
    });
    comes_from(&content, &seed).await;
}

/// Something slow is behind it, and nobody else has the torrent: it gives all that it was asked for all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_needs_long_for_its_first_byte_is_waited_for() {
    let content = content();
    let bytes = Arc::clone(&content);
    let seed = Tracker::start([127, 0, 0, 1].into(), move |seen, _| {
        std::thread::sleep(Duration::from_millis(6500));
        right(&bytes.bytes, seen)
    });
    comes_from(&content, &seed).await;
    assert!(seed.seen().len() <= 4, "{} requests for two runs", seed.seen().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_nothing_is_not_asked_for_everything_at_once() {
    let names: Vec<String> = (0..2000).map(|n| format!("{n}.bin")).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1000)).collect();
    let content = Content::of_files("many", &files, 16 << 10, 5);
    let seed = Tracker::start([127, 0, 0, 1].into(), |_, _| Action::Raw(answer("404 Not Found", "", b"")));
    let fetching = fetching(&content, &[&seed.url("/")]);
    fetching.error(0, "none of the files", LIMIT).await;
    let asked = seed.seen().len();
    assert!((20..=70).contains(&asked), "{asked} requests until its second rest");
    fetching.stop().await;
}
