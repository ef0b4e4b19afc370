//! The task that makes a torrent's announces: it asks the schedule what is next, and sees to it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tracing::{Instrument, Span};

use super::announce_schedule::{Answered, Next, Schedule, TrackerIndex};
use super::ask::{self, Answer, AskError};
use super::{AnnounceSpec, Found, Progress, TrackerStatus};
use crate::engine::due::due;
use crate::engine::reach::origin;
use crate::node::Place;
use crate::wire::{AnnounceQuery, Event};

/// Peers asked for: libtorrent's number, and what the default connection limit can use.
const NUMWANT: u32 = 200;

/// A torrent's announces. Dropping it ends them without a word to the trackers.
pub struct Announcer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    stop_deadline: Duration,
}

/// What the task and its handle share.
#[derive(Default)]
struct Shared {
    wanted: AtomicBool,
    completed: AtomicBool,
    private: AtomicBool,
    stopping: AtomicBool,
    news: Notify,
    status: Mutex<Vec<TrackerStatus>>,
}

impl Shared {
    fn tell(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
        self.news.notify_one();
    }

    fn status(&self) -> MutexGuard<'_, Vec<TrackerStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the announces of a torrent; the first one is made at once. Must be called inside a tokio runtime. `progress`
/// is asked before every announce, `found` gets every answer that says something of use; neither may block.
#[must_use]
pub fn spawn(
    spec: AnnounceSpec,
    progress: Arc<dyn Fn() -> Progress + Send + Sync>,
    found: Arc<dyn Fn(Found) + Send + Sync>,
) -> Announcer {
    let mut seen = BTreeSet::new();
    let mut status = Vec::new();
    let mut tiers = Vec::new();
    for (tier, urls) in spec.tiers.iter().enumerate() {
        let mut usable = Vec::new();
        for url in urls.iter().filter(|url| seen.insert(url.as_str())) {
            let mut error = ask::unusable(url);
            if let Some(why) = error {
                tracing::warn!(tracker = origin(url), "this tracker is not used: {why}");
            } else if let Some(why) = ask::unreachable(url, &spec.network) {
                // The user knows it of all of them.
                tracing::debug!(tracker = origin(url), "this tracker is not used: {why}");
                error = Some(why);
            }
            usable.push(error.is_none());
            status.push(TrackerStatus {
                url: url.clone(),
                tier,
                announcing: false,
                answered: None,
                next: None,
                peers: 0,
                seeds: None,
                leechers: None,
                external_ip: None,
                warning: None,
                error: error.map(str::to_owned),
            });
        }
        tiers.push(usable);
    }
    let urls = status.iter().map(|s| s.url.clone()).collect();
    let tracker_ids = vec![None; status.len()];
    let schedule = Schedule::new(&tiers, spec.private, u64::from(spec.key), Instant::now());
    let shared = Arc::new(Shared { status: Mutex::new(status), ..Shared::default() });
    let stop_deadline = spec.deadlines.stop;
    let work = Work {
        spec,
        urls,
        tracker_ids,
        progress,
        found,
        schedule,
        flights: JoinSet::new(),
        asked: Vec::new(),
        shared: Arc::clone(&shared),
    };
    Announcer { shared, task: tokio::spawn(work.run().instrument(Span::current())), stop_deadline }
}

impl Announcer {
    /// A read waits and no peer can serve it: announce as soon as the tracker's `min interval` allows.
    pub fn want_peers(&self) {
        self.shared.tell(&self.shared.wanted);
    }

    /// The torrent turned out to be private: its trackers are asked one at a time (BEP 27).
    pub fn now_private(&self) {
        self.shared.tell(&self.shared.private);
    }

    /// The torrent has become complete: trackers that know us as incomplete are told so, once.
    pub fn completed(&self) {
        self.shared.tell(&self.shared.completed);
    }

    /// How each tracker is doing, in the torrent's order.
    #[must_use]
    pub fn status(&self) -> Vec<TrackerStatus> {
        self.shared.status().clone()
    }

