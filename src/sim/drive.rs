//! One node's turn, as the engine takes it: an input, every effect, what its peers' sockets have room for, its timer.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::net::{End, Packet};
use super::node::Behaviour;
use super::pieces::{Partial, right_digests};
use super::world::{DONTHAVE, Event, MAX_SPINS, MIN_INTERVAL, NodeIndex, TORRENT, World};
use crate::metainfo::{PieceIndex, Request};
use crate::swarm::{CloseReason, Effect, Input, Outgoing, PeerKey, Receipt, Room};
use crate::wire::{self, Message};

/// A `piece` message with a whole block.
const BLOCK: usize = 16 * 1024 + 13;
/// How long a block takes to hash: 1.3 GB/s. The last one of a piece is what it waits for.
const HASH: Duration = Duration::from_micros(13);

impl World {
    /// After any news for a node: effects, wakes and dials until there are none, then its timer.
    pub(super) fn settle(&mut self, index: NodeIndex) {
        loop {
            if let Some(effect) = self.nodes[index.0].swarm.poll() {
                self.effect(index, effect);
            } else if let Some(peer) = self.nodes[index.0].wakes.pop_front() {
                self.pump(index, peer);
            } else {
                break;
            }
        }
        self.dial(index);
        self.arm(index);
    }

    fn effect(&mut self, index: NodeIndex, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::Wake(peer) => self.nodes[index.0].wakes.push_back(peer),
            Effect::ReadReady(id) => self.read_ready(index, id),
            Effect::ReadFailed(id, _) => match self.nodes[index.0].reads.remove(&id) {
                Some(parked) => self.answered(index, &parked, false),
                None => self.violation(index, format!("{id:?} failed, and was answered before")),
            },
            Effect::Close(peer, reason) => {
                let good = !matches!(reason, CloseReason::Protocol(_));
                if let Some(end) = self.end(index, peer) {
                    let other = self.connections[end.connection].nodes[1 - end.side];
                    if !good {
                        self.violation(index, format!("closed {other:?}: {reason}"));
                    }
                    self.close(end, good);
                }
            }
            Effect::Ban(peer, addr, piece) => {
                self.nodes[index.0].node.ban(now, TORRENT, addr);
                if let Some(end) = self.end(index, peer) {
                    let other = self.connections[end.connection].nodes[1 - end.side];
                    if !matches!(self.nodes[other.0].spec.behaviour, Behaviour::Liar(_)) {
                        self.violation(index, format!("banned {other:?}, which is honest, over {piece:?}"));
                    }
                    self.nodes[index.0].figures.banned += 1;
                    self.close(end, false);
                }
            }
            Effect::Digest(piece) => {
                if self.nodes[index.0].store.contains(piece) {
                    let digests = right_digests(&self.geometry, piece);
                    self.nodes[index.0].swarm.handle(now, Input::Digests(piece, &digests));
                }
            }
            Effect::Discard { piece, attempt } => self.discard(index, piece, attempt),
            Effect::WantMemory(bytes) => {
                let grant = self.nodes[index.0].node.reserve(TORRENT, bytes);
                self.grant(index, grant);
            }
            Effect::ReturnMemory(bytes) => {
                let node = &mut self.nodes[index.0];
                if bytes > node.granted {
                    let granted = node.granted;
                    self.violation(index, format!("{bytes} bytes of memory returned, {granted} granted"));
                }
                let node = &mut self.nodes[index.0];
                node.granted = node.granted.saturating_sub(bytes);
                for (_, grant) in node.node.release(TORRENT, bytes) {
                    self.grant(index, grant);
                }
            }
            Effect::WithdrawMemory(bytes) => {
                for (_, grant) in self.nodes[index.0].node.withdraw(TORRENT, bytes) {
                    self.grant(index, grant);
                }
            }
            Effect::BadWebSeed(..) => self.violation(index, "it blames a web seed, and there is none".to_owned()),
            Effect::WantRequests { .. } => self.violation(index, "it wants requests without a limit".to_owned()),
            Effect::Starved => {
                self.nodes[index.0].node.boost(now, TORRENT);
                let announced = self.nodes[index.0].announced;
                if announced.is_none_or(|at| now.saturating_duration_since(at) >= MIN_INTERVAL) {
                    self.announce(index);
                }
            }
            Effect::Completed => {
                let elapsed = self.since_start();
                let node = &mut self.nodes[index.0];
                if node.figures.completed.replace(elapsed).is_some() {
                    self.violation(index, "it is complete a second time".to_owned());
                }
                self.completed += 1;
                let node = &self.nodes[index.0];
                if let Some(after) = node.spec.leave_after {
                    self.queue.push(now + after, Event::Leave(index, false));
                }
            }
        }
    }

    fn grant(&mut self, index: NodeIndex, bytes: u64) {
        if bytes > 0 {
            let node = &mut self.nodes[index.0];
            node.granted += bytes;
            node.swarm.handle(self.now, Input::Grant(bytes));
        }
    }

    /// Sends what a peer is to be sent, as far as its socket has room.
    fn pump(&mut self, index: NodeIndex, peer: PeerKey) {
        let Some(end) = self.end(index, peer) else { return };
        let (mut out, mut messages) = (Vec::new(), Vec::new());
        loop {
            let wanted = self.socket_room(end);
            if wanted == 0 {
                return;
            }
            let node = &mut self.nodes[index.0];
            let allowed = node.node.upload().take(self.now, peer, wanted);
            let room = Room { total: wanted, payload: allowed };
            let waits = node.swarm.transmit(self.now, peer, room, &mut out);
            let spent: usize = out.iter().map(payload).sum();
            node.node.upload().put_back(allowed.saturating_sub(spent));
            if out.is_empty() && waits.payload {
                if let Some(retry) = node.node.upload().wait(self.now, peer, false) {
                    node.throttled.insert(peer, retry);
                }
                return;
            }
            // Where a block would still have fitted, and no limit holds one back, there is nothing more.
            let done = out.is_empty() || (!waits.payload && out.iter().map(size).sum::<usize>() + BLOCK <= wanted);
            if done {
                node.node.upload().leave(peer);
            }
            for outgoing in out.drain(..) {
                match outgoing {
                    Outgoing::Message(message) => {
                        self.log(index, peer, &message);
                        messages.push(message);
                    }
                    Outgoing::Piece(request) => {
                        self.send_messages(end, &mut messages);
                        self.serve(index, end, request);
                    }
                }
            }
            self.send_messages(end, &mut messages);
            if done {
                for (block, after) in self.nodes[index.0].ledger.all_said(peer) {
                    self.violation(
                        index,
                        format!("{block:?} was asked for twice within {after:?}, and not taken back"),
                    );
                }
                return;
            }
        }
    }

    fn send_messages(&mut self, end: End, messages: &mut Vec<Message<'static>>) {
        if !messages.is_empty() {
            self.send(end, Packet::Messages(std::mem::take(messages)));
        }
    }

    fn serve(&mut self, index: NodeIndex, end: End, request: Request) {
        let node = &mut self.nodes[index.0];
        if !node.store.touch(request.piece) {
            node.figures.unserved += 1;
            node.swarm.handle(self.now, Input::Unserved(end.key(), request));
            return;
        }
        let liar = match node.spec.behaviour {
            Behaviour::Silent => return,
            Behaviour::Liar(share) => self.rng.random_bool(share.clamp(0.0, 1.0)).then_some(index),
            Behaviour::Honest | Behaviour::FreeRider => None,
        };
        node.figures.sent += u64::from(request.length);
        self.send(end, Packet::Piece { request, liar });
    }

    /// Something has come to a node.
    pub(super) fn deliver(&mut self, index: NodeIndex, end: End, packet: Packet) {
        let (now, peer) = (self.now, end.key());
        let node = &mut self.nodes[index.0];
        match packet {
            Packet::Messages(messages) => messages.into_iter().for_each(|message| self.hear(index, peer, message)),
            Packet::Handshake(handshake) => {
                if let Some(port) = handshake.listen_port {
                    node.node.listening(now, peer, port);
                }
                node.swarm.handle(now, Input::Extended(peer, &handshake));
            }
            Packet::Piece { request, liar } => {
                if let Some(block) = self.geometry.block(request) {
                    self.nodes[index.0].ledger.answer(peer, block);
                }
                let node = &mut self.nodes[index.0];
                match node.swarm.receive(now, peer, request) {
                    Receipt::Keep { attempt } => {
                        node.figures.kept += u64::from(request.length);
                        self.keep(index, request, attempt, liar);
                    }
                    Receipt::Drop => node.figures.dropped += u64::from(request.length),
                }
            }
        }
    }

    fn hear(&mut self, index: NodeIndex, peer: PeerKey, message: Message<'static>) {
        let now = self.now;
        match &message {
            Message::Reject(request) => self.taken_back(index, peer, *request),
            Message::Choke => self.nodes[index.0].ledger.forget(peer),
            _ => {}
        }
        let node = &mut self.nodes[index.0];
        match message {
            Message::Extended { id: DONTHAVE, payload } => match <[u8; 4]>::try_from(&payload[..]) {
                Ok(piece) => node.swarm.handle(now, Input::DontHave(peer, PieceIndex(u32::from_be_bytes(piece)))),
                Err(_) => self.violation(index, format!("a dont-have of {} bytes came", payload.len())),
            },
            Message::Extended { id: wire::OUR_UPLOAD_ONLY_ID, payload } => {
                node.swarm.handle(now, Input::UploadOnly(peer, wire::decode_upload_only(&payload)));
            }
            message => {
                node.swarm.handle(now, Input::Message(peer, &message));
                match message {
                    Message::Interested => node.node.interest(now, peer, true),
                    Message::NotInterested => node.node.interest(now, peer, false),
                    _ => {}
                }
            }
        }
    }

    /// A message that goes out: what it says of requests.
    fn log(&mut self, index: NodeIndex, peer: PeerKey, message: &Message<'_>) {
        let now = self.now;
        match message {
            Message::Request(request) => {
                let Some(block) = self.geometry.block(*request) else {
                    return self.violation(index, format!("it asks for {request:?}, which is no block"));
                };
                let node = &mut self.nodes[index.0];
                node.figures.asked += 1;
                node.figures.asked_again += u64::from(node.ledger.ask(now, peer, block));
                let partial = node.partials.get(&block.piece);
                let begun = partial.is_some_and(|p| node.swarm.attempt(block.piece) == Some(p.attempt) && p.has(block));
                if begun || node.store.contains(block.piece) {
                    self.violation(index, format!("it asks {peer:?} for {block:?}, which is there"));
                }
            }
            Message::Cancel(request) => self.taken_back(index, peer, *request),
            _ => {}
        }
    }

    /// A request is out no more, and needs no answer.
    fn taken_back(&mut self, index: NodeIndex, peer: PeerKey, request: Request) {
        if let Some(block) = self.geometry.block(request) {
            self.nodes[index.0].ledger.take_back(peer, block);
        }
    }

    fn keep(&mut self, index: NodeIndex, request: Request, attempt: u32, liar: Option<NodeIndex>) {
        let (now, geometry) = (self.now, self.geometry);
        let Some(block) = geometry.block(request) else {
            self.violation(index, format!("{request:?} was kept and is no block"));
            return;
        };
        let node = &mut self.nodes[index.0];
        if node.store.contains(block.piece) {
            self.violation(index, format!("{block:?} was kept, and the piece is there"));
            return;
        }
        if node.partials.get(&block.piece).is_some_and(|partial| partial.attempt != attempt) {
            self.take_partial(index, block.piece);
        }
        let node = &mut self.nodes[index.0];
        let length = u64::from(geometry.piece_length(block.piece));
        let partial = node.partials.entry(block.piece).or_insert_with(|| {
            node.assembling += length;
            Partial::new(geometry.blocks(block.piece), attempt)
        });
        if !partial.fill(block, liar) {
            self.violation(index, format!("{block:?} was kept twice"));
        } else if partial.full() {
            self.queue.push(now + HASH, Event::Hashed(index, block.piece, attempt));
        }
        let node = &self.nodes[index.0];
        if node.assembling > node.granted {
            let (begun, granted) = (node.assembling, node.granted);
            self.violation(index, format!("{begun} bytes of pieces are begun, {granted} granted"));
        }
    }

    fn discard(&mut self, index: NodeIndex, piece: PieceIndex, attempt: u32) {
        match self.nodes[index.0].partials.get(&piece) {
            Some(partial) if partial.attempt == attempt && partial.full() => {
                self.violation(index, format!("{piece:?} was discarded while it is hashed"));
            }
            Some(partial) if partial.attempt == attempt => drop(self.take_partial(index, piece)),
            _ => {}
        }
    }

    fn take_partial(&mut self, index: NodeIndex, piece: PieceIndex) -> Option<Partial> {
        let node = &mut self.nodes[index.0];
        let partial = node.partials.remove(&piece)?;
        node.assembling -= u64::from(self.geometry.piece_length(piece));
        Some(partial)
    }

    pub(super) fn hashed(&mut self, index: NodeIndex, piece: PieceIndex, attempt: u32) {
        let (now, geometry) = (self.now, self.geometry);
        let node = &mut self.nodes[index.0];
        if !node.alive {
            return;
        }
        if node.partials.get(&piece).is_none_or(|partial| partial.attempt != attempt) {
            return; // Begun anew meanwhile.
        }
        let Some(partial) = self.take_partial(index, piece) else { return };
        let node = &mut self.nodes[index.0];
        if partial.corrupt() {
            node.figures.failed_pieces += 1;
            node.swarm.handle(now, Input::PieceFailed(piece, &partial.digests(piece)));
        } else {
            // Evicted is entered before the bytes go.
            while let Some(surplus) = node.store.surplus(|piece| node.reads.values().any(|r| r.held.contains(&piece))) {
                node.figures.evicted += 1;
                node.swarm.handle(now, Input::Evicted(surplus));
                node.store.remove(surplus);
            }
            node.store.insert(piece);
            for read in node.reads.values_mut().filter(|read| !geometry.within(piece, &read.bytes).is_empty()) {
                read.held.insert(piece);
            }
            node.swarm.handle(now, Input::PieceVerified(piece));
        }
        self.settle(index);
    }

    /// The node's earliest deadline has come.
    pub(super) fn timer(&mut self, index: NodeIndex) {
        let now = self.now;
        let node = &mut self.nodes[index.0];
        if node.armed != Some(now) || !node.alive {
            return; // An earlier one took its place.
        }
        node.armed = None;
        if node.swarm.next_timeout().is_some_and(|at| at <= now) {
            node.swarm.handle(now, Input::Timeout);
        }
        if node.node.next_rechoke() <= now {
            let torrents = [(TORRENT, node.swarm.complete(), node.swarm.candidates(now))];
            for (_, unchoked) in node.node.rechoke(now, &torrents) {
                node.swarm.handle(now, Input::Unchoked(&unchoked));
            }
        }
        // In turns, as tasks that wait for a limit are woken: who is served now is last next time.
        let mut ready: Vec<PeerKey> = node.throttled.iter().filter(|t| *t.1 <= now).map(|t| *t.0).collect();
        let after = ready.partition_point(|&peer| Some(peer) <= node.first_ready);
        ready.rotate_left(after);
        node.first_ready = ready.first().copied().or(node.first_ready);
        for peer in ready {
            node.throttled.remove(&peer);
            node.wakes.push_back(peer);
        }
        self.settle(index);
    }

    fn arm(&mut self, index: NodeIndex) {
        let now = self.now;
        let node = &mut self.nodes[index.0];
        if !node.alive {
            return;
        }
        let deadlines: [Option<Instant>; 4] = [
            node.swarm.next_timeout(),
            Some(node.node.next_rechoke()),
            node.node.next_timeout(),
            node.throttled.values().min().copied(),
        ];
        let Some(due) = deadlines.into_iter().flatten().min().map(|at| at.max(now)) else { return };
        if node.armed.is_none_or(|armed| due < armed) {
            node.armed = Some(due);
            self.queue.push(due, Event::Timer(index));
            node.spins = if due == now { node.spins + 1 } else { 0 };
            assert!(node.spins < MAX_SPINS, "{index:?} spins at {:?}: its deadlines {deadlines:?} stay due", now);
        }
    }

    fn end(&self, index: NodeIndex, peer: PeerKey) -> Option<End> {
        let side = *self.nodes[index.0].peers.get(&peer)?;
        Some(End::of(peer, side))
    }

    pub(super) fn violation(&mut self, index: NodeIndex, what: String) {
        let at = self.since_start();
        self.violations.push(format!("at {at:?} {index:?}: {what}"));
    }
}

/// Bytes that count against the socket's room.
fn size(outgoing: &Outgoing) -> usize {
    match outgoing {
        Outgoing::Message(message) => message.encoded_len(),
        piece @ Outgoing::Piece(_) => payload(piece),
    }
}

/// Bytes that count against the upload limit.
fn payload(outgoing: &Outgoing) -> usize {
    match outgoing {
        Outgoing::Piece(request) => request.length as usize,
        Outgoing::Message(_) => 0,
    }
}
