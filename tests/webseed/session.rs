//! A session in the test's own process with one torrent whose only sources are web seeds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use swarmfs::config::{Config, Fill};
use swarmfs::engine::{AddOptions, Session};
use swarmfs::metainfo::Metainfo;
use swarmfs::status::WebSeedStatus;
use swarmfs::swarm::TorrentKey;

use crate::support::free_address;
use crate::support::torrent::Content;

pub(crate) struct Fetching {
    session: Session,
    key: TorrentKey,
    began: Instant,
}

/// Fetches all of the content from these web seeds.
pub(crate) fn fetching(content: &Content, urls: &[&str]) -> Fetching {
    let dir = tempfile::tempdir().expect("a directory");
    let file = content.torrent.write_with(dir.path(), None, urls);
    let meta = Metainfo::parse(&std::fs::read(file).expect("the torrent")).expect("a torrent");
    let config = Config { listen: free_address(), listen_is_default: false, fill: Fill::All, ..Config::default() };
    let session = Session::start(config).expect("a session");
    let key = session.add(Arc::new(meta), AddOptions::default()).expect("it is added");
    Fetching { session, key, began: Instant::now() }
}

impl Fetching {
    /// Waits until all of it is there, every piece verified; how long that took since the start. None: not within `limit`.
    pub(crate) async fn finished(&self, limit: Duration) -> Option<Duration> {
        let finished = tokio::time::timeout(limit, self.session.finished(self.key)).await;
        finished.ok().map(|()| self.began.elapsed())
    }

    /// How the n-th web seed is doing.
    pub(crate) fn status(&self, n: usize) -> WebSeedStatus {
        self.session.snapshot(self.key).expect("the torrent").web_seeds[n].clone()
    }

    /// Waits until the n-th web seed has an error with this in it.
    pub(crate) async fn error(&self, n: usize, names: &str, limit: Duration) -> String {
        let until = Instant::now() + limit;
        loop {
            let error = self.status(n).error.unwrap_or_default();
            if error.contains(names) {
                return error;
            }
            assert!(Instant::now() < until, "not within {limit:?}: {names:?}, but {error:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn downloaded(&self) -> u64 {
        self.session.totals(self.key).expect("the torrent").downloaded
    }

    pub(crate) async fn stop(self) {
        self.session.stop().await;
    }
}
