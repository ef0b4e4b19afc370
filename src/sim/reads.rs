//! A node's readers: what the mounted side does with their reads.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::node::Parked;
use super::world::{Event, NodeIndex, World};
use crate::metainfo::PieceIndex;
use crate::swarm::{Input, ReadId};

/// How long a read takes that the cache answers: a FUSE round trip.
const HIT: Duration = Duration::from_micros(20);

impl World {
    /// A reader opens its file, makes its next read, or closes the file.
    pub(super) fn read(&mut self, index: NodeIndex, reader: usize) {
        let now = self.now;
        let node = &mut self.nodes[index.0];
        let Some(at_work) = node.readers.get_mut(reader).filter(|_| node.alive) else { return };
        let handle = at_work.handle;
        if !std::mem::replace(&mut at_work.open, true) {
            node.swarm.handle(now, Input::Open(handle, at_work.spec.file.clone()));
        }
        match at_work.next() {
            None => {
                at_work.finished = true;
                self.unfinished_readers -= 1;
                node.swarm.handle(now, Input::Flush(handle));
                node.swarm.handle(now, Input::Close(handle));
            }
            Some(bytes) => {
                at_work.asked = Some(now);
                if self.missing(index, &bytes).is_empty() {
                    self.nodes[index.0].swarm.handle(now, Input::Hit(handle, bytes.clone()));
                    self.answered(index, &Parked { reader, bytes, deadline: now, held: BTreeSet::new() }, true);
                } else {
                    let deadline = now + self.nodes[index.0].spec.read_timeout;
                    let id = ReadId(self.nodes[index.0].next_read);
                    self.nodes[index.0].next_read += 1;
                    self.park(index, id, Parked { reader, bytes, deadline, held: BTreeSet::new() });
                }
            }
        }
        self.settle(index);
    }

    fn park(&mut self, index: NodeIndex, id: ReadId, mut parked: Parked) {
        let node = &mut self.nodes[index.0];
        parked.held.extend(self.geometry.pieces_of(parked.bytes.clone()).filter(|&p| node.store.contains(p)));
        let Some(handle) = node.readers.get(parked.reader).map(|reader| reader.handle) else { return };
        let (bytes, deadline) = (parked.bytes.clone(), parked.deadline);
        node.reads.insert(id, parked);
        node.swarm.handle(self.now, Input::Read { id, handle, bytes, deadline });
    }

    /// The pieces of a range that are not in the cache; the others are now those used last.
    fn missing(&mut self, index: NodeIndex, bytes: &Range<u64>) -> Vec<PieceIndex> {
        let store = &mut self.nodes[index.0].store;
        self.geometry.pieces_of(bytes.clone()).filter(|&piece| !store.touch(piece)).collect()
    }

    pub(super) fn read_ready(&mut self, index: NodeIndex, id: ReadId) {
        let Some(parked) = self.nodes[index.0].reads.remove(&id) else {
            self.violation(index, format!("{id:?} is ready, and was answered before"));
            return;
        };
        let mut lost = self.missing(index, &parked.bytes);
        lost.retain(|piece| !parked.held.contains(piece));
        if lost.is_empty() {
            self.answered(index, &parked, true);
            return;
        }
        // A piece of it was evicted after another one of it came: again, within the same deadline.
        for piece in lost {
            self.nodes[index.0].swarm.handle(self.now, Input::Lost(piece));
        }
        self.park(index, id, parked);
    }

    pub(super) fn answered(&mut self, index: NodeIndex, parked: &Parked, done: bool) {
        let (base, now, length) = (self.base, self.now, parked.bytes.end - parked.bytes.start);
        let node = &mut self.nodes[index.0];
        let Some(reader) = node.readers.get_mut(parked.reader) else { return };
        let waited = reader.asked.take().map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        let think = reader.spec.think;
        let figures = &mut node.figures;
        figures.worst_wait = figures.worst_wait.max(waited);
        node.waits.push((now.saturating_duration_since(base), waited));
        if done {
            figures.reads_done += 1;
            figures.read_bytes += length;
        } else {
            figures.reads_failed += 1;
            figures.last_failure = Some(now.saturating_duration_since(base));
        }
        let late = waited.saturating_sub(node.spec.read_timeout);
        if late > Duration::from_millis(1) {
            self.violation(index, format!("a read was answered {late:?} after its deadline"));
        }
        self.queue.push(now + think + HIT, Event::Read(index, parked.reader));
    }
}
