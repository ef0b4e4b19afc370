//! `swarmfs cache list|trim|clear|verify`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Output;

use super::common::{PIECE, SECOND, Shelf, allocated};
use crate::support::MIB;
use crate::support::process::{output, swarmfs};

fn cache(shelf: &Shelf, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        output(swarmfs().arg("cache").args(args).arg("--cache-dir").arg(shelf.cache()), SECOND * 60);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

fn json(shelf: &Shelf, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&cache(shelf, args).1).expect("JSON")
}

/// A cache with all of a torrent.
fn filled(length: u64) -> Shelf {
    let shelf = Shelf::film(length);
    let mut mount = shelf.mount().start();
    shelf.assert_same(&mount.path("film.mkv"));
    mount.terminate(SECOND * 10);
    shelf
}

#[test]
fn the_list_shows_what_is_there() {
    let shelf = Shelf::film(8 * MIB);
    let (code, text, _) = cache(&shelf, &["list"]);
    assert!(code == Some(0) && text.starts_with("0 B in 0 torrents"), "{text}");
    assert!(!shelf.cache().exists(), "nothing is made");
    let mount = shelf.mount().start();
    shelf.assert_same(&mount.path("film.mkv"));
    shelf.wait_kept(8 * MIB);
    // While it is in use, too.
    let (code, text, _) = cache(&shelf, &["list"]);
    assert!(code == Some(0) && text.contains("100 %") && text.contains("film.mkv"), "{text}");
    drop(mount);
    let listed = json(&shelf, &["list", "--json"]);
    let torrent = &listed["torrents"][0];
    assert_eq!(torrent["name"], "film.mkv");
    assert_eq!(torrent["info_hash"], shelf.content.torrent.hex());
    assert_eq!((torrent["size"].as_u64(), torrent["held"].as_u64()), (Some(8 * MIB), Some(8 * MIB)));
    assert_eq!(torrent["disk"].as_u64(), Some(allocated(&shelf.entry())));
}

#[test]
fn what_was_received_and_sent_is_kept_over_restarts() {
    let shelf = Shelf::film(4 * MIB);
    for round in 1..=2 {
        let mut mount = shelf.mount().args(&["--memory", "2MiB"]).start();
        shelf.assert_same(&mount.path("film.mkv"));
        mount.terminate(SECOND * 10);
        let listed = json(&shelf, &["list", "--json"]);
        let given = shelf.given();
        assert_eq!(listed["torrents"][0]["downloaded"].as_u64(), Some(given), "round {round}");
        fs::remove_file(shelf.entry().join("0")).expect("the data");
    }
}

#[test]
fn it_is_trimmed_and_cleared() {
    let shelf = filled(8 * MIB);
    let (code, _, said) = cache(&shelf, &["trim", "3MiB"]);
    assert!(code == Some(0) && said.contains("were freed"), "{said}");
    let left = allocated(&shelf.entry());
    assert!(left <= 3 * MIB && left > 2 * MIB, "{left}");
    // What is left is as good as before.
    let held = json(&shelf, &["list", "--json"])["torrents"][0]["held"].as_u64().expect("a number");
    assert!(held <= left && held > 2 * MIB, "{held}");
    let (code, text, _) = cache(&shelf, &["verify"]);
    let pieces = held / PIECE;
    assert!(code == Some(0) && text.contains(&format!("{pieces} of {pieces} pieces")), "{text}");
    let mut mount = shelf.mount().start();
    shelf.assert_same(&mount.path("film.mkv"));
    let refused = cache(&shelf, &["clear"]);
    assert!(refused.0 == Some(1) && refused.2.contains("unmount it first"), "{refused:?}");
    mount.terminate(SECOND * 10);
    let refused = cache(&shelf, &["clear", "0000"]);
    assert!(refused.0 == Some(1) && refused.2.contains("no torrent of the cache begins with 0000"), "{refused:?}");
    let (code, _, said) = cache(&shelf, &["clear", &shelf.content.torrent.hex()[..8]]);
    assert!(code == Some(0) && !shelf.entry().exists(), "{said}");
    let (code, _, said) = cache(&shelf, &["clear"]);
    assert!(code == Some(0), "{said}");
}

#[test]
fn damage_is_found_and_dropped() {
    let shelf = filled(8 * MIB);
    let (code, text, _) = cache(&shelf, &["verify"]);
    assert!(code == Some(0) && text.contains("film.mkv: 32 of 32 pieces are right"), "{text}");
    let file = File::options().write(true).open(shelf.entry().join("0")).expect("the data");
    for piece in [3, 17] {
        file.write_all_at(b"damage", piece * PIECE + 70_000).expect("a byte");
    }
    let (code, text, _) = cache(&shelf, &["verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, report["damaged_pieces"].as_u64()), (Some(1), Some(2)));
    let (code, text, _) = cache(&shelf, &["verify"]);
    assert!(code == Some(0) && text.contains("30 of 30"), "{text}");
}
