//! Handles: opens, reads seen, flushes and closes become read-ahead and background regions.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::picker::STEP;
use super::readahead::{Handle, MAX_WINDOW, Stream, StreamId, Trail};
use super::stride::{self, Plan};
use super::timers::Timer;
use super::{HandleId, Swarm};
use crate::config::Fill;
use crate::metainfo::PieceIndex;

/// A file is fetched in the background once so many bytes, and so many pieces, were read of it in order.
const FILL_BYTES: u64 = 2 << 20;
const FILL_PIECES: u64 = 2;
/// What is fetched ahead takes this part of the cache at the most, 1 of 4: as much for what the reader has passed, and
/// the rest for unfinished pieces.
const AHEAD_SHARE: u64 = 4;
/// The stretch that is fetched in the background moves on when this part of it was read, 1 of 8.
const FILL_STEPS: u64 = 8;
/// Read-ahead across files ends when no read came for this time.
const TRAIL_ENDS: Duration = Duration::from_secs(10);

impl Swarm {
    /// A file was opened.
    pub(super) fn open(&mut self, now: Instant, handle: HandleId, file: Range<u64>) {
        self.handles.insert(handle, Handle::new(file, &mut self.streams));
        self.refresh_interest(now);
    }

    /// Bytes were read, from the cache or not: read-ahead follows.
    pub(super) fn touch(&mut self, now: Instant, id: HandleId, bytes: &Range<u64>) {
        if self.shutdown {
            return;
        }
        let most_ahead = self.most_ahead();
        let Some(handle) = self.handles.get_mut(&id) else { return };
        let (index, forward, left) = handle.touch(now, bytes, &mut self.streams);
        if forward {
            // What came ahead of a stream was served too.
            handle.paid = handle.paid.max(self.serving);
        }
        let turns = u64::try_from(handle.streams.iter().filter(|s| !s.filed.is_empty()).count()).unwrap_or(1).max(1);
        let (file, stream) = (handle.file.clone(), &mut handle.streams[index]);
        let planned = stream.plan(&self.geometry, file.end, most_ahead / turns);
        let old = std::mem::replace(&mut stream.filed, planned.clone());
        let (stream, run, outruns) = (stream.id, stream.run(), stream.outruns_fill());
        let piece = u64::from(self.geometry.nominal_piece_length());
        let fill = self.fill == Fill::Open && run >= FILL_BYTES.max(FILL_PIECES * piece) && !planned.is_empty();
        handle.filling |= fill;
        let fills = fill && outruns;
        let dues: Vec<Instant> =
            new_pieces(&old, &planned).map(|p| handle.streams[index].due(now, self.geometry.piece_offset(p))).collect();
        let steps = handle.stride.touch(now, &self.geometry, &file, bytes, forward);
        let steps =
            steps.map(|plan| (handle.stride.id, std::mem::replace(&mut handle.stride.filed, plan.clone()), plan));
        let mut tail = None;
        if bytes.start == file.start && handle.tail.is_none() && self.media.contains(&file.start) {
            self.streams += 1;
            let plan = stride::tail(now, &self.geometry, &file);
            handle.tail = Some((StreamId(self.streams), plan.clone()));
            tail = Some((StreamId(self.streams), Plan::new(), plan));
        }
        for (stream, pieces) in left {
            self.drop_ahead(now, stream, pieces);
        }
        for (stream, old, new) in steps.into_iter().chain(tail) {
            self.change_plan(now, stream, old, new);
        }
        self.move_window(now, stream, old, planned, dues);
        if fills {
            self.refresh_regions();
        }
        self.follow_trail(now, &file, bytes);
    }

