//! `swarmfs info` over a corpus of torrents from other programs' tests: each gets the verdict of its `MANIFEST.tsv`. And
//! vectors of bencode, magnet links, trackers' replies and the allowed-fast sets.
//!
//! The corpus is not part of this repository. It is looked for beside it, or where `SWARMFS_CORPUS` says; without it
//! only the generated cases run.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use serde_json::Value;
use swarmfs::metainfo::bencode::{Limits, check};
use swarmfs::metainfo::{Magnet, MagnetError};
use swarmfs::wire::{TrackerError, allowed_fast_set, decode_http_reply, decode_http_scrape};

fn info(source: &Path, json: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swarmfs"));
    command.arg("info").arg(source).args(json.then_some("--json")).output().expect("the binary runs")
}

/// The JSON of a torrent that must load.
fn loads(source: &Path) -> Value {
    let output = info(source, true);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{source:?} should load: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{source:?}: {error}"))
}

/// The sentence with which a torrent that must not load is refused.
fn refused(source: &Path) -> String {
    let output = info(source, false);
    assert_eq!(output.status.code(), Some(1), "{source:?} should be refused");
    assert!(output.stdout.is_empty(), "{source:?}");
    let sentence = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(sentence.ends_with('\n') && sentence.lines().count() == 1, "{source:?}: {sentence}");
    assert!(sentence.contains(&*source.to_string_lossy()), "{sentence}");
    assert!(!sentence.contains("panicked"), "{sentence}");
    sentence
}

/// Every name is one that can stand below the mount, and no two files share one.
fn assert_safe(source: &Path, info: &Value) {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    assert!(!text(&info["name"]).contains('/'), "{source:?}");
    let mut seen = BTreeSet::new();
    for file in info["files"].as_array().expect("files") {
        let path = text(&file["path"]);
        for part in path.split('/').chain([&*text(&info["name"])]) {
            assert!(!matches!(part, "" | "." | ".."), "{source:?}: {path}");
            assert!(part.len() <= 255 && !part.contains('\0'), "{source:?}: {path}");
        }
        if let Some(target) = file.get("target") {
            let depth = path.split('/').count() - 1;
            let up = text(target).split('/').take_while(|part| *part == "..").count();
            assert!(up <= depth && !text(target).starts_with('/'), "{source:?}: {path} -> {target}");
        }
        assert!(file["kind"] == "pad" || seen.insert(path.clone()), "{source:?}: {path} is there twice");
    }
    for path in &seen {
        let below = format!("{path}/");
        assert!(!seen.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below)), "{source:?}: {path}");
    }
}

fn corpus() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/corpus");
    let root = std::env::var_os("SWARMFS_CORPUS").map_or_else(beside, PathBuf::from);
    if root.join("MANIFEST.tsv").is_file() {
        return Some(root);
    }
    eprintln!("skipped: no corpus at {}; set SWARMFS_CORPUS to its directory", root.display());
    None
}

