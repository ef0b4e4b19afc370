//! One web seed (BEP 19) of a torrent: takes runs of blocks from the swarm as long as a connection is free, has each of
//! them fetched by a task of its own (see [`fetch`]), and decides what a failure means: a file that is not to be had is
//! not asked for again, a server that has trouble rests. To the swarm it is a peer of its own kind.

mod fetch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tracing::{debug, info, warn};

use super::due::due;
use super::http::Target;
use super::links::Link;
use super::network::Network;
use super::reach::{Purpose, origin};
use super::torrent::Torrent;
use crate::metainfo::{Request, WebFiles};
use crate::status::WebSeedStatus;
use crate::swarm::{Connections, Fetch, Input, PeerKey, WebNews};
use fetch::{Failure, Run, fetch};

/// Connections to one web seed (hardening, libtorrent's number).
const CONNECTIONS: usize = 3;
/// Web seeds of one torrent that are used, the first ones: real torrents have up to a dozen.
const MAX_WEB_SEEDS: usize = 16;
/// A server that fails once is asked again after this: it may only have closed a connection that was idle for long.
const FIRST_REST: Duration = Duration::from_secs(1);
/// One that fails again, after this (hardening), and each time after twice as long, up to [`LONGEST_REST`].
const REST: Duration = Duration::from_secs(30);
/// So that one that is back after a night is noticed.
const LONGEST_REST: Duration = Duration::from_secs(300);
/// A rest that is so long is worth a line in the log: reads wait for it.
const WORTH_TELLING: Duration = Duration::from_secs(5);
/// A server that took fewer connections than we made gets no more than these for this time.
const NARROW: Duration = Duration::from_secs(60);
/// Files that are refused one after the other, until the server rests: it has moved, or counts who asks for what is not
/// there.
const REFUSALS: u32 = 20;
/// Files of one web seed whose refusal is told one by one. A server that has moved lacks all of 500,000.
const TOLD_FILES: usize = 5;

/// What all tasks of a web seed share.
struct Source {
    torrent: Arc<Torrent>,
    key: PeerKey,
    /// As the torrent gives it. It may hold a token: not for logs.
    url: String,
    files: Arc<WebFiles>,
    /// Where files turned out to be, after redirects.
    moved: Mutex<BTreeMap<usize, Target>>,
    /// Files that were not to be had where a redirect led to, once.
    doubted: Mutex<BTreeSet<usize>>,
}

impl Source {
    fn network(&self) -> &Network {
        &self.torrent.shared.network
    }

    fn name(&self) -> String {
        origin(&self.url)
    }
}

/// A run that is being fetched.
struct Running {
    run: Arc<Run>,
    task: AbortHandle,
}

/// The task of one web seed.
struct WebSeed {
    source: Arc<Source>,
    link: Arc<Link>,
    tasks: JoinSet<Result<(), Failure>>,
    running: BTreeMap<Id, Running>,
    /// Connections that are made, and until when they are fewer than may be.
    total: usize,
    narrow: Option<Instant>,
    /// Rests in a row.
    failures: u32,
    /// Files in a row that are not to be had.
    refusals: u32,
    /// The user knows that it fails.
    told: bool,
    told_files: usize,
    rests: Option<Instant>,
}

/// A web seed's place in the swarm, given up however its task ends.
struct Seat(Arc<Source>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.torrent.links.detach(self.0.key);
        self.0.torrent.tell(Input::Disconnected(self.0.key));
    }
}

/// The tasks of a torrent's web seeds, to be run until they end with the session.
pub(super) fn web_seeds(torrent: &Arc<Torrent>, urls: &[String]) -> Vec<impl Future<Output = ()> + Send + use<>> {
    if urls.len() > MAX_WEB_SEEDS {
        info!(torrent = %torrent.meta.name, "of {} web seeds, the first {MAX_WEB_SEEDS} are used", urls.len());
    }
    if urls.is_empty() {
        return Vec::new();
    }
    let files = Arc::new(WebFiles::new(Arc::clone(&torrent.meta)));
    let mut tasks = Vec::new();
    for url in urls.iter().take(MAX_WEB_SEEDS) {
        let mut status = WebSeedStatus { url: url.clone(), error: None };
        let key = PeerKey(torrent.shared.id());
        if let Err(why) = Target::given(Purpose::WebSeed, url) {
            warn!(torrent = %torrent.meta.name, "the web seed {} is not used: {why}", origin(url));
            status.error = Some(why.to_string());
        } else {
            let source = Source {
                torrent: Arc::clone(torrent),
                key,
                url: url.clone(),
                files: Arc::clone(&files),
                moved: Mutex::default(),
                doubted: Mutex::default(),
            };
            tasks.push(WebSeed::run(source));
        }
        torrent.web_seeds.lock().unwrap_or_else(PoisonError::into_inner).insert(key, status);
    }
    tasks
}

impl WebSeed {
    async fn run(source: Source) {
        let source = Arc::new(source);
        let link = source.torrent.links.attach(source.key);
        let _seat = Seat(Arc::clone(&source));
        source.torrent.tell(Input::Web(source.key, WebNews::Here));
        let mut seed = Self {
            source,
            link,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            total: CONNECTIONS,
            narrow: None,
            failures: 0,
            refusals: 0,
            told: false,
            told_files: 0,
            rests: None,
        };
        loop {
            seed.ask();
            let timer = seed.rests.into_iter().chain(seed.narrow).min();
            tokio::select! {
                () = seed.link.wake.notified() => {
                    if seed.link.closed.get().is_some() {
                        return;
                    }
                }
                Some(end) = seed.tasks.join_next_with_id() => seed.ended(end),
                () = due(timer) => {
                    let now = Instant::now();
                    if seed.narrow.take_if(|until| *until <= now).is_some() {
                        seed.total = CONNECTIONS;
                    }
                    if seed.rests.take_if(|until| *until <= now).is_some() {
                        seed.tell(WebNews::Rests(false));
                    }
                }
            }
        }
    }

