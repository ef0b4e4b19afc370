//! A user's copy: layouts, reads across files, and what verify says about every kind of damage.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;
use sha1::{Digest, Sha1};

use super::*;
use crate::cache::VerifyReport;
use crate::metainfo::{Geometry, InfoHash, TorrentId};

/// A torrent and its bytes.
pub(in crate::cache) struct Fixture {
    pub(in crate::cache) meta: Metainfo,
    pub(in crate::cache) content: Vec<u8>,
}

pub(in crate::cache) fn regular() -> FileKind {
    FileKind::Regular { executable: false }
}

/// A torrent of these files; padding is zeros, everything else a pattern.
pub(in crate::cache) fn torrent(
    name: &str,
    single_file: bool,
    piece_length: u32,
    files: &[(&str, usize, FileKind)],
) -> Fixture {
    let mut content = Vec::new();
    let mut entries = Vec::new();
    for (path, length, kind) in files {
        entries.push(crate::metainfo::File {
            path: (*path).into(),
            offset: content.len() as u64,
            length: *length as u64,
            kind: kind.clone(),
        });
        let start = content.len() as u32;
        let pattern = (0..*length as u32).map(|i| ((start + i).wrapping_mul(2_654_435_761) >> 23) as u8);
        content.extend(pattern.map(|byte| if *kind == FileKind::Pad { 0 } else { byte }));
    }
    let hashes = content.chunks(piece_length as usize).flat_map(|piece| <[u8; 20]>::from(Sha1::digest(piece)));
    let hashes: Vec<u8> = hashes.collect();
    let meta = Metainfo {
        id: TorrentId { v1: Some(InfoHash([1; 20])), v2: None },
        name: name.into(),
        single_file,
        geometry: Geometry::new(content.len() as u64, piece_length.into()).unwrap(),
        piece_hashes: hashes.into(),
        info: Arc::default(),
        files: entries,
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        private: false,
        comment: None,
        created_by: None,
        creation_date: None,
    };
    Fixture { meta, content }
}

impl Fixture {
    /// Writes the regular files below `root`, as other clients do.
    fn write(&self, root: &Path) {
        for file in self.meta.files.iter().filter(|f| matches!(f.kind, FileKind::Regular { .. })) {
            let path = root.join(&*file.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &self.content[file.offset as usize..file.bytes().end as usize]).unwrap();
        }
    }

    fn verify(&self, dir: &Path) -> VerifyReport {
        let seen = AtomicU64::new(0);
        let add = |bytes| {
            seen.fetch_add(bytes, Ordering::Relaxed);
        };
        let data = DataDir::open(&self.meta, dir).unwrap();
        let report = data.verify(&self.meta, &add, &AtomicBool::new(false)).unwrap();
        assert_eq!(seen.into_inner(), self.meta.geometry.total());
        report
    }
}

/// 8 pieces of 1,000 bytes: a is 0..2,500, sub/b 2,500..4,200, padding to 5,000, sub/deep/c to 8,000.
pub(in crate::cache) fn album() -> Fixture {
    torrent(
        "album",
        false,
        1000,
        &[
            ("a", 2500, regular()),
            ("empty", 0, regular()),
            ("link", 0, FileKind::Symlink { target: "a".into() }),
            ("sub/b", 1700, regular()),
            (".pad/800", 800, FileKind::Pad),
            ("sub/deep/c", 3000, regular()),
        ],
    )
}

fn bad(report: &VerifyReport) -> Vec<(&str, &str)> {
    report.bad_files.iter().map(|(path, reason)| (path.to_str().unwrap(), reason.as_str())).collect()
}

fn have(report: &VerifyReport) -> String {
    report.have.iter().map(|have| if *have { '1' } else { '0' }).collect()
}

