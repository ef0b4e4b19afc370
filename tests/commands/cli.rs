//! The command line: usage errors are code 2, failures are code 1 with one sentence that names the thing, quickly.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::MIB;
use crate::support::mounts::{detach, is_mounted, mount};
use crate::support::peer::Peer;
use crate::support::process::{output, swarmfs};
use crate::support::torrent::{Content, Torrent};

const COMMON_OPTIONS: [&str; 22] = [
    "--listen",
    "--peer",
    "--cache-dir",
    "--cache-size",
    "--memory",
    "--data",
    "--fill",
    "--read-timeout",
    "--upload-limit",
    "--download-limit",
    "--upload-slots",
    "--max-peers",
    "--no-dht",
    "--no-pex",
    "--no-lsd",
    "--no-upload",
    "--interface",
    "--proxy",
    "--block-list",
    "--allow-other",
    "--http",
    " -o",
];

/// The code and the text of a command that must fail, and soon.
#[track_caller]
fn fails(command: &mut Command) -> (Option<i32>, String) {
    let start = Instant::now();
    let answer = output(command, Duration::from_secs(20));
    assert!(start.elapsed() < Duration::from_secs(3), "{command:?} took {:?}", start.elapsed());
    assert!(!answer.status.success(), "{command:?} succeeds");
    (answer.status.code(), String::from_utf8_lossy(&answer.stderr).into_owned())
}

/// A failure: code 1, and one line that contains `names`.
#[track_caller]
fn fails_in_a_sentence(command: &mut Command, names: &str) {
    let (code, text) = fails(command);
    assert_eq!(code, Some(1), "{command:?}: {text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{command:?} says more than one sentence: {text}");
    assert!(text.contains(names), "{command:?} does not name {names}: {text}");
    assert!(!text.contains("panicked"), "{text}");
}

fn torrent_file(dir: &std::path::Path) -> std::path::PathBuf {
    Torrent::dead("dead", &[("a", 100_000), ("b", 5)], 32 << 10).write(dir, None)
}

#[test]
fn wrong_usage_is_code_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = torrent_file(dir.path());
    let torrent = torrent.to_str().expect("a UTF-8 path");
    let usages: [&[&str]; 12] = [
        &["frobnicate"],
        &[],
        &["mount"],
        &["mount", "only-one-path"],
        &["mount", "--no-such-option", torrent, "/tmp"],
        &["mount", "--memory", "lots", torrent, "/tmp"],
        &["mount", "--read-timeout", "soon", torrent, "/tmp"],
        &["mount", "--upload-limit", "fast", torrent, "/tmp"],
        &["mount", "--fill", "some", torrent, "/tmp"],
        &["mount", "--listen", "nowhere", torrent, "/tmp"],
        &["mount", "--peer", "127.0.0.1", torrent, "/tmp"],
        &["seed"],
    ];
    for usage in usages {
        let (code, text) = fails(swarmfs().args(usage));
        assert_eq!(code, Some(2), "{usage:?}: {text}");
        assert!(!text.is_empty());
    }
}

#[test]
fn failures_name_the_thing() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = torrent_file(dir.path());
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a directory");
    for command in ["mount", "info", "seed"] {
        let mut missing = swarmfs();
        missing.args([command, "no-such.torrent"]);
        match command {
            "mount" => missing.arg(&mountpoint),
            "seed" => missing.arg("--data").arg(dir.path()),
            _ => &mut missing,
        };
        fails_in_a_sentence(&mut missing, "no-such.torrent");
    }
    let garbage = dir.path().join("garbage.torrent");
    std::fs::write(&garbage, "d4:infoi1e").expect("a file");
    fails_in_a_sentence(swarmfs().arg("info").arg(&garbage), "garbage.torrent");
    fails_in_a_sentence(swarmfs().arg("mount").arg(&garbage).arg(&mountpoint), "garbage.torrent");
    fails_in_a_sentence(swarmfs().arg("mount").arg(&torrent).arg(dir.path().join("nowhere")), "nowhere");
    fails_in_a_sentence(swarmfs().arg("mount").arg(&torrent).arg(&torrent), ".torrent");
    fails_in_a_sentence(swarmfs().arg("unmount").arg(&mountpoint), "mnt");
    assert!(!is_mounted(&mountpoint));
}