    fn tell(&self, news: WebNews<'_>) {
        self.source.torrent.tell(Input::Web(self.source.key, news));
    }

    /// Takes from the swarm what there is to do, until there is nothing more.
    fn ask(&mut self) {
        loop {
            let free = if self.rests.is_some() || self.refusals >= REFUSALS {
                0
            } else {
                self.total.saturating_sub(self.running.len())
            };
            let (connections, mut out) = (Connections { free, total: self.total }, Vec::new());
            self.source.torrent.enter(|swarm, now| swarm.runs(now, self.source.key, connections, &mut out));
            let mut stopped = false;
            for work in out {
                match work {
                    Fetch::Run(requests) => {
                        let run = Arc::new(Run::new(requests));
                        let task = self.tasks.spawn(fetch(Arc::clone(&self.source), Arc::clone(&run)));
                        self.running.insert(task.id(), Running { run, task });
                    }
                    Fetch::Stop(request) => stopped |= self.stop(request),
                }
            }
            // Its connection is free from now on.
            if !stopped {
                return;
            }
        }
    }

    /// A block is wanted no more. True if that ends its run: a reader that has moved on does not wait for it.
    fn stop(&mut self, request: Request) -> bool {
        for running in self.running.values() {
            running.run.stop(request);
        }
        let before = self.running.len();
        self.running.retain(|_, running| {
            let wanted = !running.run.is_over();
            if !wanted {
                running.task.abort();
            }
            wanted
        });
        self.running.len() < before
    }

    /// The end of a run.
    fn ended(&mut self, end: Result<(Id, Result<(), Failure>), JoinError>) {
        let (id, end) = match end {
            Ok((id, end)) => (id, end),
            Err(e) if e.is_cancelled() => return,
            Err(e) => (e.id(), Err(Failure::Trouble { why: e.to_string(), wait: None })),
        };
        let Some(Running { run, .. }) = self.running.remove(&id) else { return };
        if run.delivered() > 0 && end.is_ok() {
            self.succeeded();
        }
        match end {
            Ok(()) => self.tell(WebNews::Returned(&run.left())),
            Err(Failure::File { file, why }) => {
                // Asked for again at once, from whoever has them.
                self.tell(WebNews::Returned(&run.left()));
                self.without(file, &why);
                self.refusals += 1;
            }
            Err(Failure::Trouble { why, wait }) => {
                if self.running.is_empty() {
                    self.rest(&why, wait);
                } else {
                    // The others go on, and are as many as it takes.
                    debug!(torrent = %self.source.torrent.meta.name, "web seed {}: {why}", self.source.name());
                    self.total = self.running.len();
                    self.narrow = Some(Instant::now() + NARROW);
                    self.tell(WebNews::Returned(&run.left()));
                }
            }
        }
        if self.refusals >= REFUSALS && self.running.is_empty() && self.rests.is_none() {
            self.refusals = 0;
            self.rest("it has none of the files that it was asked for", None);
        }
    }

    fn succeeded(&mut self) {
        (self.failures, self.refusals) = (0, 0);
        if std::mem::take(&mut self.told) {
            info!(torrent = %self.source.torrent.meta.name, "the web seed {} answers again", self.source.name());
            self.source.torrent.web_seed_error(self.source.key, None);
        }
    }

    /// A file is not to be had.
    fn without(&mut self, file: usize, why: &str) {
        let meta = &self.source.torrent.meta;
        let Some(entry) = meta.files.get(file) else { return };
        self.told_files += 1;
        let (torrent, seed, path) = (&meta.name, self.source.name(), &entry.path);
        match self.told_files {
            ..=TOLD_FILES => warn!(%torrent, "the web seed {seed} is not asked for {path:?} again: {why}"),
            n => debug!(%torrent, "the web seed {seed} is not asked for {path:?} again ({n} files now): {why}"),
        }
        self.source.torrent.web_seed_error(self.source.key, Some(format!("{path:?}: {why}")));
        self.tell(WebNews::Lacks(entry.bytes()));
    }

    /// It is left alone for a while.
    fn rest(&mut self, why: &str, wait: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        let usual = match self.failures {
            0 | 1 => FIRST_REST,
            n => (REST * (1 << (n - 2).min(4))).min(LONGEST_REST),
        };
        // What it asks for is heeded, but not less than its failures ask for.
        let wait = wait.map_or(usual, |asked| asked.max(usual));
        let (torrent, seed) = (&self.source.torrent.meta.name, self.source.name());
        if wait >= WORTH_TELLING && !std::mem::replace(&mut self.told, true) {
            warn!(%torrent, "the web seed {seed} rests for {wait:?}: {why}");
            self.source.torrent.web_seed_error(self.source.key, Some(why.to_owned()));
        } else {
            debug!(%torrent, "the web seed {seed} rests for {wait:?}: {why}");
        }
        self.rests = Some(Instant::now() + wait);
        self.tell(WebNews::Rests(true));
    }
}
