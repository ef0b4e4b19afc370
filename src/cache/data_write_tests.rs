//! A copy that is written: against a plain list of bytes, and what is there before.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::super::data::tests::{Fixture, album, regular, torrent};
use super::*;
use crate::cache::{Filled, PieceBuf, Place, Pool};
use crate::metainfo::BLOCK_LENGTH;

/// A piece of the fixture as a download makes it.
fn verified(fixture: &Fixture, piece: u32, place: &Place) -> Arc<Verified> {
    let geometry = fixture.meta.geometry;
    let piece = geometry.piece(piece).unwrap();
    let (start, length) = (geometry.piece_offset(piece) as usize, geometry.piece_length(piece));
    let hash = *fixture.meta.piece_hashes.get(piece).unwrap();
    let buffer = PieceBuf::new(length, hash, place, &Pool::new()).unwrap();
    let bytes = &fixture.content[start..start + length as usize];
    for (index, block) in bytes.chunks(BLOCK_LENGTH as usize).enumerate() {
        if let Filled::Done(verified) = buffer.fill(index as u32 * BLOCK_LENGTH, block).unwrap() {
            return Arc::new(verified);
        }
    }
    panic!("the piece is not done");
}

/// Writes these pieces; says of each whether it was kept whole.
fn write(fixture: &Fixture, data: &DataDir, pieces: &[u32]) -> Vec<bool> {
    let kept = |&piece| data.write_piece(PieceIndex(piece), &verified(fixture, piece, &Place::Memory)).unwrap();
    pieces.iter().map(kept).collect()
}

fn refused(meta: &Metainfo, dir: &Path, names: &str) {
    let error = DataDir::create(meta, dir, None).unwrap_err().to_string();
    assert!(error.contains(names) && error.contains("move it away"), "{error}");
}

#[test]
fn the_layout_is_made_and_a_whole_download_is_the_original() {
    let dir = tempfile::tempdir().unwrap();
    let mut album = album();
    album.meta.files[0].kind = FileKind::Regular { executable: true };
    let data = DataDir::create(&album.meta, &dir.path().join("new/deep"), None).unwrap();
    let root = dir.path().join("new/deep/album");
    let length = |path: &str| fs::metadata(root.join(path)).unwrap().len();
    assert_eq!((length("a"), length("empty"), length("sub/b"), length("sub/deep/c")), (2500, 0, 1700, 3000));
    assert_eq!(fs::metadata(root.join("a")).unwrap().blocks(), 0, "it is sparse");
    assert_eq!(fs::read_link(root.join("link")).unwrap().to_str(), Some("a"));
    let executable = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o100 != 0;
    assert!(executable("a") && !executable("sub/b"));
    assert!(!root.join(".pad").exists());
    assert_eq!(write(&album, &data, &[7, 0, 3, 1, 2, 6, 5, 4]), [true; 8]);
    data.sync().unwrap();
    for file in album.meta.files.iter().filter(|f| matches!(f.kind, FileKind::Regular { .. })) {
        let bytes = file.bytes();
        let original = &album.content[bytes.start as usize..bytes.end as usize];
        assert_eq!(fs::read(root.join(&*file.path)).unwrap(), original, "{}", file.path);
    }
    // Again: what is there is used as it is.
    let again = DataDir::create(&album.meta, &dir.path().join("new/deep"), None).unwrap();
    assert_eq!(again.verify(&album.meta, &|_| (), &AtomicBool::new(false)).unwrap().good, 8000);
}

#[test]
fn a_single_file_lies_in_the_directory_itself() {
    let dir = tempfile::tempdir().unwrap();
    let film = torrent("film", true, 100_000, &[("film", 250_000, regular())]);
    let data = DataDir::create(&film.meta, dir.path(), None).unwrap();
    // Pieces that lie in a temporary file, too.
    for piece in 0..3 {
        let place = Place::TempFile(dir.path().into());
        assert!(data.write_piece(PieceIndex(piece), &verified(&film, piece, &place)).unwrap());
    }
    assert_eq!(fs::read(dir.path().join("film")).unwrap(), film.content);
    let other = torrent("film", true, 70_000, &[("film", 250_000, regular())]);
    assert!(data.write_piece(PieceIndex(0), &verified(&other, 0, &Place::Memory)).is_err());
    assert!(data.write_piece(PieceIndex(3), &verified(&film, 2, &Place::Memory)).is_err());
    let read_only = DataDir::open(&film.meta, dir.path()).unwrap();
    assert!(!read_only.write_piece(PieceIndex(0), &verified(&film, 0, &Place::Memory)).unwrap());
}

