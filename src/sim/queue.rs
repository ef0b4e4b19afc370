//! What happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Events in order of time, and of their making among those of one time. What moves in the heap is small; the events lie
/// beside it.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    events: Vec<Option<E>>,
    free: Vec<u32>,
    made: u64,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), made: 0 }
    }

    pub(super) fn push(&mut self, at: Instant, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).expect("fewer than 2^32 events wait")
        });
        self.events[place as usize] = Some(event);
        self.heap.push(Reverse((at, self.made, place)));
        self.made += 1;
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, E)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        self.events[place as usize].take().map(|event| (at, event))
    }

    /// Events popped so far: what a run has cost.
    pub(super) fn popped(&self) -> u64 {
        self.made - self.heap.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_first_then_the_order_of_making() {
        let base = Instant::now();
        let mut queue = Queue::new();
        for (at, event) in [(5, 'd'), (1, 'a'), (3, 'b'), (5, 'e'), (3, 'c')] {
            queue.push(base + Duration::from_secs(at), event);
        }
        let order: String = std::iter::from_fn(|| queue.pop()).map(|e| e.1).collect();
        assert_eq!(order, "abcde");
        assert_eq!(queue.popped(), 5);
    }
}
