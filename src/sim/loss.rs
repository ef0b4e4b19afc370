//! What goes wrong with a link: connections that break, and nodes that come back.

use std::time::Duration;

use rand::RngExt;

use super::net::End;
use super::node::{Figures, SimNode};
use super::world::{Event, NodeIndex, World};

/// How a node's link loses its peers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// How long a connection lives on the average; how long each of them does is drawn.
    pub mean: Duration,
    /// The part of them that end without a word, as when a router forgets them: what either side sends is lost, and
    /// both learn it by waiting. The others are reset.
    pub silent: f64,
}

impl World {
    /// A node that has left is back at this time, at its address: a seed with all it had, any other with nothing. Its
    /// programs are gone.
    pub fn rejoin(&mut self, after: Duration, node: NodeIndex) {
        self.queue.push((self.base + after).max(self.now), Event::Join(node));
    }

    /// A node starts a second time.
    pub(super) fn revive(&mut self, index: NodeIndex) {
        let spec = super::NodeSpec { readers: Vec::new(), ..self.nodes[index.0].spec.clone() };
        let figures = Figures { completed: None, ..self.nodes[index.0].figures };
        self.nodes[index.0] = SimNode { figures, ..SimNode::new(spec, self.geometry, self.now, &mut self.rng) };
    }

    /// Draws when a new connection breaks.
    pub(super) fn doom(&mut self, connection: usize) {
        for node in self.connections[connection].nodes {
            if let Some(loss) = self.nodes[node.0].spec.loss {
                // Exponential: a connection does not age.
                let life = loss.mean.mul_f64(-(1.0 - self.rng.random::<f64>()).ln());
                let silent = self.rng.random_bool(loss.silent.clamp(0.0, 1.0));
                self.queue.push(self.now + life, Event::Broken(connection, silent));
            }
        }
    }

    /// A connection breaks.
    pub(super) fn broken(&mut self, connection: usize, silent: bool) {
        if silent {
            self.connections[connection].cut = true;
        } else {
            for side in 0..2 {
                self.closed(End { connection, side });
            }
        }
    }
}
