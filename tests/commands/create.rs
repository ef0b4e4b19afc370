//! `swarmfs create`: the same bytes for the same files, everything that can go in goes in, what cannot is refused by its
//! name with exit code 1, and OUT is there whole or not at all.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::process::{Running, output, succeed, swarmfs};
use crate::support::{Random, wait_until};
use proptest::prelude::*;
use rustix::process::Signal;
use sha1::{Digest, Sha1};
use swarmfs::Error;
use swarmfs::create::{Options, create};
use swarmfs::metainfo::{FileKind, Metainfo, PieceIndex};

const SECOND: Duration = Duration::from_secs(1);
const NOBODY: u32 = 65534;

fn put(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, bytes).expect("a file");
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Random::new(seed).fill(&mut bytes);
    bytes
}

/// A directory `tree` with a bit of everything that a torrent can hold; the files are made in the order of `turn`.
fn tree(dir: &Path, turn: u64) -> PathBuf {
    let root = dir.join("tree");
    let mut files = ["a/x", "a.b", "a/b/deep", ".hidden/f", "empty", "ä ö/日本", "z", "a/-dash"];
    files.rotate_left(usize::try_from(turn).expect("small"));
    for path in files {
        let length = if path == "empty" { 0 } else { path.len() * 7_777 };
        put(root.join(path), noise(length, u64::try_from(path.len()).expect("small")));
    }
    fs::set_permissions(root.join("a/x"), PermissionsExt::from_mode(0o755)).expect("its mode");
    fs::create_dir_all(root.join("nothing/in/it")).expect("a directory");
    symlink("../x", root.join("a/b/file")).expect("a link");
    symlink("a/b", root.join("directory")).expect("a link");
    symlink("directory/../x", root.join("around")).expect("a link");
    symlink("around", root.join("twice")).expect("a link");
    root
}

/// The torrent of `path` as the library makes it.
fn made(path: &Path, options: &Options) -> swarmfs::Result<Metainfo> {
    let bytes = create(path, options, &|_| {}, &|_| {}, &AtomicBool::new(false))?;
    Ok(Metainfo::parse(&bytes).expect("it reads back"))
}

fn names(dir: &Path) -> Vec<String> {
    let list = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> = list.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// `swarmfs create` of `path` with OUT in `out` must fail with exit code 1 and one sentence that has all of `texts`,
/// and leave nothing in `out`.
#[track_caller]
fn refused(path: &Path, out: &Path, args: &[&str], texts: &[&str]) {
    let before = names(out);
    let answer =
        output(swarmfs().arg("create").arg(path).args(["-o", "out.torrent"]).args(args).current_dir(out), SECOND * 20);
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert_eq!(answer.status.code(), Some(1), "{said}");
    assert!(answer.stdout.is_empty());
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    for text in texts {
        assert!(said.contains(text), "it does not say {text}: {said}");
    }
    assert_eq!(names(out), before, "something is left");
}

#[test]
fn the_same_files_give_the_same_bytes_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrents: Vec<Vec<u8>> = (0..3)
        .map(|turn| {
            let root = tree(&dir.path().join(turn.to_string()), turn);
            let out = dir.path().join(format!("{turn}.torrent"));
            let args = ["--tracker", "http://t/announce", "--comment", "für alle", "--piece-length", "16KiB", "-o"];
            succeed(swarmfs().arg("create").arg(&root).args(args).arg(&out), SECOND * 20);
            fs::read(out).expect("the torrent")
        })
        .collect();
    assert!(torrents[0] == torrents[1] && torrents[1] == torrents[2]);
    let meta = Metainfo::parse(&torrents[0]).expect("it reads back");
    let file = |executable| FileKind::Regular { executable };
    let link = |target: &str| FileKind::Symlink { target: target.into() };
    let found: Vec<_> = meta.files.iter().map(|f| (&*f.path, f.kind.clone())).collect();
    let expected = [
        (".hidden/f", file(false)),
        ("a/-dash", file(false)),
        ("a/b/deep", file(false)),
        ("a/b/file", link("../x")),
        ("a/x", file(true)),
        ("a.b", file(false)),
        ("around", link("a/x")),
        ("directory", link("a/b")),
        ("empty", file(false)),
        ("twice", link("around")),
        ("z", file(false)),
        ("ä ö/日本", file(false)),
    ];
    assert_eq!(found, expected);
    assert_eq!((&*meta.name, meta.comment.as_deref(), meta.creation_date), ("tree", Some("für alle"), None));
    assert_eq!(meta.geometry.nominal_piece_length(), 16 << 10);
    // A copy with these links is complete in the eyes of `seed`'s check.
    let data = swarmfs::cache::DataDir::open(&meta, &dir.path().join("1")).expect("the copy");
    let report = data.verify(&meta, &|_| {}, &AtomicBool::new(false)).expect("a report");
    assert!(report.have.iter().all(|have| *have) && report.bad_files.is_empty(), "{report:?}");
}