    /// Read-ahead across files.
    fn follow_trail(&mut self, now: Instant, file: &Range<u64>, bytes: &Range<u64>) {
        let index = self.files.partition_point(|f| f.start < file.start);
        if self.files.get(index) != Some(file) {
            return;
        }
        let most_ahead = self.most_ahead();
        let trail = self.trail.get_or_insert_with(|| Trail::new(now, index, bytes));
        if !trail.touch(now, &self.files, index, bytes) {
            return;
        }
        let planned = if trail.crosses() {
            trail.stream.plan(&self.geometry, self.geometry.total(), most_ahead / 2)
        } else {
            0..0
        };
        let old = std::mem::replace(&mut trail.stream.filed, planned.clone());
        let dues = new_pieces(&old, &planned).map(|p| trail.stream.due(now, self.geometry.piece_offset(p))).collect();
        if !planned.is_empty() {
            self.timers.advance(Timer::Trail, now + TRAIL_ENDS);
        }
        self.move_window(now, StreamId(0), old, planned, dues);
    }

    /// The timer of the trail.
    pub(super) fn trail_due(&mut self, now: Instant) {
        let Some(trail) = &mut self.trail else { return };
        if now >= trail.stream.last + TRAIL_ENDS {
            let filed = std::mem::take(&mut trail.stream.filed);
            self.trail = None;
            self.drop_ahead(now, StreamId(0), filed);
        } else {
            let at = trail.stream.last + TRAIL_ENDS;
            self.timers.set(Timer::Trail, at);
        }
    }

    /// A window moves: what it leaves is dropped, what it reaches is wanted.
    fn move_window(&mut self, now: Instant, stream: StreamId, old: Range<u32>, new: Range<u32>, dues: Vec<Instant>) {
        let fresh: Vec<PieceIndex> = new_pieces(&old, &new).collect();
        for piece in old.filter(|p| !new.contains(p)) {
            self.drop_ahead(now, stream, piece..piece + 1);
        }
        for (piece, due) in fresh.into_iter().zip(dues) {
            self.want_ahead(now, stream, piece, due);
        }
    }

    /// As [`Swarm::move_window`], for pieces that do not lie side by side.
    fn change_plan(&mut self, now: Instant, stream: StreamId, old: Plan, new: Plan) {
        for piece in old.keys().filter(|piece| !new.contains_key(piece)) {
            self.drop_ahead(now, stream, piece.0..piece.0 + 1);
        }
        for (piece, due) in new.into_iter().filter(|(piece, _)| !old.contains_key(piece)) {
            self.want_ahead(now, stream, piece, due);
        }
    }

    /// A stream wants a piece.
    fn want_ahead(&mut self, now: Instant, stream: StreamId, piece: PieceIndex, due: Instant) {
        let sourced = self.has_source(piece);
        let want = self.wants.entry(piece).or_default();
        want.sourced |= sourced;
        want.ahead.push((stream, due));
        self.refile(now, piece);
    }

    /// A stream wants these pieces no more.
    fn drop_ahead(&mut self, now: Instant, stream: StreamId, pieces: Range<u32>) {
        for piece in pieces.map(PieceIndex) {
            if let Some(want) = self.wants.get_mut(&piece) {
                want.ahead.retain(|&(s, _)| s != stream);
                self.unwant(now, piece);
            }
        }
    }

    /// FLUSH: read-ahead and fill stop until the next read. Files read in order go on: `cp` flushes each at its end.
    pub(super) fn flush(&mut self, now: Instant, id: HandleId) {
        let Some(handle) = self.handles.get_mut(&id) else { return };
        let file = handle.file.clone();
        let filled = std::mem::take(&mut handle.filling);
        let windows: Vec<_> = handle.streams.iter_mut().map(|s| (s.id, std::mem::take(&mut s.filed))).collect();
        let apart = [Some((handle.stride.id, handle.stride.forget())), handle.tail.take()];
        for (stream, pieces) in windows {
            self.drop_ahead(now, stream, pieces);
        }
        for (stream, plan) in apart.into_iter().flatten() {
            self.change_plan(now, stream, plan, Plan::new());
        }
        if let Some(trail) = &mut self.trail
            && self.files.get(trail.file) == Some(&file)
            && !trail.at_end(&self.files)
        {
            let filed = std::mem::take(&mut trail.stream.filed);
            self.drop_ahead(now, StreamId(0), filed);
        }
        if filled {
            self.refresh_regions();
        }
    }

