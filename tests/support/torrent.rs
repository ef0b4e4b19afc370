//! Torrents made without the program under test: a small bencoder and SHA-1.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

use super::Random;
use super::dataset::Dataset;

/// A v1 torrent: the info dictionary, and what peers need of it.
#[derive(Clone)]
pub(crate) struct Torrent {
    pub(crate) name: String,
    pub(crate) info: Vec<u8>,
    pub(crate) info_hash: [u8; 20],
    pub(crate) piece_length: u64,
    pub(crate) length: u64,
}

/// A torrent's bytes in memory, for peers that serve them.
pub(crate) struct Content {
    pub(crate) torrent: Torrent,
    pub(crate) bytes: Vec<u8>,
}

impl Torrent {
    /// The torrent of a dataset's directory.
    pub(crate) fn of(dataset: &Dataset, piece_length: u64) -> Self {
        let mut pieces = Pieces::new(piece_length);
        let mut buffer = vec![0; 1 << 20];
        for file in &dataset.files {
            let mut source = File::open(dataset.root().join(&file.path)).expect("a file of the dataset");
            loop {
                let read = source.read(&mut buffer).expect("its bytes");
                if read == 0 {
                    break;
                }
                pieces.update(&buffer[..read]);
            }
        }
        let files: Vec<_> = dataset.files.iter().map(|f| (f.path.as_str(), f.length, f.executable)).collect();
        Self::assemble(&dataset.name, &files, piece_length, &pieces.finish())
    }

    /// A torrent of one file that holds these bytes.
    pub(crate) fn of_bytes(name: &str, bytes: &[u8], piece_length: u64) -> Self {
        let mut pieces = Pieces::new(piece_length);
        pieces.update(bytes);
        let length = u64::try_from(bytes.len()).expect("a length");
        let mut info = b"d6:length".to_vec();
        integer(&mut info, length);
        info.extend_from_slice(b"4:name");
        string(&mut info, name.as_bytes());
        Self::end(name, info, length, piece_length, &pieces.finish())
    }

    /// A torrent that nobody has: the hashes are noise, so that no bytes need to exist.
    pub(crate) fn dead(name: &str, files: &[(&str, u64)], piece_length: u64) -> Self {
        let length: u64 = files.iter().map(|(_, length)| length).sum();
        let mut hashes = vec![0; usize::try_from(length.div_ceil(piece_length) * 20).expect("few pieces")];
        Random::new(length).fill(&mut hashes);
        let files: Vec<_> = files.iter().map(|(path, length)| (*path, *length, false)).collect();
        Self::assemble(name, &files, piece_length, &hashes)
    }

    fn assemble(name: &str, files: &[(&str, u64, bool)], piece_length: u64, hashes: &[u8]) -> Self {
        let mut info = b"d5:filesl".to_vec();
        for (path, length, executable) in files {
            info.push(b'd');
            if *executable {
                info.extend_from_slice(b"4:attr1:x");
            }
            info.extend_from_slice(b"6:length");
            integer(&mut info, *length);
            info.extend_from_slice(b"4:pathl");
            for part in path.split('/') {
                string(&mut info, part.as_bytes());
            }
            info.extend_from_slice(b"ee");
        }
        info.extend_from_slice(b"e4:name");
        string(&mut info, name.as_bytes());
        Self::end(name, info, files.iter().map(|(_, length, _)| length).sum(), piece_length, hashes)
    }

    fn end(name: &str, mut info: Vec<u8>, length: u64, piece_length: u64, hashes: &[u8]) -> Self {
        info.extend_from_slice(b"12:piece length");
        integer(&mut info, piece_length);
        info.extend_from_slice(b"6:pieces");
        string(&mut info, hashes);
        info.push(b'e');
        let info_hash = Sha1::digest(&info).into();
        Self { name: name.to_owned(), info, info_hash, piece_length, length }
    }

    /// An info dictionary that another program made.
    pub(crate) fn from_info(name: &str, info: Vec<u8>, piece_length: u64, length: u64) -> Self {
        let info_hash = Sha1::digest(&info).into();
        Self { name: name.to_owned(), info, info_hash, piece_length, length }
    }