#[test]
fn what_is_not_built_yet_and_links_that_name_no_torrent_say_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let v2 = format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32));
    for (source, names) in [(".", "not built"), (&v2, "v2"), ("magnet:?xt=urn:btih:0123", "magnet")] {
        fails_in_a_sentence(swarmfs().args(["mount", source]).arg(dir.path()), names);
        fails_in_a_sentence(swarmfs().args(["get", source, "-o"]).arg(dir.path()), names);
    }
    for command in ["verify", "seed"] {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        fails_in_a_sentence(swarmfs().args([command, hash, "--data"]).arg(dir.path()), "give the .torrent file");
    }
    assert!(!is_mounted(dir.path()));
}

#[test]
fn the_same_torrent_twice_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = torrent_file(dir.path());
    let twin = dir.path().join("twin.torrent");
    std::fs::copy(&torrent, &twin).expect("a copy");
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a directory");
    let hash = Torrent::dead("dead", &[("a", 100_000), ("b", 5)], 32 << 10).hex();
    fails_in_a_sentence(swarmfs().arg("mount").args([&torrent, &twin]).arg(&mountpoint), &hash);
    fails_in_a_sentence(swarmfs().arg("mount").arg(&torrent).arg(&hash).arg(&mountpoint), &hash);
    assert!(!is_mounted(&mountpoint));
}

/// A mountpoint that is in use by another mount is not covered without a word.
#[test]
fn a_mountpoint_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = torrent_file(dir.path());
    let first = mount(&[&torrent]).start();
    let mut second = swarmfs();
    second.args(["mount", "-f", "--no-dht", "--listen", &crate::support::free_address().to_string()]);
    fails_in_a_sentence(second.arg(&torrent).arg(&first.mountpoint), "mnt");
    assert!(first.path("dead/a").exists(), "the first is as it was");
}

#[test]
fn a_taken_port_that_was_chosen_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = torrent_file(dir.path());
    let taken = std::net::TcpListener::bind((crate::support::loopback(), 0)).expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a directory");
    fails_in_a_sentence(swarmfs().args(["mount", "-f", "--listen", &address]).arg(&torrent).arg(&mountpoint), &address);
    assert!(!is_mounted(&mountpoint));
}

#[test]
fn help_lists_every_common_option() {
    let help = output(swarmfs().args(["mount", "--help"]), Duration::from_secs(5));
    assert!(help.status.success());
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for option in COMMON_OPTIONS {
        assert!(help.contains(option), "mount --help does not list {option}");
    }
    let general = output(swarmfs().arg("--help"), Duration::from_secs(5));
    let general = String::from_utf8_lossy(&general.stdout).into_owned();
    for command in ["mount", "info", "seed", "unmount"] {
        assert!(general.contains(command), "--help does not list {command}");
    }
    let version = output(swarmfs().arg("--version"), Duration::from_secs(5));
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
}

/// As people type it: options before, between and after the paths.
#[test]
fn options_may_stand_anywhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = torrent_file(dir.path());
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a directory");
    for place in 0..3 {
        let mut words = vec![torrent.as_os_str().to_owned(), mountpoint.as_os_str().to_owned()];
        words.splice(
            place..place,
            ["--listen".into(), crate::support::free_address().to_string().into(), "--no-dht".into()],
        );
        let answer = output(swarmfs().arg("mount").args(words), Duration::from_secs(20));
        let mounted = is_mounted(&mountpoint);
        output(swarmfs().arg("unmount").arg(&mountpoint), Duration::from_secs(20));
        detach(&mountpoint);
        assert!(answer.status.success() && mounted, "options at place {place}: {answer:?}");
    }
}

