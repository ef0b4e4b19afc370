//! One run of blocks from a web seed: the ranges of files that it is made of, one request after the other over one
//! connection, and their bytes as blocks to the swarm and into their pieces while they come.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use reqwest::header::{self, HeaderName};
use tokio::time::timeout;

use super::Source;
use crate::engine::http::{self, Answer, FetchError, Patience, Target};
use crate::engine::reach::Purpose;
use crate::metainfo::{BLOCK_LENGTH, Request, WebPart};
use crate::swarm::Receipt;
use crate::wire::{RangeReply, Verdict};

/// How long a web seed may take (hardening: 10 s).
/// In all less than the swarm waits for a block, which would end it without a reason.
const PATIENCE: Patience = Patience { connect: Duration::from_secs(7), receive: Duration::from_secs(10) };
/// Bytes after which a task lets others run.
const TURN: usize = 256 * 1024;
/// What the end of a body may take to come. It only serves to keep the connection.
const END: Duration = Duration::from_millis(50);
/// Files whose place after redirects is remembered.
const MOVED: usize = 1_000;

/// Why a run ends before its end.
#[derive(Debug)]
pub(super) enum Failure {
    /// This file is not to be had.
    File { file: usize, why: String },
    /// The server, or the way to it, has trouble. `wait`: it says for how long.
    Trouble { why: String, wait: Option<Duration> },
}

impl Failure {
    fn trouble(error: &FetchError) -> Self {
        Self::Trouble { why: error.to_string(), wait: None }
    }
}

/// Neighbouring blocks that are fetched together.
pub(super) struct Run {
    requests: Vec<Request>,
    stopped: Vec<AtomicBool>,
    /// Blocks that have come.
    next: AtomicUsize,
}

impl Run {
    pub(super) fn new(requests: Vec<Request>) -> Self {
        let stopped = requests.iter().map(|_| AtomicBool::new(false)).collect();
        Self { requests, stopped, next: AtomicUsize::new(0) }
    }

    /// A block of it is wanted no more.
    pub(super) fn stop(&self, request: Request) {
        if let Some(at) = self.requests.iter().position(|&r| r == request)
            && let Some(stopped) = self.stopped.get(at)
        {
            stopped.store(true, Ordering::Relaxed);
        }
    }

    /// Blocks that have come.
    pub(super) fn delivered(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }

    fn is_wanted(&self, at: usize) -> bool {
        self.stopped.get(at).is_some_and(|stopped| !stopped.load(Ordering::Relaxed))
    }

    /// What is wanted of it and has not come.
    pub(super) fn left(&self) -> Vec<Request> {
        let rest = self.requests.iter().enumerate().skip(self.delivered());
        rest.filter(|&(at, _)| self.is_wanted(at)).map(|(_, &request)| request).collect()
    }

    /// True if nothing of it is wanted any more.
    pub(super) fn is_over(&self) -> bool {
        (self.delivered()..self.requests.len()).all(|at| !self.is_wanted(at))
    }
}

/// Where the bytes of a run go.
struct Sink<'a> {
    source: &'a Source,
    run: &'a Run,
    /// The beginning of a block.
    begun: Vec<u8>,
    /// Bytes since others were let run.
    moved: usize,
}

/// Fetches a run.
pub(super) async fn fetch(source: Arc<Source>, run: Arc<Run>) -> Result<(), Failure> {
    let geometry = &source.torrent.meta.geometry;
    let at = |request: &Request| geometry.piece_offset(request.piece) + u64::from(request.begin);
    let (Some(first), Some(last)) = (run.requests.first(), run.requests.last()) else { return Ok(()) };
    let span = at(first)..at(last) + u64::from(last.length);
    let mut sink = Sink { source: &source, run: &run, begun: Vec::new(), moved: 0 };
    let parts: Vec<WebPart> = source.files.parts(span).collect();
    for part in parts {
        match part {
            WebPart::Zeros(count) => sink.zeros(count).await,
            WebPart::File { file, mut range } => {
                while range.start < range.end && !run.is_over() {
                    range.start += part_of(&source, file, &range, &mut sink).await?;
                }
            }
        }
        if run.is_over() {
            break;
        }
    }
    Ok(())
}

