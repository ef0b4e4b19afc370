//! Two nodes that dial each other: in whatever order each of them hears of the two connections, one is left.

use std::net::SocketAddr;
use std::time::Instant;

use swarmfs::node::{Limits, Node, Place, Source};
use swarmfs::swarm::{PeerKey, TorrentKey};
use swarmfs::wire::PeerId;

use crate::common::secs;

const TORRENT: TorrentKey = TorrentKey(1);
/// The connection that the first node dialled, and the one that the second did.
const CONNECTIONS: [PeerKey; 2] = [PeerKey(0), PeerKey(1)];

fn listens(side: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(side).unwrap() + 1], 6881))
}

/// What may happen: a side hears that a connection's handshakes are done, the port where its peer listens, or its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Done { side: usize, connection: usize },
    Port { side: usize, connection: usize },
    Ended { side: usize, connection: usize },
}

struct Pair {
    nodes: [Node; 2],
    now: Instant,
    /// For each side and connection: whether it is open there.
    open: [[bool; 2]; 2],
    /// What is still to happen.
    events: Vec<Event>,
}

impl Pair {
    fn new(now: Instant) -> Self {
        let node = |side: u8| {
            let limits = Limits {
                peer_id: PeerId([side + 1; 20]),
                upload_slots: 4,
                max_peers: 200,
                upload_limit: None,
                download_limit: None,
                upload: true,
                assembly_bytes: 1 << 20,
            };
            Node::new(limits, 1, now)
        };
        let mut nodes = [node(0), node(1)];
        for (side, node) in nodes.iter_mut().enumerate() {
            node.add_candidates(now, TORRENT, &[listens(1 - side)], Source::Tracker(Place::Private));
            assert_eq!(node.next_dial(now), Some((TORRENT, listens(1 - side))));
        }
        let events = (0..2).flat_map(|side| (0..2).map(move |connection| Event::Done { side, connection })).collect();
        Self { nodes, now, open: [[false; 2]; 2], events }
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Done { side, connection } => {
                let (key, outgoing) = (CONNECTIONS[connection], connection == side);
                let other = listens(1 - side);
                let addr = if outgoing { other } else { SocketAddr::new(other.ip(), 40_000) };
                let id = PeerId([u8::try_from(1 - side).unwrap() + 1; 20]);
                let verdict = self.nodes[side].connected(now, key, TORRENT, addr, id, outgoing);
                match verdict {
                    Ok(replaced) => {
                        self.open[side][connection] = true;
                        if !outgoing {
                            self.events.push(Event::Port { side, connection });
                        }
                        if let Some(replaced) = replaced {
                            self.close(side, usize::try_from(replaced.0).unwrap());
                        }
                    }
                    Err(_) => self.events.push(Event::Ended { side: 1 - side, connection }),
                }
            }
            Event::Port { side, connection } => {
                if self.open[side][connection] {
                    self.nodes[side].listening(now, CONNECTIONS[connection], 6881);
                }
            }
            // The other side closed: here it ends as soon as its handshake is through.
            Event::Ended { side, connection } => {
                self.events.retain(|e| *e != Event::Done { side, connection });
                if std::mem::take(&mut self.open[side][connection]) {
                    self.nodes[side].disconnected(now, CONNECTIONS[connection], true);
                } else if connection == side {
                    self.nodes[side].dial_failed(now, TORRENT, listens(1 - side));
                }
            }
        }
    }

    fn close(&mut self, side: usize, connection: usize) {
        self.open[side][connection] = false;
        self.nodes[side].disconnected(self.now, CONNECTIONS[connection], true);
        self.events.push(Event::Ended { side: 1 - side, connection });
    }
}

/// Plays every order of events, and looks at the end of each.
fn every_order(now: Instant, path: &mut Vec<usize>, end: &mut dyn FnMut(Pair, &[Event])) {
    let mut pair = Pair::new(now);
    let mut order = Vec::new();
    for &choice in path.iter() {
        let event = pair.events.remove(choice);
        order.push(event);
        pair.happen(event);
    }
    let choices = pair.events.len();
    if choices == 0 {
        return end(pair, &order);
    }
    for choice in 0..choices {
        path.push(choice);
        every_order(now, path, end);
        path.pop();
    }
}

#[test]
fn one_connection_is_left_and_its_peer_is_dialled_again_once_it_is_lost() {
    let mut orders = 0;
    every_order(Instant::now(), &mut Vec::new(), &mut |mut pair, order| {
        orders += 1;
        let kept: Vec<usize> = (0..2).filter(|&c| pair.open[0][c] || pair.open[1][c]).collect();
        assert_eq!(kept.len(), 1, "{:?} after {order:?}", pair.open);
        let kept = kept[0];
        assert!(pair.open[0][kept] && pair.open[1][kept], "{:?} after {order:?}", pair.open);
        // It lives a while: nobody dials who is connected.
        pair.now += secs(200);
        for side in 0..2 {
            assert_eq!(pair.nodes[side].next_dial(pair.now), None, "side {side} dials its peer after {order:?}");
        }
        // Then it is lost, and a reader starves: both know where to dial.
        for side in 0..2 {
            pair.nodes[side].disconnected(pair.now, CONNECTIONS[kept], true);
            pair.nodes[side].boost(pair.now, TORRENT);
            let dial = pair.nodes[side].next_dial(pair.now);
            assert_eq!(dial, Some((TORRENT, listens(1 - side))), "side {side} after {order:?}");
        }
    });
    assert!(orders > 20, "only {orders} orders");
}