/// The rows of a table after its head, as cells.
fn rows(path: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn every_torrent_gets_its_verdict() {
    let Some(root) = corpus() else { return };
    let mut torrents = 0;
    for row in rows(&root.join("MANIFEST.tsv")) {
        let [path, _, expected, reason, v1, v2, ..] = &row[..] else { panic!("{row:?}") };
        if !path.ends_with(".torrent") {
            continue;
        }
        torrents += 1;
        let source = root.join(path);
        let v2_only = v1.is_empty() && (!v2.is_empty() || path.contains("/v2_"));
        match expected.as_str() {
            _ if v2_only && !path.ends_with("v2_bad_file_alignment.torrent") => {
                assert!(refused(&source).contains("v2 is not built yet"), "{path}");
            }
            "invalid" => drop(refused(&source)),
            // Choices of ours: what programs read differently is refused, and there is no info here.
            "special" if path.ends_with("dup-pieces-key.torrent") => assert!(refused(&source).contains("`pieces`")),
            "special" if v1.is_empty() => assert!(refused(&source).contains("info dictionary"), "{path}"),
            "valid" | "special" => {
                let info = loads(&source);
                assert_safe(&source, &info);
                assert_eq!(info["info_hash"], **v1, "{path} ({reason})");
                if v2.is_empty() {
                    assert_eq!(info["info_hash_v2"], Value::Null, "{path}");
                } else {
                    assert_eq!(info["info_hash_v2"], **v2, "{path}");
                }
                assert!(self::info(&source, false).status.success(), "{path}");
            }
            other => panic!("{path}: verdict {other}"),
        }
    }
    assert!(torrents > 80, "{torrents} torrents in the corpus");
}

#[test]
fn what_the_manifest_says_of_single_torrents() {
    let Some(root) = corpus() else { return };
    let load = |path: &str| loads(&root.join(path));
    let paths = |path: &str| -> Vec<String> {
        let files = load(path)["files"].as_array().expect("files").clone();
        files.iter().map(|file| file["path"].as_str().expect("a path").to_owned()).collect()
    };
    let lt = |name: &str| format!("libtorrent/test_torrents/{name}.torrent");
    assert_eq!(paths(&lt("duplicate_files")), ["foo/bar.txt", "foo/bar.1.txt"]);
    assert_eq!(paths(&lt("parent_path")), ["_/_/bar"]);
    assert_eq!(paths("transmission/bad-utf8-path.torrent")[1], "file\u{fffd}.foo");
    assert_eq!(load(&lt("invalid_name3"))["name"], "foobar ");
    assert_eq!(load(&lt("creation_date"))["creation_date"], "1970-01-15T06:56:07Z");
    assert_eq!(load(&lt("no_creation_date"))["creation_date"], Value::Null);
    assert_eq!(load(&lt("pad_file"))["files"][1]["kind"], "pad");
    assert_eq!(load(&lt("symlink2"))["files"][4]["target"], "A");
    assert_eq!(load(&lt("symlink_zero_size"))["files"][1]["target"], "bar");
    assert_eq!(load(&lt("duplicate_web_seeds"))["web_seeds"].as_array().map(Vec::len), Some(3));
    assert_eq!(load(&lt("url_seed_multi_space_nolist"))["web_seeds"][0], "http://test.com/test%20file/foo%20bar/");
    assert_eq!(
        load("parse-torrent/leaves-duplicate-tracker.torrent")["trackers"],
        serde_json::json!([["http://tracker.example.com/announce"]])
    );
    assert_eq!(
        load("parse-torrent/leaves-empty-announce-list.torrent")["trackers"],
        serde_json::json!([["udp://tracker.publicbt.com:80/announce"]])
    );
    assert_eq!(load("webtorrent-fixtures/bunny.torrent")["private"], true);
}

#[test]
fn golden_listings_agree() {
    let Some(root) = corpus() else { return };
    let mut listings = 0;
    for entry in fs::read_dir(root.join("transmission/show")).expect("listings") {
        let path = entry.expect("an entry").path();
        let torrent = path.with_extension("torrent");
        if path.extension().is_none_or(|extension| extension != "show") {
            continue;
        }
        listings += 1;
        let text = fs::read_to_string(&path).expect("a listing");
        let field = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
        let Some(hash) = field("Hash v1:") else {
            assert!(refused(&torrent).contains("v2 is not built yet"));
            continue;
        };
        let info = loads(&torrent);
        let name = info["name"].as_str().expect("a name");
        assert_eq!(Some(name), field("Name:"));
        assert_eq!(info["info_hash"], hash);
        assert_eq!(info["info_hash_v2"].as_str(), field("Hash v2:"));
        assert_eq!(info["pieces"].to_string(), field("Piece Count:").expect("a count"));
        let (size, unit) = field("Piece Size:").and_then(|size| size.split_once(' ')).expect("a size");
        let unit = if unit == "MiB" { 1 << 20 } else { 1 << 10 };
        assert_eq!(info["piece_length"], size.trim_end_matches(".00").parse::<u64>().expect("a number") * unit);
        let section = |from: &str, to: &str| {
            let start = text.find(from).map_or(text.len(), |at| at + from.len());
            let end = text[start..].find(to).map_or(text.len(), |at| start + at);
            let lines: BTreeSet<String> = text[start..end].lines().map(|line| line.trim().to_owned()).collect();
            lines.into_iter().filter(|line| !line.is_empty() && !line.starts_with("Tier")).collect::<BTreeSet<_>>()
        };
        let until = if text.contains("WEBSEEDS") { "WEBSEEDS" } else { "FILES" };
        let strings = |value: &Value| value.as_str().expect("a string").to_owned();
        let list = |key: &str| info[key].as_array().expect("a list");
        let trackers: BTreeSet<String> =
            list("trackers").iter().flat_map(|tier| tier.as_array().expect("a tier")).map(strings).collect();
        assert_eq!(trackers, section("TRACKERS\n", until), "{path:?}");
        assert_eq!(list("web_seeds").iter().map(strings).collect::<BTreeSet<_>>(), section("WEBSEEDS\n", "FILES"));
        let single = info["single_file"] == true;
        let files: BTreeSet<String> = list("files")
            .iter()
            .map(|file| strings(&file["path"]))
            .map(|path| if single { path } else { format!("{name}/{path}") })
            .collect();
        let listed = section("FILES\n", "\0");
        let listed: BTreeSet<String> =
            listed.iter().map(|line| line.rsplit_once(" (").expect("a size").0.to_owned()).collect();
        assert_eq!(files, listed, "{path:?}");
    }
    assert!(listings >= 7, "{listings} listings");
}

/// The bytes of a hexadecimal text.
fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok()).expect("a digit");
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn inline_vectors_get_their_verdicts() {
    let Some(root) = corpus() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let rows = rows(&root.join("vectors/torrent_inline.tsv"));
    assert!(rows.len() >= 13);
    for row in rows {
        let source = directory.path().join(format!("{}.torrent", row[0]));
        fs::write(&source, unhex(&row[1])).expect("written");
        match row[3].as_str() {
            "invalid" => drop(refused(&source)),
            "valid" | "special" => {
                let info = loads(&source);
                assert_safe(&source, &info);
                assert_eq!(info["files"].as_array().map(Vec::len), Some(2), "{row:?}");
            }
            other => panic!("{row:?}: verdict {other}"),
        }
    }
}