/// One request for a range of a file. Returns how many bytes came: all of them, or as many as the server sends at once.
async fn part_of(source: &Source, file: usize, range: &Range<u64>, sink: &mut Sink<'_>) -> Result<u64, Failure> {
    let Some(entry) = source.torrent.meta.files.get(file) else { return Ok(range.end - range.start) };
    let mut answer = ask(source, file, range).await?;
    let headers = answer.response.headers().clone();
    let find = |name: HeaderName| headers.get(name).map(header::HeaderValue::as_bytes);
    let reply = RangeReply {
        status: answer.response.status().as_u16(),
        content_range: find(header::CONTENT_RANGE),
        content_length: find(header::CONTENT_LENGTH),
        content_encoding: find(header::CONTENT_ENCODING),
        retry_after: find(header::RETRY_AFTER),
        date: find(header::DATE),
    };
    let (mut skip, length) = match reply.judge(range, entry.length) {
        Verdict::Body { skip, length } => (skip, length),
        Verdict::Later(wait) => {
            return Err(Failure::Trouble { why: FetchError::Status(reply.status).to_string(), wait });
        }
        Verdict::Never(why) => return Err(never(source, file, format!("the server {why}"), answer.redirected)),
    };
    let mut left = length;
    while left > 0 {
        let Some(chunk) = answer.chunk().await.map_err(|e| Failure::trouble(&e))? else { break };
        let skipped = usize::try_from(skip).map_or(chunk.len(), |skip| skip.min(chunk.len()));
        skip -= skipped as u64;
        let fresh = chunk.get(skipped..).unwrap_or_default();
        let taken = usize::try_from(left).map_or(fresh.len(), |left| left.min(fresh.len()));
        sink.push(fresh.get(..taken).unwrap_or_default()).await;
        left -= taken as u64;
        if sink.run.is_over() {
            return Ok(range.end - range.start);
        }
    }
    let whole = length == range.end - range.start;
    // A server that sends a little at a time would have us ask for ever.
    if left > 0 || (!whole && length < u64::from(BLOCK_LENGTH)) {
        let why = format!("it sends {} bytes where {} were to come", length - left, range.end - range.start);
        return Err(Failure::Trouble { why, wait: None });
    }
    if whole {
        // The connection is kept once the end of the body was seen.
        let _ = timeout(END, answer.chunk()).await;
    }
    Ok(length)
}

/// A file is not to be had; by way of a redirect, not for now: it may lead to another place the next time.
fn never(source: &Source, file: usize, why: String, redirected: bool) -> Failure {
    source.moved.lock().unwrap_or_else(PoisonError::into_inner).remove(&file);
    let mut doubted = source.doubted.lock().unwrap_or_else(PoisonError::into_inner);
    if redirected && doubted.insert(file) {
        return Failure::Trouble { why: format!("where it redirects to, {why}"), wait: None };
    }
    Failure::File { file, why }
}

/// Asks for a range of a file where it was found last, else where the torrent says that it is.
async fn ask(source: &Source, file: usize, range: &Range<u64>) -> Result<Answer, Failure> {
    let remembered = source.moved.lock().unwrap_or_else(PoisonError::into_inner).get(&file).cloned();
    if let Some(target) = remembered {
        let answer = http::get(source.network(), Purpose::WebSeed, target, Some(range), PATIENCE).await;
        match answer {
            Ok(mut answer) if answer.response.status().is_success() => {
                answer.redirected = true;
                return Ok(answer);
            }
            // It may have moved again: a redirect is good for now, not for ever.
            _ => drop(source.moved.lock().unwrap_or_else(PoisonError::into_inner).remove(&file)),
        }
    }
    let url = source.files.url(&source.url, file).unwrap_or_default();
    let given = Target::given(Purpose::WebSeed, &url);
    let answer = match given {
        Ok(target) => http::get(source.network(), Purpose::WebSeed, target, Some(range), PATIENCE).await,
        Err(error) => Err(error),
    };
    let answer = answer.map_err(|error| match error {
        // A hotel's network may redirect whatever is asked for, until somebody logs in.
        FetchError::Refused(_) => never(source, file, error.to_string(), true),
        error => Failure::trouble(&error),
    })?;
    if answer.redirected && answer.response.status().is_success() {
        let mut moved = source.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if moved.len() >= MOVED {
            moved.pop_first();
        }
        moved.insert(file, answer.target.clone());
    }
    Ok(answer)
}

impl Sink<'_> {
    /// Padding.
    async fn zeros(&mut self, count: u64) {
        let zeros = [0; BLOCK_LENGTH as usize];
        let mut left = count;
        while left > 0 {
            let some = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
            self.push(&zeros[..some]).await;
            left -= some as u64;
        }
    }

    /// The next bytes: whole blocks go where they belong, under one lock for all of them.
    async fn push(&mut self, mut bytes: &[u8]) {
        self.moved += bytes.len();
        let (source, run, from) = (self.source, self.run, self.run.delivered());
        let length = |at: usize| run.requests.get(at).map(|request| request.length as usize);
        let mut whole: Vec<(usize, &[u8])> = Vec::new();
        let mut at = from;
        let mut first = std::mem::take(&mut self.begun);
        if !first.is_empty() {
            let missing = length(at).unwrap_or(0).saturating_sub(first.len()).min(bytes.len());
            let (now, later) = bytes.split_at(missing);
            first.extend_from_slice(now);
            bytes = later;
            if length(at).is_none_or(|length| first.len() < length) {
                self.begun = first;
                return;
            }
            whole.push((at, &first));
            at += 1;
        }
        while let Some((block, later)) = length(at).and_then(|length| bytes.split_at_checked(length)) {
            whole.push((at, block));
            bytes = later;
            at += 1;
        }
        let mut kept = Vec::new();
        if !whole.is_empty() {
            source.torrent.enter(|swarm, now| {
                for &(at, data) in whole.iter().filter(|&&(at, _)| run.is_wanted(at)) {
                    let Some(&request) = run.requests.get(at) else { continue };
                    if let Receipt::Keep { attempt } = swarm.receive(now, source.key, request) {
                        kept.push((request, attempt, data));
                    }
                }
            });
            run.next.store(at, Ordering::Relaxed);
        }
        for (request, attempt, data) in kept {
            source.torrent.fill(request, attempt, data);
        }
        self.begun = bytes.to_vec();
        if self.moved >= TURN {
            self.moved = 0;
            tokio::task::yield_now().await;
        }
    }
}