#[test]
fn every_option_is_in_the_torrent_and_in_what_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    put(dir.path().join("film.mkv"), noise(70_000, 1));
    let args =
        ["create", "film.mkv", "--json", "--private", "--tracker", "http://a/announce", "--tracker", "udp://b:6969"];
    let more = ["--tracker", "http://a/announce", "--web-seed", "https://w/film.mkv", "--piece-length", "32KiB"];
    let said = succeed(swarmfs().args(args).args(more).current_dir(dir.path()), SECOND * 20);
    let said: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
    let bytes = fs::read(dir.path().join("film.mkv.torrent")).expect("the default OUT");
    let meta = Metainfo::parse(&bytes).expect("it reads back");
    assert_eq!(meta.trackers, [["http://a/announce"], ["udp://b:6969"]]);
    assert_eq!(meta.web_seeds, ["https://w/film.mkv"]);
    assert!(meta.private && meta.single_file);
    assert_eq!(meta.created_by, Some(format!("swarmfs {}", env!("CARGO_PKG_VERSION"))));
    let expected = serde_json::json!({
        "name": "film.mkv", "info_hash": meta.id.to_string(), "size": 70_000, "piece_length": 32_768, "pieces": 3,
        "files": 1, "links": 0, "torrent": "film.mkv.torrent",
    });
    assert_eq!(said, expected);
    // To the standard output: the same bytes and nothing else.
    let mut piped = swarmfs();
    piped.args(args).args(more).args(["-o", "-"]).current_dir(dir.path());
    assert_eq!(output(&mut piped, SECOND * 20).status.code(), Some(2), "--json and -o -");
    let args: Vec<_> = args.iter().filter(|arg| **arg != "--json").collect();
    let piped = succeed(swarmfs().args(args).args(more).args(["-o", "-"]).current_dir(dir.path()), SECOND * 20);
    assert!(piped == bytes);
}

#[test]
fn the_root_may_be_given_in_any_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = tree(dir.path(), 0);
    symlink("tree", dir.path().join("other")).expect("a link");
    symlink("tree/z", dir.path().join("single")).expect("a link");
    let hash = |path: &Path| made(path, &Options::default()).expect("a torrent").id;
    let expected = hash(&root);
    for path in ["tree/", "tree/.", "tree/a/..", "./tree"] {
        assert_eq!(hash(&dir.path().join(path)), expected, "{path}");
    }
    let name = |path: &str| made(&dir.path().join(path), &Options::default()).expect("a torrent").name;
    assert_eq!([name("other"), name("single")], ["other", "single"]);
    let out = tempfile::tempdir().expect("a directory");
    for path in [".", ".."] {
        let from = if path == "." { root.clone() } else { root.join("a") };
        succeed(swarmfs().args(["create", path, "-o"]).arg(out.path()).current_dir(from), SECOND * 20);
        let torrent = out.path().join("tree.torrent");
        let meta = Metainfo::parse(&fs::read(&torrent).expect("the torrent")).expect("it reads back");
        assert_eq!(meta.id, expected, "{path}");
        fs::remove_file(torrent).expect("it goes");
    }
    refused(Path::new("/"), out.path(), &[], &["/: "]);
}

