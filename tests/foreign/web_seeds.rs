//! nginx as the only source of a torrent (BEP 19): what it has is streamed through a mount, what it cannot give is refused
//! with the reason in the log.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::foreign::libtorrent;
use crate::support::mounts::{Mount, mount};
use crate::support::nginx::Nginx;
use crate::support::process::{shell, succeed};
use crate::support::torrent::Content;

const LIFE: Duration = Duration::from_secs(120);
const FILES: [(&str, u64); 8] = [
    ("Film 100%.bin", 9_000_001),
    ("a b/c#d?e.bin", 70_001),
    ("a b/empty", 0),
    ("a+b&c=d;e,f@g.bin", 300_000),
    ("\u{43a}\u{43e}\u{442}/\u{e4}\u{f6}\u{fc} \u{1f3ac}.bin", 2_000_000),
    ("quote'\"<>.bin", 17),
    ("tail\\of|it.bin", 40_000),
    ("z.bin", 1_000_000),
];

struct Fixture {
    content: Content,
    data: PathBuf,
    nginx: Nginx,
    dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let content = Content::of_files("Odd & names", &FILES, 128 << 10, 77);
    let data = dir.path().join("data");
    let mut at = 0;
    for (path, length) in FILES {
        let (file, length) = (data.join("Odd & names").join(path), usize::try_from(length).expect("a length"));
        std::fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
        std::fs::write(file, &content.bytes[at..at + length]).expect("a file");
        at += length;
    }
    let own = dir.path().join("nginx");
    std::fs::create_dir(&own).expect("a directory");
    let nginx = Nginx::start(&own, &data, LIFE);
    Fixture { content, data, nginx, dir }
}

impl Fixture {
    fn mount(&self, path: &str, arguments: &[&str]) -> Mount {
        let torrent = self.content.torrent.write_with(self.dir.path(), None, &[&self.nginx.url(path)]);
        mount(&[&torrent]).args(arguments).start()
    }

    fn original(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.data.join("Odd & names").join(path)).expect("the original")
    }

    #[track_caller]
    fn same(&self, mount: &Mount, path: &str) {
        let read = std::fs::read(mount.path("Odd & names").join(path));
        let read = read.unwrap_or_else(|e| panic!("{path}: {e}: {}", mount.log()));
        assert!(read == self.original(path), "{path} is not what was served");
    }
}

#[test]
#[ignore = "needs fuse, nginx"]
fn all_of_it_is_streamed_from_nginx() {
    let f = fixture();
    for path in ["/plain/", "/moved/", "/busy/"] {
        let before = f.nginx.requests().len();
        let mount = f.mount(path, &["--read-timeout", "20s"]);
        for (file, _) in FILES {
            f.same(&mount, file);
        }
        shell("diff -r \"$1\" \"$2\"", &[&f.data, &mount.mountpoint], LIFE);
        let log = mount.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{path}: {log}");
        let requests = f.nginx.requests();
        let fetched = requests.iter().skip(before).filter(|line| line.contains("\" 206 ")).count();
        assert!(fetched < 80, "{path}: 12 MB take {fetched} requests: {requests:#?}");
    }
    let moved = f.nginx.requests().iter().filter(|line| line.contains("\" 302 ")).count();
    assert!(moved < 30, "a redirect is remembered: {moved}");
}

/// A reader far inside a file does not wait for what comes before it.
#[test]
#[ignore = "needs fuse, nginx"]
fn a_seek_is_one_request() {
    let f = fixture();
    let mount = f.mount("/plain/", &["--fill", "none"]);
    let file = std::fs::File::open(mount.path("Odd & names").join(FILES[0].0)).expect("the file");
    let original = f.original(FILES[0].0);
    for at in [8_000_000_usize, 100_000, 5_000_000] {
        let (mut bytes, began) = (vec![0; 4_096], Instant::now());
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, at as u64).expect("the bytes");
        assert!(bytes == original[at..at + 4_096]);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    let requests = f.nginx.requests();
    assert!((3..=12).contains(&requests.len()), "{requests:#?}");
}