#[test]
fn every_layout_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let album = album();
    album.write(&dir.path().join("album"));
    for place in [dir.path().to_path_buf(), dir.path().join("album")] {
        let report = album.verify(&place);
        assert_eq!((have(&report).as_str(), report.good, bad(&report)), ("11111111", 8000, vec![]));
    }
    // The torrent's own directory under another name.
    fs::rename(dir.path().join("album"), dir.path().join("other")).unwrap();
    assert_eq!(album.verify(&dir.path().join("other")).good, 8000);
    assert!(matches!(DataDir::open(&album.meta, dir.path()), Err(Error::Data { .. })));
    assert!(matches!(DataDir::open(&album.meta, &dir.path().join("gone")), Err(Error::Io { .. })));

    let film = torrent("film", true, 1000, &[("film", 2500, regular())]);
    assert!(matches!(DataDir::open(&film.meta, dir.path()), Err(Error::Data { .. })));
    film.write(dir.path());
    for place in [dir.path().to_path_buf(), dir.path().join("film")] {
        assert_eq!(film.verify(&place).good, 2500);
    }
    fs::rename(dir.path().join("film"), dir.path().join("renamed")).unwrap();
    assert_eq!(film.verify(&dir.path().join("renamed")).good, 2500);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn reads_cross_files_and_padding(ranges in proptest::collection::vec((0..8000_usize, 0..8000_usize), 20)) {
        let dir = tempfile::tempdir().unwrap();
        let album = album();
        album.write(&dir.path().join("album"));
        let data = DataDir::open(&album.meta, dir.path()).unwrap();
        for (start, length) in ranges {
            let end = (start + length).min(8000);
            let mut out = vec![0xff; end - start];
            data.read_at(start as u64, &mut out).unwrap();
            prop_assert_eq!(&out, &album.content[start..end]);
        }
    }
}

#[test]
fn past_the_end_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let album = album();
    album.write(&dir.path().join("album"));
    let data = DataDir::open(&album.meta, dir.path()).unwrap();
    for offset in [7999, 8000, u64::MAX] {
        let error = data.read_at(offset, &mut [0; 2]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{offset}");
    }
    data.read_at(8000, &mut []).unwrap();
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("album");
    let album = album();

    // Missing: the pieces that it touches.
    album.write(&root);
    fs::remove_file(root.join("sub/b")).unwrap();
    fs::remove_file(root.join("empty")).unwrap();
    let report = album.verify(dir.path());
    assert_eq!((have(&report).as_str(), bad(&report)), ("11000111", vec![("sub/b", "it is missing")]));
    assert_eq!(report.good, 5000);

    // Short: what it has still counts.
    album.write(&root);
    fs::write(root.join("a"), &album.content[..1500]).unwrap();
    let report = album.verify(dir.path());
    assert_eq!((have(&report).as_str(), bad(&report)), ("10011111", vec![("a", "it is too short")]));

    // Different, in one file alone and where two files share a piece. Longer does not matter.
    album.write(&root);
    let mut wrong = album.content[..2500].to_vec();
    wrong[0] ^= 1;
    wrong.extend([0; 9]);
    fs::write(root.join("a"), &wrong).unwrap();
    let report = album.verify(dir.path());
    assert_eq!((have(&report).as_str(), bad(&report)), ("01111111", vec![("a", "its content differs")]));
    wrong[0] ^= 1;
    wrong[2400] ^= 1;
    fs::write(root.join("a"), &wrong).unwrap();
    let report = album.verify(dir.path());
    let shared = "it shares a piece that differs";
    assert_eq!((have(&report).as_str(), bad(&report)), ("11011111", vec![("a", shared), ("sub/b", shared)]));

    // A directory where a file should be.
    album.write(&root);
    fs::remove_file(root.join("a")).unwrap();
    fs::create_dir(root.join("a")).unwrap();
    assert_eq!(bad(&album.verify(dir.path())), [("a", "not a regular file")]);
}