#[test]
fn files_that_are_not_wanted_are_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let album = album();
    // Of a, empty, link, sub/b, padding and sub/deep/c: sub/b alone.
    let wanted = [false, false, false, true, false, false];
    let data = DataDir::create(&album.meta, dir.path(), Some(&wanted)).unwrap();
    assert_eq!(write(&album, &data, &[2, 3, 4]), [false, true, true]);
    let root = dir.path().join("album");
    assert_eq!(fs::read(root.join("sub/b")).unwrap(), &album.content[2500..4200]);
    let all: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(all, ["sub"]);
    assert_eq!(fs::read_dir(root.join("sub")).unwrap().count(), 1);
    // One that is there stays as it is.
    fs::write(root.join("a"), "mine").unwrap();
    assert_eq!(write(&album, &data, &[0, 2]), [false, false]);
    assert_eq!(fs::read(root.join("a")).unwrap(), b"mine");
}

#[test]
fn what_is_there_is_never_cut_or_followed_out() {
    let dir = tempfile::tempdir().unwrap();
    let album = album();
    let root = dir.path().join("album");
    fs::create_dir_all(&root).unwrap();
    let longer = vec![5; 2501];
    fs::write(root.join("a"), &longer).unwrap();
    refused(&album.meta, dir.path(), "a: it has 2501 bytes");
    assert_eq!(fs::read(root.join("a")).unwrap(), longer);
    // Shorter: grows, keeps what it has.
    fs::write(root.join("a"), &album.content[..1200]).unwrap();
    let data = DataDir::create(&album.meta, dir.path(), None).unwrap();
    let report = data.verify(&album.meta, &|_| (), &AtomicBool::new(false)).unwrap();
    assert_eq!(report.have.iter().filter(|have| **have).count(), 1);
    assert_eq!(fs::metadata(root.join("a")).unwrap().len(), 2500);
    // Links that lead out, to a file, to nothing, and in place of a directory.
    let outside = dir.path().join("outside");
    fs::write(&outside, vec![1; 2500]).unwrap();
    let put = |place: &str, target: &str| {
        let _ = fs::remove_file(root.join(place));
        let _ = fs::remove_dir_all(root.join(place));
        symlink(target, root.join(place)).unwrap();
    };
    put("a", "../outside");
    refused(&album.meta, dir.path(), "leads out");
    put("a", "../new");
    assert!(DataDir::create(&album.meta, dir.path(), None).is_err());
    fs::remove_file(root.join("a")).unwrap();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    put("sub", "../elsewhere");
    assert!(DataDir::create(&album.meta, dir.path(), None).is_err());
    assert_eq!(fs::read_dir(dir.path().join("elsewhere")).unwrap().count(), 0);
    assert!(!dir.path().join("new").exists() && fs::read(&outside).unwrap() == vec![1; 2500]);
    // A FIFO, a directory.
    fs::remove_file(root.join("sub")).unwrap();
    fs::remove_file(root.join("a")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("a"), fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    refused(&album.meta, dir.path(), "not a regular file");
    fs::remove_file(root.join("a")).unwrap();
    fs::create_dir(root.join("a")).unwrap();
    refused(&album.meta, dir.path(), "not a regular file");
}

#[test]
fn a_file_that_is_gone_meanwhile_is_an_error_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let album = album();
    let data = DataDir::create(&album.meta, dir.path(), None).unwrap();
    fs::remove_file(dir.path().join("album/sub/b")).unwrap();
    let error = data.write_piece(PieceIndex(3), &verified(&album, 3, &Place::Memory)).unwrap_err().to_string();
    assert!(error.contains("album/sub/b: cannot write: No such file"), "{error}");
}