#[test]
#[ignore = "needs fuse, nginx"]
fn a_large_file_needs_ranges_and_the_log_says_so() {
    let f = fixture();
    let mount = f.mount("/whole/", &["--read-timeout", "3s", "--fill", "none"]);
    f.same(&mount, "a b/empty");
    let error = std::fs::read(mount.path("Odd & names").join(FILES[0].0)).expect_err("it cannot be streamed");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let log = mount.log();
    assert!(log.contains("is not asked for \"Film 100%.bin\" again: the server does not support ranges"), "{log}");
}

#[test]
#[ignore = "needs fuse, nginx"]
fn a_file_that_is_another_one_there_is_given_up_alone() {
    let f = fixture();
    let path = f.data.join("Odd & names").join(FILES[0].0);
    let mut wrong = f.original(FILES[0].0);
    wrong[4_000_000] ^= 1;
    std::fs::write(&path, wrong).expect("the damage");
    let mount = f.mount("/plain/", &["--read-timeout", "3s", "--fill", "none"]);
    let read = std::fs::read(mount.path("Odd & names").join(FILES[0].0));
    assert_eq!(read.expect_err("its bytes are wrong").raw_os_error(), Some(libc::EIO));
    let log = mount.log();
    let told = "\"Film 100%.bin\" is not asked of it again: it sent wrong bytes of piece 30";
    assert!(log.contains(told), "{log}");
    assert!(log.contains("no connected peer has it"), "the read says why: {log}");
    for file in ["z.bin", "a+b&c=d;e,f@g.bin"] {
        f.same(&mount, file);
    }
}

/// Certificates are verified: a server that nobody vouches for gets no request.
#[test]
#[ignore = "needs fuse, nginx, openssl"]
fn a_certificate_of_nobodys_is_refused() {
    let f = fixture();
    let own = f.dir.path().join("tls");
    std::fs::create_dir(&own).expect("a directory");
    let tls = Nginx::start_tls(&own, &f.data, LIFE);
    let torrent = f.content.torrent.write_with(f.dir.path(), None, &[&tls.url("/plain/")]);
    let mount = mount(&[&torrent]).args(&["--read-timeout", "4s"]).start();
    std::fs::read(mount.path("Odd & names").join("z.bin")).expect_err("nobody gives it");
    let log = mount.log();
    assert!(log.contains("rests for 30s: invalid peer certificate"), "{log}");
    assert!(log.contains("no connected peer has it; of 1 web seeds, 1 rest after a failure"), "{log}");
    assert_eq!(tls.requests(), [""; 0]);
}

/// A hybrid of libtorrent's: its padding is on no server.
#[test]
#[ignore = "needs fuse, libtorrent, nginx"]
fn a_hybrid_with_padding_is_streamed() {
    let f = fixture();
    let torrent = f.dir.path().join("hybrid.torrent");
    let url = f.nginx.url("/plain/");
    let mut make = libtorrent();
    make.arg("hybrid").arg(f.data.join("Odd & names")).arg(&torrent).args(["64", &url]);
    succeed(&mut make, LIFE);
    let info = succeed(Command::new(env!("CARGO_BIN_EXE_swarmfs")).arg("info").arg(&torrent), LIFE);
    let info = String::from_utf8_lossy(&info).into_owned();
    assert!(info.contains("padding files") && info.contains(&url), "{info}");
    let mount = mount(&[Path::new(&torrent)]).args(&["--read-timeout", "20s"]).start();
    shell("diff -r \"$1\" \"$2\"", &[&f.data, &mount.mountpoint], LIFE);
    assert!(!f.nginx.requests().iter().any(|line| line.contains(".pad")), "{:#?}", f.nginx.requests());
    assert!(!mount.log().contains("WARN"), "{}", mount.log());
}
