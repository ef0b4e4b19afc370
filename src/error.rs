//! What can go wrong, one variant per cause. Each message says what failed, on what, and the way out.

use std::path::PathBuf;

/// The result of most of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One variant per cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A .torrent file that is refused.
    #[error("{path}: {cause}", path = path.display())]
    Metainfo {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: crate::metainfo::MetainfoError,
    },
    /// Metadata that peers gave for a magnet link and that is refused.
    #[error("{name}: {cause}")]
    Metadata {
        /// The torrent.
        name: String,
        /// Why.
        cause: crate::metainfo::MetainfoError,
    },
    /// A magnet link whose two hashes are not one torrent's.
    #[error("{name}: the magnet link names two torrents: what its v1 info-hash stands for has another v2 info-hash")]
    TwoTorrents {
        /// The torrent of the v1 info-hash.
        name: String,
    },
    /// A magnet link that is refused.
    #[error("{link}: {cause}")]
    Magnet {
        /// The link, shortened.
        link: String,
        /// Why.
        cause: crate::metainfo::MagnetError,
    },
    /// A file or directory that cannot be used.
    #[error("{path}: cannot {what}: {cause}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as a verb: "open", "read".
        what: &'static str,
        /// Why.
        cause: std::io::Error,
    },
    /// No address to listen on.
    #[error("cannot listen on {addr}: {cause}; choose another with --listen")]
    Listen {
        /// The address.
        addr: std::net::SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// A network interface that cannot be used.
    #[error("{name}: cannot use this network interface: {cause}; `ip link` lists those that are there")]
    Interface {
        /// Its name.
        name: String,
        /// Why.
        cause: std::io::Error,
    },
    /// A block list without a range.
    #[error("{path}: no line of it is a range of addresses, as 192.0.2.0/24 or NAME:192.0.2.1-192.0.2.9", path = .0.display())]
    BlockList(PathBuf),
    /// The mount failed.
    #[error("{mountpoint}: {reason}", mountpoint = mountpoint.display())]
    Mount {
        /// Where.
        mountpoint: PathBuf,
        /// Why, and the way out.
        reason: String,
    },
    /// A `--data` directory that does not hold the torrent.
    #[error("{path}: {reason}", path = path.display())]
    Data {
        /// The directory or file.
        path: PathBuf,
        /// Why, and the way out.
        reason: String,
    },
    /// A cache directory that cannot be used.
    #[error("{path}: {reason}", path = path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// Why, and the way out.
        reason: String,
    },
    /// A cache directory that another process uses.
    #[error("{path}: another swarmfs uses it; give this one a directory of its own with --cache-dir", path = .0.display())]
    CacheInUse(PathBuf),
    /// A torrent that cannot be made.
    #[error("{what}: {reason}")]
    Create {
        /// The file or the option that stands in the way, as a terminal may have it.
        what: String,
        /// Why, and the way out.
        reason: String,
    },
    /// Long work that was told to stop.
    #[error("stopped before it was done")]
    Stopped,
    /// The same torrent twice.
    #[error("{0} is here already")]
    Duplicate(crate::metainfo::TorrentId),
    /// A tracker's interval that is too short.
    #[error("a tracker's interval of {0:?} is too short: give it 5 s or more")]
    Interval(std::time::Duration),
    /// The machine refuses something that the process needs.
    #[error("cannot {what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        cause: std::io::Error,
    },
}

impl Error {
    /// The errno that a program which reads the mount gets for this error.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { cause, .. }
            | Self::Listen { cause, .. }
            | Self::Interface { cause, .. }
            | Self::System { cause, .. } => cause.raw_os_error().unwrap_or(libc::EIO),
            Self::Metainfo { .. }
            | Self::Metadata { .. }
            | Self::TwoTorrents { .. }
            | Self::Magnet { .. }
            | Self::Data { .. }
            | Self::Cache { .. }
            | Self::Create { .. }
            | Self::BlockList(_)
            | Self::Interval(_) => libc::EINVAL,
            Self::Stopped => libc::EINTR,
            Self::Duplicate(_) => libc::EEXIST,
            Self::CacheInUse(_) => libc::EBUSY,
            Self::Mount { .. } => libc::EIO,
        }
    }
}