#[test]
fn what_cannot_go_in_is_refused_by_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let outs = tempfile::tempdir().expect("a directory");
    let (root, out) = (dir.path().join("tree"), outs.path());
    let bad = root.join("sub/bad");
    put(dir.path().join("outside"), "x");
    put(root.join("sub/good"), "x");
    fs::create_dir(root.join("nothing")).expect("a directory");
    put(root.join("away"), "x");
    let link = |target: &str| symlink(target, &bad).expect("a link");
    let cases: [(&str, &dyn Fn()); 11] = [
        ("leads out", &|| link("../../outside")),
        ("leads out", &|| link("/etc/passwd")),
        ("leads to nothing (missing)", &|| link("missing")),
        ("cannot be followed", &|| link("bad")),
        ("own directory", &|| link("..")),
        ("is not in the torrent", &|| link("../nothing")),
        ("is not in the torrent", &|| link("../away")),
        ("a FIFO", &|| {
            rustix::fs::mknodat(rustix::fs::CWD, &bad, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
                .expect("a FIFO");
        }),
        ("a socket", &|| drop(UnixListener::bind(&bad).expect("a socket"))),
        ("bad", &|| put(root.join("sub/bad"), "")),
        ("padding", &|| put(root.join("sub/_____padding_file_bad"), "x")),
    ];
    for (text, make) in cases {
        make();
        if text == "bad" {
            // No case of its own: an empty file is fine.
            assert!(made(&root, &Options::default()).is_ok());
        } else {
            refused(&root, out, &["--exclude", "away"], &["bad", text, "--exclude"]);
            let rest = Options { exclude: vec!["*bad".into(), "away".into()], ..Options::default() };
            let meta = made(&root, &rest).expect("the rest can go in");
            assert_eq!(meta.files.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["sub/good"]);
            let skips = Options { exclude: vec!["away".into()], skip_unfit: true, ..Options::default() };
            let meta = made(&root, &skips).expect("what is bad is left out");
            assert_eq!(meta.files.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["sub/good"], "{text}");
        }
        for name in ["bad", "_____padding_file_bad"] {
            let _ = fs::remove_file(root.join("sub").join(name));
        }
    }
    // Links to what is left out go with it, however long the chain is.
    for (name, target) in [("bad", "/etc/passwd"), ("c", "bad"), ("b", "c"), ("a", "b"), ("d", "good")] {
        symlink(target, root.join("sub").join(name)).expect("a link");
    }
    let meta = made(&root, &Options { skip_unfit: true, ..Options::default() }).expect("the rest goes in");
    assert_eq!(meta.files.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["away", "sub/d", "sub/good"]);
    let said = output(swarmfs().arg("create").arg(&root).args(["--skip-unfit", "-v", "-o"]).arg(out), SECOND * 20);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("4 things") && said.contains("sub/bad: it is a link that leads out"), "{said}");
    fs::remove_file(out.join("tree.torrent")).expect("it was made");
    ["bad", "c", "b", "a", "d"].iter().for_each(|name| fs::remove_file(root.join("sub").join(name)).expect("it goes"));
    let latin = root.join(OsStr::from_bytes(b"caf\xe9\x1b[1m"));
    put(&latin, "x");
    refused(&root, out, &[], &["tree/caf\\xe9\\u{1b}[1m", "UTF-8", "--exclude"]);
    refused(&latin, out, &[], &["caf\\xe9\\u{1b}[1m", "UTF-8"]);
    fs::remove_file(&latin).expect("it goes");
    put(root.join("d/".repeat(99)).join("f"), "x");
    assert!(made(&root, &Options::default()).is_ok(), "100 components are fine");
    put(root.join("d/".repeat(100)).join("f"), "x");
    refused(&root, out, &[], &["d/d/f: ", "100"]);
    refused(&root.join("nothing"), out, &[], &["tree/nothing: ", "no file"]);
    refused(&root.join("missing"), out, &[], &["tree/missing: "]);
    refused(Path::new("/dev/null"), out, &[], &["/dev/null: ", "character device"]);
    put(dir.path().join("empty/e"), "");
    refused(&dir.path().join("empty"), out, &[], &["empty: ", "empty files"]);
    let huge = dir.path().join("huge");
    File::create(&huge).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    refused(&huge, out, &["--piece-length", "16KiB"], &["huge: ", "67108864 pieces", "2097152", "--piece-length"]);
}

