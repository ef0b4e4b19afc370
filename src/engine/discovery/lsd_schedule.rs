//! When which torrent is announced on the local network (BEP 14), without socket and clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::swarm::TorrentKey;

/// A torrent is announced again after this (BEP 14: every five minutes).
const EVERY: Duration = Duration::from_secs(300);
/// And no more often than this, however many others announce it (BEP 14: one a minute).
const LEAST: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Torrent {
    key: TorrentKey,
    sent: Option<Instant>,
    due: Instant,
}

/// What is to be announced.
#[derive(Debug, Default)]
pub(super) struct Schedule(BTreeMap<[u8; 20], Torrent>);

impl Schedule {
    /// A torrent is announced from now on.
    pub(super) fn add(&mut self, now: Instant, info_hash: [u8; 20], key: TorrentKey) {
        self.0.insert(info_hash, Torrent { key, sent: None, due: now });
    }

    /// It is so no more.
    pub(super) fn remove(&mut self, key: TorrentKey) {
        self.0.retain(|_, torrent| torrent.key != key);
    }

    /// Somebody else has announced this. If we have it, we answer, for who has just come does not wait five minutes.
    pub(super) fn heard(&mut self, now: Instant, info_hash: &[u8; 20]) -> Option<TorrentKey> {
        let torrent = self.0.get_mut(info_hash)?;
        let soonest = torrent.sent.map_or(now, |sent| now.max(sent + LEAST));
        torrent.due = torrent.due.min(soonest);
        Some(torrent.key)
    }

    /// What is to be announced now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<[u8; 20]> {
        let mut due = Vec::new();
        for (hash, torrent) in self.0.iter_mut().filter(|(_, torrent)| torrent.due <= now) {
            torrent.sent = Some(now);
            torrent.due = now + EVERY;
            due.push(*hash);
        }
        due
    }

    /// When something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|torrent| torrent.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 20] = [1; 20];
    const KEY: TorrentKey = TorrentKey(7);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn at_once_and_then_every_five_minutes() {
        let (base, mut schedule) = (Instant::now(), Schedule::default());
        assert_eq!(schedule.next(), None);
        schedule.add(base, A, KEY);
        schedule.add(base, [2; 20], TorrentKey(8));
        assert_eq!(schedule.due(base), [A, [2; 20]]);
        assert_eq!(schedule.due(base), [[0; 20]; 0]);
        assert_eq!(schedule.next(), Some(base + EVERY));
        schedule.remove(KEY);
        assert_eq!(schedule.due(base + EVERY), [[2; 20]]);
    }

    #[test]
    fn others_are_answered_once_a_minute() {
        let (base, mut schedule) = (Instant::now(), Schedule::default());
        schedule.add(base, A, KEY);
        schedule.due(base);
        assert_eq!(schedule.heard(base + secs(1), &[9; 20]), None, "a torrent that we do not have");
        for second in 2..50 {
            assert_eq!(schedule.heard(base + secs(second), &A), Some(KEY));
        }
        assert_eq!(schedule.next(), Some(base + LEAST));
        assert_eq!(schedule.due(base + LEAST), [A]);
        schedule.heard(base + secs(200), &A);
        assert_eq!(schedule.next(), Some(base + secs(200)), "at once when the last one is long ago");
    }
}