/// Sizes, rates and times in every unit, and every common option at once: the mount comes up and reads.
#[test]
fn every_common_option_is_accepted() {
    let content = Arc::new(Content::noise("film.mkv", MIB, 32 << 10, 20));
    let seed = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join("cache");
    let torrent = content.torrent.write(dir.path(), None);
    for (memory, timeout, rate) in [("65536KiB", "60s", "900KiB"), ("64MiB", "1m", "10MiB"), ("1GiB", "1h", "1GiB")] {
        let mount = mount(&[&torrent]).peer(seed.address).args(&[
            "--memory",
            memory,
            "--cache-size",
            memory,
            "--read-timeout",
            timeout,
            "--upload-limit",
            rate,
            "--download-limit",
            rate,
            "--cache-dir",
            cache.to_str().expect("a UTF-8 path"),
            "--fill",
            "open",
            "--upload-slots",
            "3",
            "--max-peers",
            "50",
            "--no-pex",
            "--allow-other",
            "-o",
            "nodev,nosuid",
        ]);
        let mount = mount.start();
        assert!(std::fs::read(mount.path("film.mkv")).expect("the file") == content.bytes);
    }
}

#[test]
fn info_tells_what_is_in_a_torrent() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = Torrent::dead("dead", &[("a/b", 100_000), ("c", 5)], 32 << 10);
    let file = torrent.write(dir.path(), Some("http://tracker.example/announce"));
    let text = output(swarmfs().arg("info").arg(&file), Duration::from_secs(5));
    assert!(text.status.success(), "{text:?}");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for part in ["dead", &torrent.hex(), "a/b", "http://tracker.example/announce"] {
        assert!(text.contains(part), "info does not tell {part}: {text}");
    }
    let json = output(swarmfs().args(["info", "--json"]).arg(&file), Duration::from_secs(5));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let all = json.to_string();
    for part in
        ["dead", &torrent.hex(), "a/b", "100000", "32768", "http://tracker.example/announce", "2023-11-14T22:13:20Z"]
    {
        assert!(all.contains(part), "info --json does not tell {part}: {all}");
    }
}

/// 40 kB of nested lists are refused, not crashed on.
#[test]
fn a_nest_of_lists_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let nest = dir.path().join("nest.torrent");
    std::fs::write(&nest, "l".repeat(20_000) + &"e".repeat(20_000)).expect("a file");
    fails_in_a_sentence(swarmfs().arg("info").arg(&nest), "nest.torrent");
    let inside = format!("d4:infod4:name{}{}ee", "l".repeat(20_000), "e".repeat(20_000));
    std::fs::write(&nest, inside).expect("a file");
    fails_in_a_sentence(swarmfs().arg("info").arg(&nest), "nest.torrent");
}

#[test]
fn a_network_that_cannot_be_used_is_refused_and_a_password_not_repeated() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = Content::noise("noise.bin", 1000, 16 << 10, 1).torrent.write(dir.path(), None);
    let get = |options: &[&str]| {
        let mut command = swarmfs();
        command.args(["get", "-o"]).arg(dir.path()).arg(&file).args(["--listen", "127.0.0.1:0"]).args(options);
        command
    };
    for url in ["http://me:secret@127.0.0.1:1080", "socks5h://me:secret@127.0.0.1", "secret"] {
        let (code, text) = fails(&mut get(&["--proxy", url]));
        assert!(code == Some(2) && text.contains("--proxy") && !text.contains("secret"), "{text}");
    }
    fails_in_a_sentence(&mut get(&["--interface", "none-such0"]), "none-such0: cannot use this network interface");
    let list = dir.path().join("list");
    std::fs::write(&list, "this is no list\n").expect("a file");
    let path = list.to_str().expect("a UTF-8 path").to_owned();
    fails_in_a_sentence(&mut get(&["--block-list", &path]), &format!("{path}: no line of it is a range of addresses"));
    fails_in_a_sentence(&mut get(&["--block-list", "/none/such"]), "/none/such: cannot read");
}