    /// Ends the announces: what is in flight is dropped, and every tracker that was told `started` is told `stopped`,
    /// all at once. Takes [`super::Deadlines::stop`] (3 s) at the most.
    pub async fn stop(mut self) {
        self.shared.tell(&self.shared.stopping);
        if tokio::time::timeout(self.stop_deadline, &mut self.task).await.is_err() {
            tracing::debug!("not every tracker took its `stopped` in time");
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// An announce that has come to its end.
struct Landed {
    event: Event,
    complete: bool,
    result: Result<Answer, AskError>,
}

struct Work {
    spec: AnnounceSpec,
    urls: Vec<String>,
    /// What each tracker asked us to send back (BEP 3).
    tracker_ids: Vec<Option<Vec<u8>>>,
    progress: Arc<dyn Fn() -> Progress + Send + Sync>,
    found: Arc<dyn Fn(Found) + Send + Sync>,
    schedule: Schedule,
    flights: JoinSet<Landed>,
    /// Whom each flight asks: known even if it panics.
    asked: Vec<(Id, TrackerIndex)>,
    shared: Arc<Shared>,
}

impl Work {
    async fn run(mut self) {
        while !self.shared.stopping.load(Ordering::Acquire) {
            if self.shared.wanted.swap(false, Ordering::AcqRel) {
                self.schedule.want_peers();
            }
            if self.shared.private.load(Ordering::Acquire) {
                self.schedule.set_private();
            }
            let now = Instant::now();
            if self.shared.completed.swap(false, Ordering::AcqRel) {
                self.schedule.completed(now);
            }
            let wake = loop {
                match self.schedule.next(now) {
                    Next::Announce(index, event) => self.ask(index, event),
                    Next::Wait(wake) => break wake,
                }
            };
            self.publish_times();
            tokio::select! {
                Some(landed) = self.flights.join_next_with_id() => self.landed(landed),
                () = self.shared.news.notified() => {}
                () = due(wake) => {}
            }
        }
        self.flights.abort_all();
        self.stopped().await;
    }

    fn ask(&mut self, index: TrackerIndex, event: Event) {
        let Some(url) = self.urls.get(index.0).cloned() else { return };
        let query = self.query(index, event);
        let (network, deadlines, complete) = (self.spec.network.clone(), self.spec.deadlines, query.left == 0);
        let flight = async move {
            let result = ask::announce(&url, &query, &network, deadlines).await;
            Landed { event, complete, result }
        };
        let handle = self.flights.spawn(flight.instrument(Span::current()));
        self.asked.push((handle.id(), index));
    }

    fn query(&self, index: TrackerIndex, event: Event) -> AnnounceQuery {
        let Progress { downloaded, uploaded, left, partial_seed } = (self.progress)();
        AnnounceQuery {
            info_hash: self.spec.info_hash,
            peer_id: self.spec.peer_id,
            port: self.spec.port,
            uploaded,
            downloaded,
            left,
            // BEP 21: so that the tracker need not count it among those who download.
            event: if event == Event::None && partial_seed { Event::Paused } else { event },
            numwant: if event == Event::Stopped { 0 } else { NUMWANT },
            key: self.spec.key,
            tracker_id: self.tracker_ids.get(index.0).cloned().flatten(),
        }
    }

    fn landed(&mut self, landed: Result<(Id, Landed), JoinError>) {
        let (id, landed) = match landed {
            Ok((id, landed)) => (id, Ok(landed)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(at) = self.asked.iter().position(|(flight, _)| *flight == id) else { return };
        let (_, index) = self.asked.swap_remove(at);
        match landed {
            Ok(Landed { event, complete, result: Ok(answer) }) => self.answered(index, event, complete, answer),
            Ok(Landed { result: Err(error), .. }) => {
                self.failed(index, matches!(error, AskError::Silent(_)), &error.to_string());
            }
            Err(error) => self.failed(index, false, &error.to_string()),
        }
    }

    fn answered(&mut self, index: TrackerIndex, event: Event, complete: bool, answer: Answer) {
        let Answer { reply, place } = answer;
        let (now, local) = (Instant::now(), place != Place::Global);
        let (interval, min_interval) = (reply.interval, reply.min_interval);
        self.schedule.answered(now, index, Answered { interval, min_interval, local, event, complete });
        if let (Some(id), Some(kept)) = (reply.tracker_id, self.tracker_ids.get_mut(index.0)) {
            *kept = Some(id);
        }
        if let Some(status) = self.shared.status().get_mut(index.0) {
            let tracker = origin(&status.url);
            if reply.warning.is_some() && reply.warning != status.warning {
                tracing::warn!(tracker, "the tracker says: {}", reply.warning.as_deref().unwrap_or_default());
            }
            if status.error.is_some() {
                tracing::info!(tracker, "the tracker answers again");
            }
            tracing::debug!(tracker, ?event, peers = reply.peers.len(), "announced");
            status.answered = Some(now);
            status.peers = reply.peers.len();
            status.seeds = reply.complete;
            status.leechers = reply.incomplete;
            status.external_ip = reply.external_ip;
            status.warning = reply.warning;
            status.error = None;
        }
        if !reply.peers.is_empty() || reply.external_ip.is_some() {
            (self.found)(Found { peers: reply.peers, place, external_ip: reply.external_ip });
        }
    }

    fn failed(&mut self, index: TrackerIndex, silent: bool, error: &str) {
        self.schedule.failed(Instant::now(), index, silent);
        if let Some(status) = self.shared.status().get_mut(index.0)
            && status.error.as_deref() != Some(error)
        {
            tracing::warn!(tracker = origin(&status.url), "announce failed: {error}");
            status.error = Some(error.to_owned());
        }
    }

    fn publish_times(&self) {
        for (n, status) in self.shared.status().iter_mut().enumerate() {
            status.next = self.schedule.next_ask(TrackerIndex(n));
            status.announcing = self.asked.iter().any(|(_, asked)| asked.0 == n);
        }
    }

    /// Tells `stopped` to all that were told `started`; [`Announcer::stop`] holds the clock.
    async fn stopped(&self) {
        let mut goodbyes = JoinSet::new();
        for index in self.schedule.started() {
            let Some(url) = self.urls.get(index.0).cloned() else { continue };
            let (query, deadlines) = (self.query(index, Event::Stopped), self.spec.deadlines);
            let network = self.spec.network.clone();
            goodbyes.spawn(async move {
                if let Err(error) = ask::announce(&url, &query, &network, deadlines).await {
                    tracing::debug!(tracker = origin(&url), "`stopped` was not taken: {error}");
                }
            });
        }
        while goodbyes.join_next().await.is_some() {}
    }
}
