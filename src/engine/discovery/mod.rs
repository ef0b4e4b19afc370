//! Announces: peers from HTTP(S) trackers (BEP 3, BEP 12) and UDP ones (BEP 15, BEP 41); scrapes (BEP 48, BEP 15).
//! [`spawn`] starts one task per torrent. It is a thin loop around a pure schedule that says which tracker is asked next
//! and when; `ask` says which URLs are asked at all and hands them to `http` or `udp`, which make one announce within
//! deadlines and caps; `exchange` is what goes back and forth with a UDP tracker, without sockets. Whatever trackers do,
//! nobody waits for them but this task.
//!
//! A UDP tracker has 15 s and then 30 s to answer, the first two waits of BEP 15. Then the announce has failed, and the
//! schedule goes on with 60 s, 120 s and so on, as with any tracker to 600 s. Meanwhile the next trackers are asked.

mod announce_schedule;
mod announcer;
mod ask;
mod dht;
mod dht_guard;
mod dht_nodes;
mod exchange;
mod http;
mod lsd;
mod portmap;
mod recurring;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub use announcer::{Announcer, spawn};
pub use ask::{AskError, scrape};
pub(super) use dht::{Dht, DhtSpec};
pub(super) use lsd::Lsd;
pub(super) use portmap::PortMap;

use super::network::Network;
use crate::node::Place;
use crate::wire::PeerId;

/// What a torrent's announces are made from.
#[derive(Clone, Debug)]
pub struct AnnounceSpec {
    /// The torrent, as the wire names it.
    pub info_hash: [u8; 20],
    /// Ourselves.
    pub peer_id: PeerId,
    /// Where peers reach us.
    pub port: u16,
    /// Tracker URLs in tiers (BEP 12). Repeated ones count once.
    pub tiers: Vec<Vec<String>>,
    /// A private torrent asks one tracker at a time (BEP 27).
    pub private: bool,
    /// Random, the same for the whole session: lets a tracker know us again when our address changes.
    pub key: u32,
    /// How trackers are reached.
    pub network: Network,
    /// How long a tracker may take.
    pub deadlines: Deadlines,
}

/// How long a tracker may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// To resolve its name and, over HTTP, to connect. Default 10 s.
    pub connect: Duration,
    /// To send the next bytes of its answer. Default 10 s.
    pub receive: Duration,
    /// For everything over HTTP, redirects included. Default 30 s.
    pub total: Duration,
    /// To answer a first datagram. It is sent again after this, and given up after twice this more (BEP 15). Default
    /// 15 s.
    pub retry: Duration,
    /// For all `stopped` announces together, when the session ends. Default 3 s.
    pub stop: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            receive: Duration::from_secs(10),
            total: Duration::from_secs(30),
            retry: Duration::from_secs(15),
            stop: Duration::from_secs(3),
        }
    }
}

/// What trackers are told about a torrent's progress, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Payload received in this session.
    pub downloaded: u64,
    /// Payload sent in this session.
    pub uploaded: u64,
    /// What is missing.
    pub left: u64,
    /// Something is missing that nobody here wants (BEP 21).
    pub partial_seed: bool,
}

/// What a tracker's answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where peers are.
    pub peers: Vec<SocketAddr>,
    /// Where the tracker itself is: it may not name what lies further inwards.
    pub place: Place,
    /// Our address as it sees it (BEP 24).
    pub external_ip: Option<IpAddr>,
}

/// How a tracker is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerStatus {
    /// Its URL. It may hold a passkey: not for logs.
    pub url: String,
    /// Its tier, counted from 0.
    pub tier: usize,
    /// True while it is being asked.
    pub announcing: bool,
    /// When it last answered.
    pub answered: Option<Instant>,
    /// When it is next asked; none while it is being asked or if it cannot be used.
    pub next: Option<Instant>,
    /// Peers in its last answer.
    pub peers: usize,
    /// Seeds that it knows.
    pub seeds: Option<u64>,
    /// Leechers that it knows.
    pub leechers: Option<u64>,
    /// Our address as it sees it (BEP 24).
    pub external_ip: Option<IpAddr>,
    /// Its own message for the user.
    pub warning: Option<String>,
    /// Why the last announce failed, or why it cannot be used; none after an answer.
    pub error: Option<String>,
}
