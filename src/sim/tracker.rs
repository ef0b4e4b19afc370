//! The tracker: who is there.

use rand::rngs::StdRng;

use super::world::NodeIndex;

/// Peers that the tracker names at once.
const NUMWANT: usize = 50;

/// Nodes in no order that matters, and where each of them is, so that all it does is independent of their number.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    nodes: Vec<NodeIndex>,
    places: Vec<Option<usize>>,
}

impl Tracker {
    pub(super) fn add(&mut self, node: NodeIndex) {
        self.remove(node);
        if self.places.len() <= node.0 {
            self.places.resize(node.0 + 1, None);
        }
        self.places[node.0] = Some(self.nodes.len());
        self.nodes.push(node);
    }

    pub(super) fn remove(&mut self, node: NodeIndex) {
        if let Some(place) = self.places.get_mut(node.0).and_then(Option::take) {
            self.nodes.swap_remove(place);
            if let Some(moved) = self.nodes.get(place) {
                self.places[moved.0] = Some(place);
            }
        }
    }

    /// Some nodes, drawn at random, without the asker.
    pub(super) fn some(&self, rng: &mut StdRng, asker: NodeIndex) -> impl Iterator<Item = NodeIndex> + '_ {
        let picks = rand::seq::index::sample(rng, self.nodes.len(), self.nodes.len().min(NUMWANT));
        picks.into_iter().filter_map(|place| self.nodes.get(place).copied()).filter(move |&node| node != asker)
    }
}
