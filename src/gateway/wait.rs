//! Packets that wait for a neighbour to answer.
//!
//! One arena of fixed size, and a first-in-first-out queue per neighbour threaded through it, bounded so that a silent
//! neighbour cannot take all places. Nothing is allocated after construction. Every neighbour that packets wait for ends
//! in one of three ways, and the caller drains its queue at each: [`Neighbours::learn`](super::Neighbours::learn)
//! returned its id (send them), an [`Event::Failed`](super::neighbour::Event) (drop them), or it was named as gone (drop
//! them).

use super::NeighbourId;

/// Packets held in total by default.
pub const PACKETS: usize = 512;
/// Packets held for one neighbour by default.
pub const PACKETS_PER_NEIGHBOUR: usize = 16;

/// End of a chain.
const END: u32 = u32::MAX;

#[derive(Debug)]
struct Place<B> {
    packet: Option<B>,
    /// The next in the queue, or the next free place.
    next: u32,
}

/// A neighbour's queue. Meaningless while `count` is 0.
#[derive(Clone, Copy, Debug)]
struct Queue {
    neighbour: NeighbourId,
    first: u32,
    last: u32,
    count: u32,
}

/// Packets (`B` owns one) waiting for neighbours.
#[derive(Debug)]
pub struct WaitQueue<B> {
    places: Box<[Place<B>]>,
    free: u32,
    /// By the neighbour's index.
    queues: Box<[Queue]>,
    per_neighbour: u32,
    len: usize,
}

impl<B> WaitQueue<B> {
    /// Room for `packets` in total and `per_neighbour` each, for a table of `neighbours` entries.
    pub fn new(packets: usize, per_neighbour: usize, neighbours: usize) -> WaitQueue<B> {
        let packets = packets.min(END as usize);
        let place = |n| Place {
            packet: None,
            next: if n + 1 < packets { n as u32 + 1 } else { END },
        };
        let empty = Queue {
            neighbour: NeighbourId::NONE,
            first: END,
            last: END,
            count: 0,
        };
        WaitQueue {
            places: (0..packets).map(place).collect(),
            free: if packets > 0 { 0 } else { END },
            queues: vec![empty; neighbours].into_boxed_slice(),
            per_neighbour: u32::try_from(per_neighbour).unwrap_or(END),
            len: 0,
        }
    }

    /// Lets a packet wait.
    ///
    /// # Errors
    /// Gives the packet back if the neighbour's queue or the arena is full (`neighbour_queue_full`).
    pub fn push(&mut self, neighbour: NeighbourId, packet: B) -> Result<(), B> {
        let Some(queue) = self.queues.get_mut(neighbour.index()) else {
            return Err(packet);
        };
        // Packets for a former owner of the same entry must not be mixed with this one's.
        let foreign = queue.count > 0 && queue.neighbour != neighbour;
        let at = self.free;
        if at == END || foreign || queue.count >= self.per_neighbour {
            return Err(packet);
        }
        let place = &mut self.places[at as usize];
        self.free = std::mem::replace(&mut place.next, END);
        place.packet = Some(packet);
        if queue.count == 0 {
            queue.neighbour = neighbour;
            queue.first = at;
        } else {
            self.places[queue.last as usize].next = at;
        }
        queue.last = at;
        queue.count += 1;
        self.len += 1;
        Ok(())
    }

    /// Hands over all packets waiting for a neighbour, in order of arrival.
    pub fn drain(&mut self, neighbour: NeighbourId, mut take: impl FnMut(B)) {
        let Some(queue) = self.queues.get_mut(neighbour.index()) else {
            return;
        };
        if queue.count == 0 || queue.neighbour != neighbour {
            return;
        }
        self.len -= queue.count as usize;
        queue.count = 0;
        let mut at = queue.first;
        while at != END {
            let place = &mut self.places[at as usize];
            let next = std::mem::replace(&mut place.next, self.free);
            self.free = at;
            if let Some(packet) = place.packet.take() {
                take(packet);
            }
            at = next;
        }
    }

    /// Hands over everything that waits, at shutdown.
    pub fn drain_all(&mut self, mut take: impl FnMut(B)) {
        for index in 0..self.queues.len() {
            let neighbour = self.queues[index].neighbour;
            self.drain(neighbour, &mut take);
        }
    }

    /// Packets waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, VecDeque};

    fn id(index: u32, generation: u32) -> NeighbourId {
        NeighbourId(generation << 16 | index)
    }

    fn drained(queue: &mut WaitQueue<u32>, neighbour: NeighbourId) -> Vec<u32> {
        let mut out = Vec::new();
        queue.drain(neighbour, |packet| out.push(packet));
        out
    }

    #[test]
    fn packets_come_back_in_order_and_limits_hold() {
        let mut queue = WaitQueue::new(5, 3, 4);
        for packet in 0..3 {
            assert_eq!(queue.push(id(0, 1), packet), Ok(()));
        }
        assert_eq!(queue.push(id(0, 1), 3), Err(3), "the neighbour's share");
        assert_eq!(queue.push(id(1, 1), 10), Ok(()));
        assert_eq!(queue.push(id(1, 1), 11), Ok(()));
        assert_eq!(queue.push(id(2, 1), 20), Err(20), "the arena");
        assert_eq!(queue.push(id(4, 1), 30), Err(30), "beyond the table");
        assert_eq!(drained(&mut queue, id(0, 1)), [0, 1, 2]);
        assert!(drained(&mut queue, id(0, 1)).is_empty());
        assert_eq!(queue.push(id(2, 1), 20), Ok(()));
        let mut rest = Vec::new();
        queue.drain_all(|packet| rest.push(packet));
        assert_eq!(rest, [10, 11, 20]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_new_owner_of_the_entry_does_not_get_old_packets() {
        let mut queue = WaitQueue::new(4, 4, 1);
        assert_eq!(queue.push(id(0, 1), 1), Ok(()));
        assert_eq!(queue.push(id(0, 2), 2), Err(2));
        assert!(drained(&mut queue, id(0, 2)).is_empty());
        assert_eq!(drained(&mut queue, id(0, 1)), [1]);
        assert_eq!(queue.push(id(0, 2), 2), Ok(()));
    }

    #[test]
    fn a_queue_without_places_refuses() {
        assert_eq!(WaitQueue::new(0, 4, 1).push(id(0, 1), 'x'), Err('x'));
    }

    proptest! {
        /// Against one deque per neighbour: nothing lost, doubled or reordered.
        #[test]
        fn agrees_with_deques(ops in prop::collection::vec((0u32..4, prop::bool::weighted(0.8)), 0..200)) {
            let mut queue = WaitQueue::new(10, 4, 4);
            let mut model: BTreeMap<u32, VecDeque<u32>> = BTreeMap::new();
            for (packet, (index, push)) in (0u32..).zip(ops) {
                let total: usize = model.values().map(VecDeque::len).sum();
                let own = model.entry(index).or_default();
                if push {
                    let room = total < 10 && own.len() < 4;
                    prop_assert_eq!(queue.push(id(index, 1), packet).is_ok(), room);
                    if room { own.push_back(packet); }
                } else {
                    prop_assert_eq!(drained(&mut queue, id(index, 1)), Vec::from(std::mem::take(own)));
                }
                prop_assert_eq!(queue.len(), model.values().map(VecDeque::len).sum::<usize>());
            }
        }
    }
}