/// A directory that user nobody can reach, and the program in it, which runs as nobody if we are root.
fn as_ordinary_user() -> (tempfile::TempDir, Command) {
    let dir = tempfile::Builder::new().prefix("swarmfs-user-").tempdir_in("/tmp").expect("a directory");
    let program = dir.path().join("swarmfs");
    fs::copy(env!("CARGO_BIN_EXE_swarmfs"), &program).expect("the program");
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).expect("its mode");
    let mut command = Command::new(program);
    command.arg("create").current_dir(dir.path());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    (dir, command)
}

#[test]
fn what_cannot_be_read_is_refused_before_anything_is_hashed() {
    for secret in ["tree/sub/secret", "tree/sub"] {
        let (dir, mut command) = as_ordinary_user();
        // Hashing this would take minutes.
        put(dir.path().join("tree/first"), "");
        File::create(dir.path().join("tree/first")).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
        put(dir.path().join("tree/sub/secret"), "x");
        fs::set_permissions(dir.path().join(secret), PermissionsExt::from_mode(0o0)).expect("its mode");
        let answer = output(command.arg("tree"), SECOND * 20);
        fs::set_permissions(dir.path().join(secret), PermissionsExt::from_mode(0o700)).expect("its mode");
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert_eq!(answer.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{secret}: cannot be read: Permission denied")), "{said}");
        assert_eq!(names(dir.path()), ["swarmfs", "tree"]);
    }
    let (dir, mut command) = as_ordinary_user();
    put(dir.path().join("file"), "x");
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o555)).expect("its mode");
    let answer = output(command.args(["file", "-o", "closed/out"]), SECOND * 20);
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(answer.status.code() == Some(1) && said.contains("closed: cannot be written to"), "{said}");
}

/// Whatever happens to a file while it is hashed, the torrent is refused and the file is named.
#[test]
fn a_file_that_changes_meanwhile_is_refused() {
    let changes: [&(dyn Fn(&Path) + Sync); 5] = [
        &|path| {
            File::options()
                .append(true)
                .open(path)
                .and_then(|file| file.write_at(b"more", 600_000).map(drop))
                .expect("more")
        },
        &|path| File::options().write(true).open(path).and_then(|file| file.set_len(10)).expect("less"),
        &|path| {
            File::options().write(true).open(path).and_then(|file| file.write_all_at(b"other", 0)).expect("other bytes")
        },
        &|path| fs::remove_file(path).expect("it goes"),
        &|path| {
            fs::remove_file(path).expect("it goes");
            symlink("../first", path).expect("a link");
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("a directory");
        put(dir.path().join("first"), noise(600_000, 1));
        let victim = dir.path().join("sub/victim");
        put(&victim, noise(600_000, 2));
        // Clocks of file systems are coarse.
        let past = std::time::SystemTime::UNIX_EPOCH + SECOND;
        File::options().write(true).open(&victim).and_then(|file| file.set_modified(past)).expect("its time");
        let done = AtomicBool::new(false);
        let progress = |_| {
            if !done.swap(true, Ordering::Relaxed) {
                change(&victim);
            }
        };
        let refused = create(dir.path(), &Options::default(), &|_| {}, &progress, &AtomicBool::new(false));
        let said = refused.expect_err("it changed").to_string();
        assert!(said.contains("sub/victim: it changed while it was hashed"), "{number}: {said}");
    }
}

#[test]
fn progress_adds_up_and_stop_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = tree(dir.path(), 0);
    put(root.join("large"), noise(20 << 20, 1));
    let (total, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = |bytes| total.store(bytes, Ordering::Relaxed);
    let progress = |bytes| {
        sum.fetch_add(bytes, Ordering::Relaxed);
    };
    let bytes = create(&root, &Options::default(), &begun, &progress, &AtomicBool::new(false)).expect("a torrent");
    let size = Metainfo::parse(&bytes).expect("it reads back").geometry.total();
    assert_eq!((total.into_inner(), sum.into_inner()), (size, size));

    let stop = AtomicBool::new(false);
    let stopped = create(&root, &Options::default(), &|_| {}, &|_| stop.store(true, Ordering::Relaxed), &stop);
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
}

/// Ctrl-C and SIGTERM while it hashes: exit code 130, and nothing is left.
#[test]
fn a_signal_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let dir = tempfile::tempdir().expect("a directory");
        let log = tempfile::NamedTempFile::new().expect("a log");
        // It would take minutes.
        File::create(dir.path().join("huge")).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
        let mut command = swarmfs();
        command.args(["create", "huge"]).current_dir(dir.path());
        let mut process = Running::spawn("swarmfs create", command, log.path(), SECOND * 60);
        let open = PathBuf::from(format!("/proc/{}/fd", process.pid()));
        wait_until(SECOND * 20, "it hashes", || {
            let files = fs::read_dir(&open).into_iter().flatten().flatten();
            files.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path.ends_with("huge"))
        });
        process.signal(signal);
        let Some((status, _)) = process.wait(SECOND * 10) else { panic!("it goes on after {signal:?}") };
        assert_eq!(status.code(), Some(130), "{}", process.log());
        assert_eq!(names(dir.path()), ["huge"]);
        assert!(process.log().contains("nothing was written"), "{}", process.log());
    }
}

