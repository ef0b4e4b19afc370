//! What a torrent is doing, as those who look on see it: the commands, `status`, a web page.

use crate::engine::discovery::TrackerStatus;
use crate::swarm::Totals;

/// A torrent at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Bytes moved and held, peers, reads that wait.
    pub totals: Totals,
    /// Bytes of the torrent.
    pub size: u64,
    /// Pieces of the torrent.
    pub pieces: u32,
    /// Pieces that are there.
    pub there: u32,
    /// Pieces that are being fetched.
    pub requested: u32,
    /// Bytes of wanted pieces that are still to come.
    pub wanted_left: u64,
    /// Addresses of peers that are known, connected or not.
    pub known_peers: usize,
    /// How each tracker is doing, in the torrent's order.
    pub trackers: Vec<TrackerStatus>,
    /// How each web seed is doing.
    pub web_seeds: Vec<WebSeedStatus>,
}

/// How a web seed is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSeedStatus {
    /// Its URL. It may hold a token: not for logs.
    pub url: String,
    /// What failed last and still stands: the server, or a file that is not asked of it again.
    pub error: Option<String>,
}
