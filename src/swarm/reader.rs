//! Handles: opens, reads seen, flushes and closes become read-ahead and background regions.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::picker::STEP;
use super::readahead::{Handle, MAX_WINDOW, StreamId, Trail};
use super::stride::{self, Plan};
use super::timers::Timer;
use super::{HandleId, Swarm};
use crate::config::Fill;
use crate::metainfo::PieceIndex;

/// A file is fetched in the background once so many bytes, and so many pieces, were read of it in order.
const FILL_BYTES: u64 = 2 << 20;
const FILL_PIECES: u64 = 2;
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
        let Some(handle) = self.handles.get_mut(&id) else { return };
        let (index, forward, left) = handle.touch(now, bytes, &mut self.streams);
        if forward {
            // What came ahead of a stream was served too.
            handle.paid = handle.paid.max(self.serving);
        }
        let turns = u64::try_from(handle.streams.iter().filter(|s| !s.filed.is_empty()).count()).unwrap_or(1).max(1);
        let (file, stream) = (handle.file.clone(), &mut handle.streams[index]);
        let planned = stream.plan(&self.geometry, file.end, MAX_WINDOW / turns);
        let old = std::mem::replace(&mut stream.filed, planned.clone());
        let (stream, run) = (stream.id, stream.run());
        let piece = u64::from(self.geometry.nominal_piece_length());
        let fill = self.fill == Fill::Open && run >= FILL_BYTES.max(FILL_PIECES * piece) && !planned.is_empty();
        let fills = fill && !handle.filling;
        handle.filling |= fill;
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
        let trail = self.trail.get_or_insert_with(|| Trail::new(now, index, bytes));
        if !trail.touch(now, &self.files, index, bytes) {
            return;
        }
        let planned = if trail.crosses() {
            trail.stream.plan(&self.geometry, self.geometry.total(), MAX_WINDOW / 2)
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

    /// What the background fetches, anew: everything, or the files that are read in order.
    pub(super) fn refresh_regions(&mut self) {
        let pieces = |bytes: &Range<u64>| self.geometry.covering(bytes.clone());
        let mut regions: Vec<Range<u32>> = match self.fill {
            Fill::None => Vec::new(),
            Fill::All => self.wanted.clone(),
            Fill::Open => self.handles.values().filter(|h| h.filling).filter_map(|h| pieces(&h.file)).collect(),
        };
        regions.sort_unstable_by_key(|r| r.start);
        regions.dedup();
        self.regions = regions;
        self.picker.reset();
        self.work = true;
        let partials: Vec<PieceIndex> = self.partials.keys().copied().take(STEP as usize).collect();
        partials.into_iter().for_each(|piece| self.refile(self.now, piece));
    }
}

/// Pieces of a new window that were not in the old one.
fn new_pieces(old: &Range<u32>, new: &Range<u32>) -> impl Iterator<Item = PieceIndex> + use<> {
    let old = old.clone();
    new.clone().filter(move |p| !old.contains(p)).map(PieceIndex)
}