#[test]
fn holes_are_not_read_and_zeros_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [("zeros", 300_000, FileKind::Pad), ("rest", 100_000, regular())];
    let mut film = torrent("film", false, 100_000, &sizes);
    // Zeros that are no padding: a hole of so many bytes is right.
    film.meta.files[0].kind = regular();
    let data = DataDir::create(&film.meta, dir.path(), None).unwrap();
    let report = data.verify(&film.meta, &|_| (), &AtomicBool::new(false)).unwrap();
    assert_eq!(report.have, [true, true, true, false]);
    assert_eq!(report.bad_files, [("rest".into(), "a part of it is missing".into())]);
    assert_eq!(write(&film, &data, &[3]), [true]);
    assert!(data.verify(&film.meta, &|_| (), &AtomicBool::new(false)).unwrap().have[3]);
    // A terabyte of nothing takes no time.
    let huge = File::options().write(true).open(dir.path().join("film/zeros")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let pieces = 1 << 14;
    let mut meta = torrent("film", true, 1000, &[("zeros", 1000, regular())]).meta;
    meta.geometry = crate::metainfo::Geometry::new(1 << 40, (1 << 40) / pieces).unwrap();
    meta.files[0].length = 1 << 40;
    meta.piece_hashes = vec![[1; 20]; pieces as usize].concat().into();
    let data = DataDir::open(&meta, &dir.path().join("film/zeros")).unwrap();
    let report = data.verify(&meta, &|_| (), &AtomicBool::new(false)).unwrap();
    assert!(report.have.iter().all(|have| !have));
}

#[test]
fn unfinished_files_of_other_clients_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let album = album();
    let root = dir.path().join("album");
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::write(root.join("sub/b.!qB"), &album.content[2500..3000]).unwrap();
    let error = DataDir::open(&album.meta, dir.path()).unwrap_err().to_string();
    assert!(error.contains("only \"sub/b.!qB\" is there: qBittorrent has not finished it"), "{error}");
    fs::write(root.join("a"), &album.content[..2500]).unwrap();
    fs::write(root.join("sub/deep/c.part"), &album.content[5000..6000]).unwrap();
    let data = DataDir::open(&album.meta, dir.path()).unwrap();
    let report = data.verify(&album.meta, &|_| (), &AtomicBool::new(false)).unwrap();
    let whys: Vec<_> = report.bad_files.iter().map(|(path, why)| (path.to_str().unwrap(), &**why)).collect();
    let expected = [
        ("sub/b", "only \"sub/b.!qB\" is there: qBittorrent has not finished it"),
        ("sub/deep/c", "only \"sub/deep/c.part\" is there: Transmission has not finished it"),
    ];
    assert_eq!(whys, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Pieces in any order, some twice, some never, into some of the files: every file that is wanted holds what was
    /// written and zeros, and what was said to be whole reads back.
    #[test]
    fn writes_are_the_model(
        lengths in proptest::collection::vec((0..700_usize, any::<bool>(), 0..6_u8), 1..8),
        piece_length in 1..400_u32,
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let names: Vec<_> = (0..lengths.len()).map(|n| format!("d{}/f{n}", n % 3)).collect();
        let kind = |n: u8| if n == 0 { FileKind::Pad } else { regular() };
        let files: Vec<_> = names.iter().zip(&lengths).map(|(name, (length, _, n))| (&**name, *length, kind(*n))).collect();
        prop_assume!(lengths.iter().any(|(length, ..)| *length > 0));
        let fixture = torrent("t", false, piece_length, &files);
        let wanted: Vec<bool> = lengths.iter().map(|(_, wanted, _)| *wanted).collect();
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::create(&fixture.meta, dir.path(), Some(&wanted)).unwrap();
        let total = fixture.content.len();
        let mut model = vec![0; total];
        let pieces = fixture.meta.geometry.pieces();
        for index in order {
            let piece = index.index(pieces as usize) as u32;
            let start = (piece * piece_length) as usize;
            let range = start..total.min(start + piece_length as usize);
            model[range.clone()].copy_from_slice(&fixture.content[range.clone()]);
            let whole = write(&fixture, &data, &[piece])[0];
            let kept = fixture.meta.files.iter().zip(&wanted).all(|(file, wanted)| {
                *wanted || file.kind == FileKind::Pad
                    || file.length == 0 || file.bytes().end <= range.start as u64 || file.offset >= range.end as u64
            });
            prop_assert_eq!(whole, kept);
            if whole {
                let mut back = vec![9; range.len()];
                data.read_at(start as u64, &mut back).unwrap();
                prop_assert_eq!(&back, &fixture.content[range]);
            }
        }
        for (file, wanted) in fixture.meta.files.iter().zip(&wanted) {
            let there = fs::read(dir.path().join("t").join(&*file.path)).ok();
            let expected = &model[file.offset as usize..file.bytes().end as usize];
            let made = *wanted && file.kind != FileKind::Pad;
            prop_assert_eq!(there.as_deref(), made.then_some(expected), "{}", file.path);
        }
    }
}