#[test]
fn out_is_never_overwritten_unless_forced_and_never_part_of_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = tree(dir.path(), 0);
    let out = root.join("a/new.torrent");
    let run = |more: &[&str]| {
        let mut command = swarmfs();
        command.arg("create").arg(&root).arg("-o").arg(&out).args(more);
        output(&mut command, SECOND * 20)
    };
    assert!(run(&[]).status.success());
    let first = fs::read(&out).expect("the torrent");
    let again = run(&["--comment", "another"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        again.status.code() == Some(1) && said.contains("new.torrent: is there already") && said.contains("--force"),
        "{said}"
    );
    assert!(fs::read(&out).expect("the torrent") == first);
    assert!(run(&["--force"]).status.success());
    assert!(fs::read(&out).expect("the torrent") == first, "it is part of itself");
    assert_eq!(names(&root.join("a")), ["-dash", "b", "new.torrent", "x"]);
    // A torrent of another name is a file as any other.
    let other =
        made(&root, &Options { out: Some(dir.path().join("x.torrent")), ..Options::default() }).expect("a torrent");
    assert!(other.files.iter().any(|file| &*file.path == "a/new.torrent"));
    let itself = output(swarmfs().arg("create").arg(&out).arg("-o").arg(&out).arg("--force"), SECOND * 20);
    assert_eq!(itself.status.code(), Some(1));
    assert!(fs::read(&out).expect("the torrent") == first);
}

