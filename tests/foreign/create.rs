//! What `swarmfs create` makes, in the hands of others: libtorrent, Transmission and aria2 read the same torrent in it
//! and find a copy complete.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, Transmission, libtorrent};
use crate::support::lab::Lab;
use crate::support::process::{shell, succeed, swarmfs};
use crate::support::wait_until;
use swarmfs::metainfo::{File, FileKind, Metainfo};

const SECOND: Duration = Duration::from_secs(1);

/// The links of a copy that has some, and the paths below its root that they lead to.
const LINKS: [(&str, &str); 3] = [("again", "start"), ("bin/directory", "docs"), ("start", "bin/hello.sh")];

/// The .torrent of `path`, beside it, and what we read in it.
fn create(path: &Path, args: &[&str]) -> (PathBuf, Metainfo) {
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let out = path.with_file_name(name + ".torrent");
    succeed(swarmfs().arg("create").arg(path).arg("-o").arg(&out).args(args), SECOND * 60);
    let meta = Metainfo::parse(&fs::read(&out).expect("the torrent")).expect("it reads back");
    (out, meta)
}

/// A copy of the small dataset, with links in it if so wanted.
fn copy(dir: &Path, links: bool) -> PathBuf {
    let dataset = Dataset::small();
    shell("cp -a \"$1\" \"$2\"", &[&dataset.root(), dir], SECOND * 60);
    let root = dir.join(&dataset.name);
    if links {
        symlink("../docs", root.join("bin/directory")).expect("a link");
        symlink("bin/hello.sh", root.join("start")).expect("a link");
        symlink("start", root.join("again")).expect("a link");
    }
    root
}

fn file_of(meta: &Metainfo, path: &str) -> File {
    meta.files.iter().find(|file| &*file.path == path).cloned().unwrap_or_else(|| panic!("there is no {path}"))
}

#[test]
#[ignore = "needs root and libtorrent"]
fn libtorrent_reads_the_same_and_finds_the_copy_complete() {
    let lab = Lab::enter();
    let root = copy(lab.dir.path(), true);
    let trackers = ["--tracker", "http://10.77.0.1:9/announce", "--tracker", "udp://10.77.0.1:9", "--private"];
    let (torrent, meta) =
        create(&root, &[&trackers[..], &["--comment", "für alle", "--web-seed", "http://10.77.0.1:9/d"]].concat());
    let shown = succeed(libtorrent().arg("show").arg(&torrent), SECOND * 20);
    let shown: serde_json::Value = serde_json::from_slice(&shown).expect("JSON");
    let files: Vec<_> = meta
        .files
        .iter()
        .map(|file| {
            let path = format!("{}/{}", meta.name, file.path);
            let (executable, link) = match &file.kind {
                FileKind::Regular { executable } => (*executable, String::new()),
                FileKind::Symlink { .. } => {
                    let (_, place) = LINKS.iter().find(|(path, _)| **path == *file.path).expect("a link");
                    (false, format!("{}/{place}", meta.name))
                }
                other => panic!("{path}: {other:?}"),
            };
            serde_json::json!({"path": path, "size": file.length, "executable": executable, "link": link})
        })
        .collect();
    assert_eq!(files.iter().filter(|file| file["link"] != "").count(), LINKS.len());
    let expected = serde_json::json!({
        "info_hash": meta.id.to_string(), "piece_length": meta.geometry.nominal_piece_length(), "files": files,
        "trackers": [["http://10.77.0.1:9/announce", 0], ["udp://10.77.0.1:9", 1]], "comment": "für alle",
        "creator": format!("swarmfs {}", env!("CARGO_PKG_VERSION")), "private": true,
        "web_seeds": ["http://10.77.0.1:9/d/"],
    });
    assert_eq!(shown, expected);
    // Nobody is there to download from: it is complete by its own check or never.
    let (torrent, _) = create(&root, &["--force"]);
    let mut checker = LibTorrent::leech(&lab, &torrent, lab.dir.path());
    checker.complete(SECOND * 60);
    assert!(checker.done() >= 1.0, "{}", checker.done());
    // And a single file, which is executable.
    let (torrent, meta) = create(&root.join("bin/hello.sh"), &[]);
    let shown = succeed(libtorrent().arg("show").arg(&torrent), SECOND * 20);
    let shown: serde_json::Value = serde_json::from_slice(&shown).expect("JSON");
    assert_eq!(shown["info_hash"], meta.id.to_string());
    assert_eq!((&meta.files[0].kind, meta.single_file), (&FileKind::Regular { executable: true }, true));
    LibTorrent::leech(&lab, &torrent, &root.join("bin")).complete(SECOND * 60);
}

