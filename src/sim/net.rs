//! Connections: how they come to be, what is on its way through them, and how they end.

use std::time::{Duration, Instant};

use super::node::{PORT, at, listens};
use super::world::{DONTHAVE, Event, NodeIndex, REQQ, TORRENT, World};
use crate::metainfo::Request;
use crate::swarm::{Connected, Input, PeerKey};
use crate::wire::{ExtendedHandshake, Message, OUR_UPLOAD_ONLY_ID};

/// Bytes in a socket that are not on the wire yet. Two blocks: what keeps a link busy and a message's wait short.
const UNSENT: usize = 2 * (16 * 1024 + 13);
/// Bytes of one connection that are on their way: TCP's window, of whole blocks.
const WINDOW: usize = 64 * (16 * 1024 + 13);

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) connection: usize,
    pub(super) side: usize,
}

impl End {
    pub(super) fn of(key: PeerKey, side: usize) -> Self {
        Self { connection: usize::try_from(key.0).unwrap_or(usize::MAX), side }
    }

    pub(super) fn key(self) -> PeerKey {
        PeerKey(self.connection as u64)
    }

    pub(super) fn other(self) -> Self {
        Self { side: 1 - self.side, ..self }
    }
}

/// What travels.
#[derive(Debug)]
pub(super) enum Packet {
    /// In one go, as they were written.
    Messages(Vec<Message<'static>>),
    Handshake(Box<ExtendedHandshake>),
    Piece {
        request: Request,
        liar: Option<NodeIndex>,
    },
}

impl Packet {
    /// Bytes that use the link. Messages are small and travel between blocks.
    fn bytes(&self) -> usize {
        match self {
            Self::Piece { request, .. } => request.length as usize + 13,
            _ => 0,
        }
    }
}

/// What one end has on its way to the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    open: bool,
    pub(super) unsent: usize,
    under_way: usize,
    /// When the last thing left, and when the last thing arrives: TCP keeps the order.
    departed: Instant,
    arrived: Instant,
    /// Payload bytes in all.
    pub(super) payload: u64,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) nodes: [NodeIndex; 2],
    pub(super) flows: [Flow; 2],
    /// What is sent is lost, and nobody knows.
    pub(super) cut: bool,
}

impl World {
    /// Begins the dials that the node wants.
    pub(super) fn dial(&mut self, index: NodeIndex) {
        while let Some((_, addr)) = self.nodes[index.0].node.next_dial(self.now) {
            match at(addr).filter(|to| to.0 < self.nodes.len()) {
                Some(to) => {
                    let one_way = self.nodes[index.0].spec.link.latency + self.nodes[to.0].spec.link.latency;
                    self.queue.push(self.now + 2 * one_way, Event::Dialled(index, to));
                }
                None => self.nodes[index.0].node.dial_failed(self.now, TORRENT, addr),
            }
        }
    }

    pub(super) fn dialled(&mut self, from: NodeIndex, to: NodeIndex) {
        if !self.nodes[from.0].alive {
            return;
        }
        let now = self.now;
        let connection = self.connections.len();
        let ports = u16::try_from(connection % 20_000).unwrap_or(0);
        let source = std::net::SocketAddr::new(listens(from).ip(), 40_000 + ports);
        if !self.nodes[to.0].alive || self.nodes[to.0].node.accept(now, source).is_err() {
            self.nodes[from.0].node.dial_failed(now, TORRENT, listens(to));
            self.settle(from);
            return;
        }
        self.nodes[to.0].node.accept_done(source);
        let key = PeerKey(connection as u64);
        let (from_id, to_id) = (self.nodes[from.0].id, self.nodes[to.0].id);
        let here = self.nodes[from.0].node.connected(now, key, TORRENT, listens(to), to_id, true);
        let there = self.nodes[to.0].node.connected(now, key, TORRENT, source, from_id, false);
        let flow = Flow { open: true, unsent: 0, under_way: 0, departed: now, arrived: now, payload: 0 };
        self.connections.push(Connection { nodes: [from, to], flows: [flow; 2], cut: false });
        self.doom(connection);
        for (node, verdict, addr, id, side) in [(from, here, listens(to), to_id, 0), (to, there, source, from_id, 1)] {
            let end = End { connection, side };
            if let Ok(Some(replaced)) = verdict
                && let Some(&side) = self.nodes[node.0].peers.get(&replaced)
            {
                self.close(End::of(replaced, side), true);
            }
            if here.is_err() || there.is_err() {
                self.flow(end).open = false;
                if verdict.is_ok() {
                    self.nodes[node.0].node.disconnected(now, key, true);
                }
                continue;
            }
            self.nodes[node.0].peers.insert(key, side);
            let connected = Connected { peer: key, addr, id, fast: true, outgoing: side == 0 };
            self.nodes[node.0].swarm.handle(now, Input::Connected(connected));
            let upload_only = self.nodes[node.0].swarm.greets_upload_only(key).then_some(true);
            let handshake = ExtendedHandshake {
                donthave: Some(DONTHAVE),
                upload_only_id: Some(OUR_UPLOAD_ONLY_ID),
                upload_only,
                reqq: Some(REQQ),
                listen_port: Some(PORT),
                ..ExtendedHandshake::default()
            };
            self.send(end, Packet::Handshake(Box::new(handshake)));
        }
        self.settle(from);
        self.settle(to);
    }

