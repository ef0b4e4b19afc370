//! What goes out to a peer: fetched from the swarm as far as the outbox has room and the rate limits allow, and the blocks
//! among it from the cache, in memory or on disk, or from the user's copy.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tracing::{trace, warn};

use super::chunks::{CHUNK, Chunk, SCARCE};
use super::outbox::Payload;
use super::peer::Peer;
use crate::cache::{Checked, Fault, Verified};
use crate::metainfo::{BLOCK_LENGTH, Request};
use crate::swarm::{Input, Outgoing, Room, Swarm, Waits};
use crate::wire::PIECE_HEADER;

const BLOCK: usize = BLOCK_LENGTH as usize;
/// Bytes that wait in memory for one peer's socket: what one read of the copy brings.
const OUTBOX: usize = CHUNK + 16 * PIECE_HEADER;
/// And so many more for messages: what we ask for does not wait until a full outbox has room.
const MESSAGES: usize = 16 * 1024;

/// Blocks that were read together.
enum Run {
    Copy(Arc<Chunk>),
    Stored(Arc<Checked<Chunk>>),
    /// All of them are in this piece.
    Piece(Arc<Verified>),
}

impl Peer {
    /// Takes from the swarm what there is for this peer.
    pub(super) fn pull(&mut self) {
        self.exchange(|_, _| ());
    }

    /// Tells the swarm something, and takes from it what there is for this peer.
    pub(super) fn exchange<R>(&mut self, news: impl FnOnce(&mut Swarm, Instant) -> R) -> R {
        if self.torrent.shared.config.upload_limit.is_none() {
            return self.transmit(usize::MAX, news).0;
        }
        // Blocks are paid for once it is known that there are any.
        let (result, mut waits) = self.transmit(0, news);
        while let Some(payload) = self.upload_room(waits) {
            waits = self.transmit(payload, |_, _| ()).1;
        }
        result
    }

    /// Bytes that may wait for its socket.
    pub(super) fn reach(&self) -> usize {
        if self.torrent.shared.chunks.scarce() { SCARCE } else { OUTBOX }
    }

    /// One lock of the swarm: the news in, and out what the outbox has room for, blocks up to `payload` bytes.
    fn transmit<R>(&mut self, payload: usize, news: impl FnOnce(&mut Swarm, Instant) -> R) -> (R, Waits) {
        let (reach, waiting) = (self.reach(), self.outbox.len());
        let room = Room {
            total: (reach + MESSAGES).saturating_sub(waiting),
            payload: reach.saturating_sub(waiting).min(payload),
        };
        let mut out = Vec::new();
        let (result, waits) = self.torrent.enter(|swarm, now| {
            let result = news(swarm, now);
            (result, swarm.transmit(now, self.key, room, &mut out))
        });
        self.owes = waits.answers;
        let sent = self.send(out);
        if payload > 0 && self.torrent.shared.config.upload_limit.is_some() {
            self.torrent.shared.node().upload().put_back(payload.saturating_sub(sent));
        }
        (result, waits)
    }

    /// What the upload limit grants, if a block waits for it. None: nothing does, or not before `send_held`.
    fn upload_room(&mut self, waits: Waits) -> Option<usize> {
        let left = self.reach().saturating_sub(self.outbox.len());
        let (now, mut node) = (Instant::now(), self.torrent.shared.node());
        self.send_held = None;
        // Without room in the outbox it is the socket that is waited for.
        if !waits.payload || left < BLOCK {
            node.upload().leave(self.key);
            return None;
        }
        let granted = node.upload().take(now, self.key, left);
        if granted == 0 {
            self.send_held = node.upload().wait(now, self.key, false);
        }
        Some(granted).filter(|&granted| granted > 0)
    }

    /// Puts it into the outbox. Returns the bytes of blocks.
    fn send(&mut self, outgoing: Vec<Outgoing>) -> usize {
        let mut payload = 0;
        let (mut run, mut unserved) = (Vec::new(), Vec::new());
        for item in outgoing {
            match item {
                Outgoing::Message(message) => {
                    trace!(addr = %self.addr, ?message, "sends");
                    self.outbox.push(&message);
                }
                Outgoing::Piece(request) => {
                    payload += request.length as usize;
                    if let Some(piece) = self.torrent.shared.cache.peek(self.torrent.key, request.piece) {
                        self.send_run(&mut run, &mut unserved);
                        self.send_cached(piece, request, &mut unserved);
                    } else {
                        if run.last().is_some_and(|&last| !self.follows(last, request)) || run.len() * BLOCK >= CHUNK {
                            self.send_run(&mut run, &mut unserved);
                        }
                        run.push(request);
                    }
                }
            }
        }
        self.send_run(&mut run, &mut unserved);
        payload -= unserved.iter().map(|request: &Request| request.length as usize).sum::<usize>();
        if !unserved.is_empty() {
            let gone = |request: Request| (request, !self.torrent.is_there(request.piece));
            let unserved: Vec<_> = unserved.into_iter().map(gone).collect();
            self.torrent.enter(|swarm, now| {
                for (request, gone) in unserved {
                    if gone {
                        swarm.handle(now, Input::Lost(request.piece));
                    }
                    swarm.handle(now, Input::Unserved(self.key, request));
                }
            });
        }
        payload
    }