#[test]
fn nothing_outside_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("album");
    let album = album();
    album.write(&root);
    fs::write(dir.path().join("secret"), &album.content[..2500]).unwrap();
    let leads_out = [("a", "it is a link that leads out of the directory")];
    for target in [dir.path().join("secret"), "../secret".into()] {
        fs::remove_file(root.join("a")).unwrap();
        symlink(target, root.join("a")).unwrap();
        let report = album.verify(dir.path());
        assert_eq!((have(&report).as_str(), bad(&report).as_slice()), ("00011111", &leads_out[..]));
    }
    // A link inside is the user's own arrangement, and leads to the right bytes or to bad pieces.
    fs::remove_file(root.join("a")).unwrap();
    fs::rename(dir.path().join("secret"), root.join("elsewhere")).unwrap();
    symlink("elsewhere", root.join("a")).unwrap();
    assert_eq!(album.verify(dir.path()).good, 8000);
    // A FIFO does not hang.
    fs::remove_file(root.join("a")).unwrap();
    rustix::fs::mknodat(CWD, root.join("a"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(bad(&album.verify(dir.path())), [("a", "not a regular file")]);
}

#[test]
fn a_symlink_that_claims_bytes_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let claims = torrent("t", false, 1000, &[("a", 1000, regular()), ("etc", 1000, FileKind::Hidden)]);
    claims.write(&dir.path().join("t"));
    fs::write(dir.path().join("t/etc"), &claims.content[1000..]).unwrap();
    let report = claims.verify(dir.path());
    assert_eq!((have(&report).as_str(), report.bad_files.len()), ("10", 1));
}

#[test]
fn many_files_keep_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..200).map(|n| format!("f{n}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), 10, regular())).collect();
    let many = torrent("many", false, 64, &files);
    many.write(&dir.path().join("many"));
    let data = DataDir::open(&many.meta, dir.path()).unwrap();
    let mut out = vec![0; 2000];
    for _ in 0..2 {
        data.read_at(0, &mut out).unwrap();
        assert_eq!(out, many.content);
        assert_eq!(data.open.lock().unwrap().len(), OPEN_FILES.get());
    }
    assert_eq!(many.verify(dir.path()).good, 2000);
}

#[test]
fn all_threads_together_see_every_stripe() {
    let dir = tempfile::tempdir().unwrap();
    // 40 MB in pieces of 1 MiB: several stripes; and pieces larger than a stripe.
    for piece_length in [1 << 20, 20 << 20] {
        let film = torrent("film", true, piece_length, &[("film", 40_000_000, regular())]);
        film.write(dir.path());
        let report = film.verify(dir.path());
        assert_eq!((report.good, report.stopped), (40_000_000, false));
        assert!(report.have.iter().all(|have| *have));
    }
}

#[test]
fn a_stopped_check_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let film = torrent("film", true, 1 << 14, &[("film", 20_000_000, regular())]);
    film.write(dir.path());
    let data = DataDir::open(&film.meta, dir.path()).unwrap();
    let stop = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    let stop_at_once = |bytes| {
        seen.fetch_add(bytes, Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
    };
    let report = data.verify(&film.meta, &stop_at_once, &stop).unwrap();
    assert!(report.stopped);
    assert!(report.good < 1 << 20, "{}", report.good);
    assert_eq!(report.have.len(), 1221);
    let other = torrent("film", true, 1 << 14, &[("film", 1000, regular())]);
    assert!(data.verify(&other.meta, &|_| (), &AtomicBool::new(false)).is_err());
}

#[test]
fn a_file_that_shrinks_makes_bad_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let film = torrent("film", true, 1 << 20, &[("film", 40_000_000, regular())]);
    film.write(dir.path());
    let data = DataDir::open(&film.meta, dir.path()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("film")).unwrap();
    // The first progress report cuts the file: everything that is read later is gone.
    let cut = |_| file.set_len(1 << 20).unwrap();
    let report = data.verify(&film.meta, &cut, &AtomicBool::new(false)).unwrap();
    assert!(!report.have[38] && report.good < 40_000_000);
    assert_eq!(bad(&report), [("film", "it is too short")]);
}