#[test]
fn excludes_leave_out_names_paths_and_directories() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("tree");
    for path in ["keep", "a.tmp", "d/b.tmp", "d/keep", "build/x/y", "e/build/z", "e/f/build", "e/f/g", "e/h"] {
        put(root.join(path), path);
    }
    let left = |globs: &[&str]| {
        let exclude = globs.iter().map(|&glob| glob.to_owned()).collect();
        let meta = made(&root, &Options { exclude, ..Options::default() }).expect("a torrent");
        meta.files.iter().map(|file| file.path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(left(&["*.tmp", "build/"]), ["d/keep", "e/f/build", "e/f/g", "e/h", "keep"]);
    assert_eq!(left(&["build", "d", "*.tmp"]), ["e/f/g", "e/h", "keep"]);
    assert_eq!(left(&["e/*", "build/**/y"]), ["a.tmp", "d/b.tmp", "d/keep", "keep"]);
    let warned = output(swarmfs().args(["create", "tree", "--exclude", "typo*"]).current_dir(dir.path()), SECOND * 20);
    let said = String::from_utf8_lossy(&warned.stderr).into_owned();
    assert!(warned.status.success() && said.contains("--exclude typo*: nothing has this name"), "{said}");
}

#[test]
fn nonsense_on_the_command_line_is_code_2() {
    let dir = tempfile::tempdir().expect("a directory");
    put(dir.path().join("f"), "x");
    for (args, text) in [
        (["--tracker", "tracker"], "http://HOST/announce"),
        (["--tracker", "wss://t/"], "udp://HOST:PORT"),
        (["--web-seed", "ftp://w/"], "https://HOST/PATH"),
        (["--piece-length", "48KiB"], "power of two"),
        (["--piece-length", "1GiB"], "512MiB"),
        (["--exclude", "["], "not a glob"),
    ] {
        let answer = output(swarmfs().args(["create", "f"]).args(args).current_dir(dir.path()), SECOND * 20);
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(answer.status.code() == Some(2) && said.contains(text), "{args:?}: {said}");
        assert_eq!(names(dir.path()), ["f"]);
        // The library refuses the same.
        let [option, value] = args.map(str::to_owned);
        let mut options = Options::default();
        match &*option {
            "--tracker" => options.trackers.push(value),
            "--web-seed" => options.web_seeds.push(value),
            "--exclude" => options.exclude.push(value),
            _ => options.piece_length = Some(48 << 10),
        }
        assert!(matches!(made(&dir.path().join("f"), &options), Err(Error::Create { .. })), "{args:?}");
    }
}

/// A tree to be: paths in a few directories, with their lengths and executable bits.
fn trees() -> impl Strategy<Value = Vec<(String, usize, bool)>> {
    let path = "[a-c.é]{1,3}(/[a-c ]{1,2}){0,3}";
    prop::collection::vec((path, prop_oneof![Just(0), 1..200_usize, 1..90_000_usize], any::<bool>()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the tree: its files come back with their lengths and bits in the order of their components, and every
    /// piece hash is that of the files' bytes put together.
    #[test]
    fn any_tree_comes_back(files in trees(), shift in 14..18_u32) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("a directory");
        let mut kept = std::collections::BTreeMap::new();
        for (number, (path, length, executable)) in files.into_iter().enumerate() {
            let place = root.join(&path);
            if path.split('/').any(|name| name.trim_matches('.').is_empty())
                || fs::create_dir_all(place.parent().expect("a parent")).is_err()
                || place.exists()
            {
                continue; // `.`, `..`, below a file, or in the place of a directory
            }
            let bytes = noise(length, u64::try_from(number).expect("small"));
            put(&place, &bytes);
            fs::set_permissions(&place, PermissionsExt::from_mode(if executable { 0o755 } else { 0o644 })).expect("its mode");
            let key: Vec<String> = path.split('/').map(str::to_owned).collect();
            kept.insert(key, (path, bytes, executable));
        }
        let all: Vec<u8> = kept.values().flat_map(|(_, bytes, _)| bytes).copied().collect();
        let options = Options { piece_length: Some(1 << shift), ..Options::default() };
        let made = made(&root, &options);
        if all.is_empty() {
            let refused = matches!(made, Err(Error::Create { .. }));
            prop_assert!(refused);
            return Ok(());
        }
        let meta = made.expect("a torrent");
        let back: Vec<_> = meta.files.iter().map(|file| (&*file.path, file.length, file.kind.clone())).collect();
        let expected: Vec<_> = kept.values().map(|(path, bytes, executable)| {
            (&**path, u64::try_from(bytes.len()).expect("small"), FileKind::Regular { executable: *executable })
        }).collect();
        prop_assert_eq!(back, expected);
        let hashes: Vec<[u8; 20]> = all.chunks(1 << shift).map(|piece| Sha1::digest(piece).into()).collect();
        prop_assert_eq!(usize::try_from(meta.geometry.pieces()).expect("small"), hashes.len());
        for (piece, hash) in (0..).map(PieceIndex).zip(&hashes) {
            prop_assert_eq!(meta.piece_hashes.get(piece), Some(hash));
        }
    }
}