#[test]
fn bencode_vectors_get_their_verdicts() {
    let Some(root) = corpus() else { return };
    // What our check makes of the vectors that programs disagree on.
    let taken = [
        "004", "008", "009", "010", "013", "018", "026", "033", "062", "063", "065", "066", "086", "091", "095", "096",
        "104", "107",
    ];
    let rows = rows(&root.join("vectors/bencode.tsv"));
    assert!(rows.len() >= 117);
    for row in rows {
        let number = row[0].trim_start_matches("bencode-");
        let good = match row[3].as_str() {
            "valid" => true,
            "invalid" => false,
            _ => taken.contains(&number),
        };
        let input = unhex(&row[1]);
        let length = check(&input, Limits::METAINFO);
        assert_eq!(length.is_ok(), good, "{} {}: {length:?}", row[0], row[4]);
        if row[3] == "valid" {
            assert_eq!(length, Ok(input.len()), "{}", row[0]);
        }
    }
}

#[test]
fn allowed_fast_sets_are_those_of_bep_6() {
    let Some(root) = corpus() else { return };
    let rows = rows(&root.join("vectors/conformance.tsv"));
    let sets: Vec<_> = rows.iter().filter(|row| row[0].starts_with("allowed_fast_")).collect();
    assert!(sets.len() >= 2, "{} sets", sets.len());
    for row in sets {
        // infohash=aa*20 pieces=1313 ip=80.4.4.200 k=7
        let of = |key: &str| row[2].split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        let field = |key| of(key).unwrap_or_else(|| panic!("{key} of {row:?}"));
        let (byte, times) = field("infohash").split_once('*').expect("a byte, and how often");
        let info_hash = unhex(byte).repeat(times.parse().expect("a number"));
        let number = |key| field(key).parse::<u32>().expect("a number");
        let ip = field("ip").parse().expect("an address");
        let set =
            allowed_fast_set(&info_hash.try_into().expect("20 bytes"), ip, number("pieces"), number("k") as usize);
        let expected: Vec<u32> = row[3].split(',').map(|piece| piece.parse().expect("a piece")).collect();
        assert_eq!(set.iter().map(|piece| piece.0).collect::<Vec<_>>(), expected, "{}", row[0]);
    }
}