    /// This end closes; the other learns it after the latency.
    pub(super) fn close(&mut self, end: End, good: bool) {
        if !std::mem::replace(&mut self.flow(end).open, false) {
            return;
        }
        let at = self.now + self.latency(end);
        self.queue.push(at, Event::Closed(end.other()));
        self.gone(end, good);
    }

    /// A node that has left takes its connections with it.
    pub(super) fn drop_connections(&mut self, index: NodeIndex, silent: bool) {
        for (key, side) in std::mem::take(&mut self.nodes[index.0].peers) {
            let end = End::of(key, side);
            self.flow(end).open = false;
            if !silent {
                let at = self.now + self.latency(end);
                self.queue.push(at, Event::Closed(end.other()));
            }
        }
    }

    pub(super) fn closed(&mut self, end: End) {
        let node = self.connections[end.connection].nodes[end.side];
        if self.connections[end.connection].cut {
            return;
        }
        if std::mem::replace(&mut self.flow(end).open, false) && self.nodes[node.0].alive {
            self.gone(end, true);
            self.settle(node);
        }
    }

    fn gone(&mut self, end: End, good: bool) {
        let node = self.connections[end.connection].nodes[end.side];
        let node = &mut self.nodes[node.0];
        node.peers.remove(&end.key());
        node.throttled.remove(&end.key());
        node.ledger.forget(end.key());
        node.node.disconnected(self.now, end.key(), good);
        node.swarm.handle(self.now, Input::Disconnected(end.key()));
    }

    /// Bytes that this end's socket takes now.
    pub(super) fn socket_room(&mut self, end: End) -> usize {
        let flow = self.flow(end);
        if flow.open { UNSENT.saturating_sub(flow.unsent).min(WINDOW.saturating_sub(flow.under_way)) } else { 0 }
    }

    pub(super) fn room(&mut self, end: End) {
        let node = self.connections[end.connection].nodes[end.side];
        if self.flow(end).open {
            self.nodes[node.0].wakes.push_back(end.key());
            self.settle(node);
        }
    }

    /// Puts something into this end's socket.
    pub(super) fn send(&mut self, end: End, packet: Packet) {
        let (now, bytes, latency) = (self.now, packet.bytes(), self.latency(end));
        let node = self.connections[end.connection].nodes[end.side];
        let departs = if bytes > 0 { self.nodes[node.0].up.push(now, bytes) } else { now };
        let flow = self.flow(end);
        flow.departed = flow.departed.max(departs);
        let departs = flow.departed;
        if bytes > 0 {
            flow.unsent += bytes;
            flow.under_way += bytes;
            self.queue.push(departs, Event::Sent(end, bytes));
        }
        self.queue.push(departs + latency, Event::Reach(end.other(), packet));
    }

    pub(super) fn reach(&mut self, end: End, packet: Packet) {
        let node = self.connections[end.connection].nodes[end.side];
        let (now, bytes) = (self.now, packet.bytes());
        let through = if bytes > 0 { self.nodes[node.0].down.push(now, bytes) } else { now };
        let flow = self.flow(end.other());
        flow.arrived = flow.arrived.max(through);
        let arrives = flow.arrived;
        if arrives > now {
            self.queue.push(arrives, Event::Arrive(end, packet));
        } else {
            self.arrive(end, packet);
        }
    }

    pub(super) fn arrive(&mut self, end: End, packet: Packet) {
        if self.connections[end.connection].cut {
            return;
        }
        let bytes = packet.bytes();
        let flow = self.flow(end.other());
        let was_full = flow.under_way + UNSENT > WINDOW;
        flow.under_way -= bytes;
        if let Packet::Piece { request, .. } = &packet {
            flow.payload += u64::from(request.length);
        }
        if was_full {
            self.room(end.other());
        }
        let node = self.connections[end.connection].nodes[end.side];
        if self.flow(end).open && self.nodes[node.0].alive {
            self.deliver(node, end, packet);
            // A peer's task that has read something also looks for what it may send now.
            self.nodes[node.0].wakes.push_back(end.key());
            self.settle(node);
        }
    }

    /// What this end sends.
    pub(super) fn flow(&mut self, end: End) -> &mut Flow {
        &mut self.connections[end.connection].flows[end.side]
    }

    fn latency(&self, end: End) -> Duration {
        let [a, b] = self.connections[end.connection].nodes;
        self.nodes[a.0].spec.link.latency + self.nodes[b.0].spec.link.latency
    }
}