/// The info dictionary is, byte for byte, what libtorrent makes of the same files.
#[test]
#[ignore = "needs libtorrent"]
fn libtorrent_makes_the_same_info_hash() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("film.mkv");
    fs::copy(Dataset::small().root().join("large.bin"), &file).expect("a file");
    let info = dir.path().join("info");
    succeed(libtorrent().arg("make").arg(&file).arg(&info).arg("64"), SECOND * 60);
    let (torrent, meta) = create(&file, &["--piece-length", "64KiB"]);
    let ours = fs::read(&torrent).expect("the torrent");
    let theirs = fs::read(&info).expect("the info dictionary");
    assert!(ours.windows(theirs.len()).any(|window| window == theirs), "{}", meta.id);
}

#[test]
#[ignore = "needs root, transmission-daemon and transmission-cli"]
fn transmission_reads_the_same_and_finds_the_copy_complete() {
    let lab = Lab::enter();
    let root = copy(lab.dir.path(), true);
    let (torrent, meta) = create(&root, &[]);
    let shown = succeed(Command::new("transmission-show").arg(&torrent), SECOND * 20);
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains(&format!("Hash: {}", meta.id)), "{shown}");
    assert!(shown.contains(&format!("Piece Count: {}", meta.geometry.pieces())), "{shown}");
    for file in &meta.files {
        assert!(shown.contains(&format!("{}/{} (", meta.name, file.path)), "there is no {}: {shown}", file.path);
    }
    let transmission = Transmission::start(&lab, &torrent, lab.dir.path());
    wait_until(SECOND * 90, "Transmission finds everything", || transmission.is_complete());
    assert_eq!(fs::read_link(root.join("start")).expect("a link"), Path::new("bin/hello.sh"));
}

/// aria2 knows no links (and empties what they lead to when it checks), so there are none in this copy.
#[test]
#[ignore = "needs root and aria2"]
fn aria2_reads_the_same_and_finds_the_copy_complete() {
    let lab = Lab::enter();
    let (torrent, meta) = create(&copy(lab.dir.path(), false), &[]);
    let shown = succeed(Command::new("aria2c").args(["--no-conf", "--show-files"]).arg(&torrent), SECOND * 20);
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains(&meta.id.to_string()) || shown.contains(&meta.id.to_string().to_uppercase()), "{shown}");
    for file in &meta.files {
        assert!(shown.contains(&format!("./{}/{}\n", meta.name, file.path)), "there is no {}: {shown}", file.path);
    }
    assert_eq!(file_of(&meta, "bin/hello.sh").kind, FileKind::Regular { executable: true });
    let mut check = Command::new("aria2c");
    check.args([
        "--no-conf",
        "--check-integrity",
        "--hash-check-only=true",
        "--enable-dht=false",
        "--enable-dht6=false",
    ]);
    check.args(["--bt-enable-lpd=false", "--seed-time=0", "-d"]).arg(lab.dir.path()).arg(&torrent);
    succeed(&mut check, SECOND * 60);
    // One wrong byte, and it does not.
    shell(
        "printf x | dd of=\"$1\" bs=1 seek=12345 conv=notrunc status=none",
        &[&lab.dir.path().join(&meta.name).join("large.bin")],
        SECOND * 5,
    );
    assert!(!crate::support::process::output(&mut check, SECOND * 60).status.success());
}