    /// The last close of a handle.
    pub(super) fn close_handle(&mut self, now: Instant, id: HandleId) {
        self.flush(now, id);
        if self.handles.remove(&id).is_some() && self.handles.is_empty() {
            self.last_close(now);
        }
    }

    /// The most bytes of one handle's windows.
    fn most_ahead(&self) -> u64 {
        let capacity = self.capacity.map_or(u64::MAX, |capacity| capacity.min(self.cache_memory));
        MAX_WINDOW.min(capacity / AHEAD_SHARE)
    }

    /// The cache is shared with more torrents, or fewer.
    pub(super) fn set_capacity(&mut self, bytes: u64) {
        if self.capacity.is_some_and(|capacity| capacity != bytes) {
            self.capacity = Some(bytes);
            self.refresh_regions();
        }
    }

    /// What the background fetches, anew: everything, or the files that are read in order.
    pub(super) fn refresh_regions(&mut self) {
        let mut regions: Vec<Range<u32>> = match self.fill {
            Fill::None => Vec::new(),
            Fill::All => self.wanted.clone(),
            Fill::Open => {
                let parts = self.fill_open();
                parts.into_iter().filter_map(|bytes| self.geometry.covering(bytes)).collect()
            }
        };
        regions.sort_unstable_by_key(|r| r.start);
        regions.dedup();
        let old = std::mem::replace(&mut self.regions, regions);
        self.picker.reset();
        self.work = true;
        let within = |regions: &[Range<u32>], piece: &PieceIndex| regions.iter().any(|r| r.contains(&piece.0));
        let turned = self.partials.keys().filter(|piece| within(&old, piece) != within(&self.regions, piece));
        let turned: Vec<PieceIndex> = turned.copied().take(STEP as usize).collect();
        turned.into_iter().for_each(|piece| self.refile(self.now, piece));
    }

    /// Of the files that are read in order, all if they fit into half of the cache, else what comes next of each: the
    /// least recently used piece is one that was fetched long ago and not read yet, if too much is fetched.
    fn fill_open(&mut self) -> Vec<Range<u64>> {
        let files: Vec<Range<u64>> = self.handles.values().filter(|h| h.filling).map(|h| h.file.clone()).collect();
        let bytes: u64 = files.iter().map(|file| file.end - file.start).sum();
        let Some(capacity) = self.capacity.filter(|capacity| bytes > capacity / 2) else {
            self.streams_that_fill().for_each(|(stream, file)| stream.fill_until = file.end);
            return files;
        };
        let count = u64::try_from(self.streams_that_fill().count()).unwrap_or(1).max(1);
        let share = capacity / AHEAD_SHARE / count;
        let next = self.streams_that_fill().map(|(stream, file)| {
            let end = stream.pos.saturating_add(share).min(file.end);
            stream.fill_until = if end < file.end { stream.pos.saturating_add(share / FILL_STEPS) } else { end };
            stream.pos.min(end)..end
        });
        next.filter(|bytes| !bytes.is_empty()).collect()
    }

    /// The streams whose files are fetched in the background, with the file.
    fn streams_that_fill(&mut self) -> impl Iterator<Item = (&mut Stream, Range<u64>)> + '_ {
        self.handles.values_mut().filter(|handle| handle.filling).flat_map(|handle| {
            let file = handle.file.clone();
            handle.streams.iter_mut().filter(|s| !s.filed.is_empty()).map(move |stream| (stream, file.clone()))
        })
    }
}

/// Pieces of a new window that were not in the old one.
fn new_pieces(old: &Range<u32>, new: &Range<u32>) -> impl Iterator<Item = PieceIndex> + use<> {
    let old = old.clone();
    new.clone().filter(move |p| !old.contains(p)).map(PieceIndex)
}
