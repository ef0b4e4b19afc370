//! What the tests of the store share.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::hostile::Behaviour;
use crate::support::mounts::{MountCommand, mount};
use crate::support::peer::Peer;
use crate::support::torrent::Content;
use crate::support::wait_until;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const PIECE: u64 = 256 << 10;

/// A torrent, a seed of it, and a directory for a cache.
pub(crate) struct Shelf {
    pub(crate) content: Arc<Content>,
    pub(crate) torrent: PathBuf,
    pub(crate) seed: Peer,
    pub(crate) dir: TempDir,
}

impl Shelf {
    pub(crate) fn of(content: Content, behaviour: Behaviour) -> Self {
        let content = Arc::new(content);
        let dir = tempfile::Builder::new().prefix("swarmfs-store-").tempdir().expect("a directory");
        let torrent = content.torrent.write(dir.path(), None);
        let seed = Peer::start(&content, behaviour);
        Self { content, torrent, seed, dir }
    }

    /// One file of noise.
    pub(crate) fn film(length: u64) -> Self {
        Self::of(Content::noise("film.mkv", length, PIECE, length), Behaviour::Good)
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// The torrent's directory in the cache.
    pub(crate) fn entry(&self) -> PathBuf {
        self.cache().join(self.content.torrent.hex())
    }

    /// A mount with the cache and no peer.
    pub(crate) fn alone(&self) -> MountCommand {
        let cache = self.cache();
        mount(&[&self.torrent]).args(&["--cache-dir", cache.to_str().expect("UTF-8")])
    }

    /// A mount with the cache and the seed.
    pub(crate) fn mount(&self) -> MountCommand {
        self.alone().peer(self.seed.address)
    }

    /// Bytes that the seed has given.
    pub(crate) fn given(&self) -> u64 {
        self.seed.count(|counts| &counts.bytes)
    }

    /// Waits until the files of the cache hold this many bytes.
    pub(crate) fn wait_kept(&self, bytes: u64) {
        let kept = || allocated(&self.cache()) >= bytes;
        wait_until(SECOND * 20, "the cache has what was read", kept);
    }

    /// Reads a file from start to end, past the page cache, and compares it.
    #[track_caller]
    pub(crate) fn assert_same(&self, path: &Path) {
        let file = fs::File::open(path).expect("the file");
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let mut bytes = vec![0; usize::try_from(file.metadata().expect("its length").len()).expect("it fits")];
        file.read_exact_at(&mut bytes, 0).expect("the bytes");
        assert!(bytes == self.content.bytes, "the bytes of {}", path.display());
    }
}

/// Bytes that a directory takes on the disk, files in its directories included.
pub(crate) fn allocated(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let one = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => allocated(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(one).sum()
}
