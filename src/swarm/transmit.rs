//! What a peer is sent, in order, as its socket has room: what it must know, what we ask for, and the blocks it asked for.

use std::time::Instant;

use super::{Outgoing, PeerKey, Room, Swarm, Waits};
use crate::wire::{Message, PIECE_HEADER};

/// Bytes of a `request` message (BEP 3).
const REQUEST: usize = 17;

/// Room in a socket. The first message always fits.
struct Space<'a> {
    left: usize,
    payload: usize,
    first: bool,
    out: &'a mut Vec<Outgoing>,
}

impl Space<'_> {
    fn fits(&self, length: usize) -> bool {
        self.left > 0 && (self.first || length <= self.left)
    }

    fn push(&mut self, length: usize, outgoing: Outgoing) {
        self.left = self.left.saturating_sub(length);
        self.first = false;
        self.out.push(outgoing);
    }

    fn message(&mut self, message: Message<'static>) {
        self.push(message.encoded_len(), Outgoing::Message(message));
    }
}

impl Swarm {
    /// Appends what this peer is to be sent now, at most `room` bytes (but one message at least, if there is room at
    /// all); what does not fit waits for the next call. A block counts its length and 13 bytes. Poll effects
    /// afterwards.
    pub fn transmit(&mut self, now: Instant, peer: PeerKey, room: Room, out: &mut Vec<Outgoing>) -> Waits {
        self.now = now;
        let mut waits = Waits::default();
        let Some(p) = self.peers.get_mut(&peer) else { return waits };
        p.woken = false;
        let before = out.len();
        let mut room = Space { left: room.total, payload: room.payload, first: true, out };
        let all = self.send_control(peer, &mut room);
        if all && room.left > 0 {
            self.send_requests(now, peer, &mut room);
            waits.payload = self.send_blocks(peer, &mut room);
        }
        if room.out.len() > before
            && let Some(p) = self.peers.get_mut(&peer)
        {
            p.last_sent = now;
        }
        self.arm(peer);
        self.settle(now);
        waits.answers = self.peers.get(&peer).map_or(0, |p| p.out.len());
        waits
    }

    /// What the peer must know. False if there was not enough room for all of it.
    fn send_control(&mut self, key: PeerKey, room: &mut Space<'_>) -> bool {
        let Some(peer) = self.peers.get(&key) else { return false };
        if !peer.greeted {
            if room.left == 0 {
                return false;
            }
            // A super-seed looks like a peer with nothing (BEP 16).
            let count = if self.super_seed.is_some() { 0 } else { self.have.count() };
            let greeting = match (peer.fast, count) {
                (true, 0) => Some(Message::HaveNone),
                (true, _) if self.have.full() => Some(Message::HaveAll),
                (false, 0) => None,
                _ => Some(Message::Bitfield(self.have.to_wire().into())),
            };
            if let Some(greeting) = greeting {
                room.message(greeting);
            }
            let end = self.log_start + self.log.len() as u64;
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.greeted = true;
                peer.news = end;
            }
        }
        let Some(interested) = self.peers.get(&key).map(|p| self.interested_in(p)) else { return false };
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        if interested != peer.said_interested {
            if !room.fits(5) {
                return false;
            }
            peer.said_interested = interested;
            room.message(if interested { Message::Interested } else { Message::NotInterested });
        }
        if peer.unchoked != peer.said_unchoked {
            if !room.fits(5) {
                return false;
            }
            peer.said_unchoked = peer.unchoked;
            room.message(if peer.unchoked { Message::Unchoke } else { Message::Choke });
        }
        if let Some(message) = peer.upload_only_news(self.upload_only) {
            if !room.fits(message.encoded_len()) {
                return false;
            }
            peer.said_upload_only = self.upload_only;
            room.message(message);
        }
        while let Some(message) = peer.control.pop_front() {
            if !room.fits(message.encoded_len()) {
                peer.control.push_front(message);
                return false;
            }
            if matches!(message, Message::Reject(_)) {
                peer.rejects = peer.rejects.saturating_sub(1);
            }
            room.message(message);
        }
        while room.fits(10) {
            let Some(news) = self.next_news(key) else { return true };
            room.message(news);
        }
        false
    }

    /// Requests that fill the pipeline.
    fn send_requests(&mut self, now: Instant, key: PeerKey, room: &mut Space<'_>) {
        let most = (room.left / REQUEST).max(usize::from(room.first));
        for block in self.pick(now, key, most) {
            room.message(Message::Request(self.geometry.request(block)));
        }
    }

    /// Blocks that the peer asked for, while there is room.
    fn send_blocks(&mut self, key: PeerKey, room: &mut Space<'_>) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        while let Some(&request) = peer.queue.front() {
            let length = request.length as usize + PIECE_HEADER;
            if !room.fits(length) {
                break;
            }
            if room.payload < request.length as usize {
                return true;
            }
            room.payload -= request.length as usize;
            peer.queue.pop_front();
            peer.sent += u64::from(request.length);
            self.totals.uploaded += u64::from(request.length);
            // What it takes back before it is sent does not count: it may ask again.
            if !peer.unchoked
                && let Some(served) = peer.given.as_mut().and_then(|given| given.get_mut(&request.piece))
            {
                *served += 1;
            }
            room.push(length, Outgoing::Piece(request));
            if let Some(seed) = &mut self.super_seed {
                seed.sent(self.now, key, request.piece);
            }
        }
        false
    }
}