#[test]
fn replies_of_http_trackers_get_their_verdicts() {
    let Some(root) = corpus() else { return };
    let rows = rows(&root.join("vectors/tracker_http.tsv"));
    assert!(rows.len() >= 21, "{} replies", rows.len());
    for row in rows {
        let [name, hex, _, expected, detail, ..] = &row[..] else { panic!("{row:?}") };
        let (bytes, valid) = (unhex(hex), expected == "valid");
        if detail.starts_with("PEER DICT only") {
            // A name would be resolved for whoever writes it, and is none of a peer's address here.
            let listed = [b"d5:peersl".as_slice(), &bytes, b"ee"].concat();
            assert!(decode_http_reply(&listed).map_or(!valid, |reply| reply.peers.is_empty()), "{name}");
        } else if detail.starts_with("WHOLE HTTP RESPONSE") {
            assert_eq!(refused_from_the_web(bytes).code(), Some(1), "{name}");
        } else if detail.starts_with("scrape") {
            let hash = bytes[bytes.windows(3).position(|at| at == b"20:").expect("a hash") + 3..][..20].to_vec();
            let entry = decode_http_scrape(&bytes, &[hash.try_into().expect("20 bytes")]).expect("a scrape")[0];
            let first = if name.ends_with("009") { (1, 2, 3) } else { (4, 5, 6) };
            assert_eq!((entry.complete, entry.incomplete, entry.downloaded), first, "{name}");
        } else if detail.starts_with("tracker failure") {
            assert_eq!(decode_http_reply(&bytes), Err(TrackerError::Failure("test message".to_owned())), "{name}");
        } else {
            let reply = decode_http_reply(&bytes).unwrap_or_else(|e| panic!("{name} ({detail}): {e}"));
            let found: &[&str] = match detail.split(' ').next() {
                Some("1.2.3.4:12304") => &["1.2.3.4:12304", "9.8.7.6:8208"],
                // Lenient: the tail is dropped.
                Some("7") => &["1.2.3.4:12304"],
                Some("19") => &["[101:101:101:101:101:101:101:101]:257"],
                Some("2") if detail.ends_with("IPv6 peers") => &["[2001:db8::1]:12304", "[2001:db8::2]:8208"],
                Some("1") => &["105.105.105.105:28784", "[6969:6969:6969:6969:6969:6969:6969:6969]:28784"],
                _ => &[],
            };
            let peers: Vec<String> = reply.peers.iter().map(ToString::to_string).collect();
            assert_eq!(peers, found, "{name} ({detail})");
            match detail.split(' ').next() {
                Some("interval") => assert_eq!((reply.interval, reply.min_interval), (Some(1042), Some(10))),
                Some("warning") => assert_eq!(reply.warning.as_deref(), Some("test message")),
                Some("external") => {
                    let ip = detail.trim_start_matches("external ip ").parse().expect("an address");
                    assert_eq!(reply.external_ip, Some(ip));
                }
                _ => {}
            }
        }
    }
}

/// What `swarmfs info` says of a URL whose server answers with these bytes.
fn refused_from_the_web(response: Vec<u8>) -> ExitStatus {
    let server = TcpListener::bind("127.0.0.1:0").expect("a server");
    let address = server.local_addr().expect("its address");
    std::thread::spawn(move || {
        let (mut client, _) = server.accept().expect("a client");
        let mut request = [0; 4096];
        let _ = client.read(&mut request).and_then(|_| client.write_all(&response));
    });
    let output = info(Path::new(&format!("http://{address}/a.torrent")), false);
    let sentence = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(sentence.lines().count() == 1 && !sentence.contains("panicked"), "{sentence}");
    output.status
}