    /// Writes the .torrent file into `dir`; returns its path.
    pub(crate) fn write(&self, dir: &Path, announce: Option<&str>) -> PathBuf {
        self.write_with(dir, announce, &[])
    }

    /// As `write`, with these web seeds (BEP 19).
    pub(crate) fn write_with(&self, dir: &Path, announce: Option<&str>, web_seeds: &[&str]) -> PathBuf {
        let mut bytes = b"d".to_vec();
        if let Some(url) = announce {
            bytes.extend_from_slice(b"8:announce");
            string(&mut bytes, url.as_bytes());
        }
        bytes.extend_from_slice(b"13:creation datei1700000000e4:info");
        bytes.extend_from_slice(&self.info);
        if !web_seeds.is_empty() {
            bytes.extend_from_slice(b"8:url-listl");
            web_seeds.iter().for_each(|url| string(&mut bytes, url.as_bytes()));
            bytes.push(b'e');
        }
        bytes.push(b'e');
        let path = dir.join(format!("{}.torrent", &self.hex()[..8]));
        std::fs::write(&path, bytes).expect("a .torrent file");
        path
    }

    pub(crate) fn hex(&self) -> String {
        self.info_hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Content {
    /// All bytes of a dataset, in torrent order.
    pub(crate) fn of(dataset: &Dataset, piece_length: u64) -> Self {
        let torrent = Torrent::of(dataset, piece_length);
        let mut bytes = Vec::with_capacity(usize::try_from(torrent.length).expect("it fits in memory"));
        for file in &dataset.files {
            let mut source = File::open(dataset.root().join(&file.path)).expect("a file of the dataset");
            source.read_to_end(&mut bytes).expect("its bytes");
        }
        Self { torrent, bytes }
    }

    /// A torrent of one file with `length` bytes of noise.
    pub(crate) fn noise(name: &str, length: u64, piece_length: u64, seed: u64) -> Self {
        let mut bytes = vec![0; usize::try_from(length).expect("it fits in memory")];
        Random::new(seed).fill(&mut bytes);
        Self { torrent: Torrent::of_bytes(name, &bytes, piece_length), bytes }
    }

    /// A torrent of these files (paths and lengths), all of noise.
    pub(crate) fn of_files(name: &str, files: &[(&str, u64)], piece_length: u64, seed: u64) -> Self {
        let length: u64 = files.iter().map(|(_, length)| length).sum();
        let mut bytes = vec![0; usize::try_from(length).expect("it fits in memory")];
        Random::new(seed).fill(&mut bytes);
        let mut pieces = Pieces::new(piece_length);
        pieces.update(&bytes);
        let files: Vec<_> = files.iter().map(|(path, length)| (*path, *length, false)).collect();
        Self { torrent: Torrent::assemble(name, &files, piece_length, &pieces.finish()), bytes }
    }

    pub(crate) fn block(&self, piece: u32, begin: u32, length: u32) -> Option<&[u8]> {
        let start = u64::from(piece) * self.torrent.piece_length + u64::from(begin);
        let start = usize::try_from(start).ok()?;
        self.bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    }
}

/// Hashes a stream piece by piece.
struct Pieces {
    piece_length: u64,
    filled: u64,
    hasher: Sha1,
    hashes: Vec<u8>,
}

impl Pieces {
    fn new(piece_length: u64) -> Self {
        Self { piece_length, filled: 0, hasher: Sha1::new(), hashes: Vec::new() }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(self.piece_length - self.filled).expect("a piece");
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.filled += u64::try_from(now.len()).expect("a length");
            if self.filled == self.piece_length {
                self.end_piece();
            }
            bytes = later;
        }
    }

    fn end_piece(&mut self) {
        self.hashes.extend_from_slice(&std::mem::take(&mut self.hasher).finalize());
        self.filled = 0;
    }

    fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.end_piece();
        }
        self.hashes
    }
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

fn integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(format!("i{value}e").as_bytes());
}