    /// Torrent bytes of a block.
    fn span(&self, request: Request) -> Range<u64> {
        let begin = self.torrent.meta.geometry.piece_offset(request.piece) + u64::from(request.begin);
        begin..begin + u64::from(request.length)
    }

    /// True if one read brings both.
    fn follows(&self, last: Request, next: Request) -> bool {
        self.span(last).end == self.span(next).start
            && (last.piece == next.piece
                || self
                    .torrent
                    .data
                    .as_ref()
                    .is_some_and(|copy| !copy.is_unchecked(last.piece) && !copy.is_unchecked(next.piece)))
    }

    /// Queues a block of a piece that is in the cache.
    fn send_cached(&mut self, piece: Arc<Verified>, request: Request, unserved: &mut Vec<Request>) {
        let span = request.begin as usize..(request.begin + request.length) as usize;
        if piece.bytes().is_some() {
            return self.outbox.push_block(request, Payload::Piece(piece, span));
        }
        let mut chunk = self.torrent.shared.chunks.get(span.len());
        match piece.read_at(request.begin, &mut chunk.as_mut()[..span.len()]) {
            Ok(()) => self.outbox.push_block(request, Payload::Chunk(Arc::new(chunk), 0..span.len())),
            Err(_) => unserved.push(request),
        }
    }

    /// Queues blocks that lie one behind the other in the user's copy, and empties `run`.
    fn send_run(&mut self, run: &mut Vec<Request>, unserved: &mut Vec<Request>) {
        let (Some(&first), Some(&last)) = (run.first(), run.last()) else { return };
        match self.read_run(first, last) {
            Some(Run::Piece(piece)) => {
                for request in run.drain(..) {
                    self.send_cached(Arc::clone(&piece), request, unserved);
                }
            }
            Some(Run::Copy(chunk)) => self.push_run(run, |range| Payload::Chunk(Arc::clone(&chunk), range)),
            Some(Run::Stored(checked)) => self.push_run(run, |range| Payload::Stored(Arc::clone(&checked), range)),
            // Only those that cannot be read are refused.
            None if run.len() > 1 => {
                for request in std::mem::take(run) {
                    self.send_run(&mut vec![request], unserved);
                }
            }
            None => unserved.append(run),
        }
    }

    /// Queues blocks that lie one behind the other in what was read, and empties `run`.
    fn push_run(&mut self, run: &mut Vec<Request>, payload: impl Fn(Range<usize>) -> Payload) {
        let mut at = 0;
        for request in run.drain(..) {
            let end = at + request.length as usize;
            self.outbox.push_block(request, payload(at..end));
            at = end;
        }
    }

    /// The blocks from one to another that [`Peer::follows`] it; none if they cannot be read.
    fn read_run(&self, first: Request, last: Request) -> Option<Run> {
        if let Some(copy) = &self.torrent.data {
            if copy.is_unchecked(first.piece) {
                return self.torrent.find(first.piece).map(Run::Piece);
            }
            return self.read_copy(self.span(first).start..self.span(last).end).map(|chunk| Run::Copy(Arc::new(chunk)));
        }
        let (torrent, piece, range) = (&self.torrent, first.piece, first.begin..last.begin + last.length);
        let (store, entry) = torrent.kept(piece)?;
        let chunk = |length| torrent.shared.chunks.get(length);
        // As for a copy.
        let read = match store.read(entry, piece, range.clone(), false, chunk) {
            Err(Fault::WouldBlock) => tokio::task::block_in_place(|| {
                store.read_ahead(entry, piece, range.end);
                store.read(entry, piece, range.clone(), true, chunk)
            }),
            read => read,
        };
        match read {
            Ok(checked) => Some(Run::Stored(Arc::new(checked))),
            Err(Fault::Suspect) => torrent.find(piece).map(Run::Piece),
            Err(Fault::WouldBlock | Fault::Absent | Fault::FileGone) => None,
        }
    }

    /// A part of the user's copy; none if it cannot be read.
    fn read_copy(&self, span: Range<u64>) -> Option<Chunk> {
        let torrent = &self.torrent;
        let data = torrent.data.as_ref()?;
        let length = usize::try_from(span.end.checked_sub(span.start)?).ok()?;
        let mut chunk = torrent.shared.chunks.get(length);
        let out = &mut chunk.as_mut()[..length];
        // What the kernel has in memory is read here: to hand over this worker's other tasks costs more than that.
        let read = match data.read_cached_at(span.start, out) {
            Ok(true) => Ok(()),
            Ok(false) => tokio::task::block_in_place(|| data.read_at(span.start, out)),
            Err(e) => Err(e),
        };
        match read {
            Ok(()) => Some(chunk),
            Err(e) => {
                warn!(torrent = %torrent.meta.name, offset = span.start, "the copy cannot be read: {e}");
                None
            }
        }
    }
}