/// One file of one byte, with `extra` at the top level and `info` in its info.
fn small(extra: &str, info: &str) -> Vec<u8> {
    let start = format!("d{extra}4:infod6:lengthi1e{info}12:piece lengthi16384e6:pieces20:");
    [start.as_bytes(), &[7; 20], b"ee"].concat()
}

#[test]
fn generated_torrents_get_their_verdicts() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let nest = [vec![b'l'; 20_000], vec![b'e'; 20_000]].concat();
    let text = String::from_utf8(nest.clone()).expect("ASCII");
    assert!(refused(&write("nest.torrent", &nest)).contains("100 deep"));
    assert!(refused(&write("ignored.torrent", &small(&format!("4:junk{text}"), "4:name1:a"))).contains("100 deep"));
    assert!(refused(&write("empty.torrent", b"")).contains("empty"));
    assert!(refused(&directory.path().join("missing.torrent")).contains("cannot open"));
    assert!(refused(directory.path()).contains("not built yet"));
    assert!(refused(Path::new("/dev/zero")).contains("64 MiB"));
    assert!(refused(Path::new("magnet:?xt=urn:btih:aaaa")).contains("40 hexadecimal digits"));

    // What could drive a terminal reaches it as an escape.
    let hostile = write("hostile.torrent", &small("7:comment7:\x1b[2J\n\x07a", "4:name4:\x1b[1m"));
    let output = info(&hostile, false);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("\\u{1b}[2J\\n\\u{7}a") && text.contains("\\u{1b}[1m"), "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert_eq!(loads(&hostile)["comment"], "\u{1b}[2J\n\u{7}a");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("many.torrent");
    let files: String = (0..20_000).map(|i| format!("d6:lengthi1e4:pathl8:{i:08}ee")).collect();
    let start = format!("d4:infod5:filesl{files}e4:name1:a12:piece lengthi16384e6:pieces40:");
    fs::write(&source, [start.as_bytes(), &[7; 40], b"ee"].concat()).expect("written");
    for json in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swarmfs"));
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.arg("info").arg(&source).args(json.then_some("--json")).stdout(writer);
        drop(reader);
        let output = command.output().expect("the binary runs");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn every_magnet_link_gets_its_verdict() {
    let Some(root) = corpus() else { return };
    let mut links = 0;
    for row in rows(&root.join("vectors/magnet.tsv")) {
        let [name, hex, _, expected, detail, ..] = &row[..] else { panic!("{row:?}") };
        links += 1;
        let bytes = unhex(hex);
        // What is no text cannot be given as an argument either, but as a file's content it can.
        let verdict = Magnet::parse(&String::from_utf8_lossy(&bytes));
        match expected.as_str() {
            "invalid" => assert!(verdict.is_err(), "{name} ({detail})"),
            // A choice of ours: another scheme is another program's.
            "special" if bytes.starts_with(b"stream-magnet:") => assert_eq!(verdict, Err(MagnetError::Scheme)),
            "valid" | "special" => {
                let magnet = verdict.unwrap_or_else(|e| panic!("{name} ({detail}): {e}"));
                assert_eq!(Magnet::parse(&magnet.to_string()).as_ref(), Ok(&magnet), "{name}");
                // Details that are checkable: a hash, names, how many trackers.
                if let Some(hash) = detail.split(' ').next_back().filter(|last| last.len() == 40) {
                    assert_eq!(magnet.id.to_string(), *hash, "{name}");
                }
                if let Some((_, quoted)) = detail.split_once(": \"") {
                    assert_eq!(magnet.name.as_deref(), quoted.strip_suffix('"'), "{name}");
                }
                if let Some((_, list)) = detail.rsplit_once("select ")
                    && list.starts_with(|c: char| c.is_ascii_digit())
                {
                    let list = list.split(' ').next().unwrap_or_default();
                    let same = format!("magnet:?xt=urn:btih:{}&so={list}", "0".repeat(40));
                    assert_eq!(magnet.select, Magnet::parse(&same).expect("a link").select, "{name}");
                }
            }
            other => panic!("{name}: verdict {other}"),
        }
    }
    assert_eq!(links, 93);
}
