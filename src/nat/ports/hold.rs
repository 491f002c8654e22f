//! Single ports that rest before they may be leased again (RFC 6888 REQ-8).

use super::{ExternalIndex, PortSpace};
use crate::base::Tick;
use std::collections::VecDeque;

/// A port in hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The address.
    pub external: ExternalIndex,
    /// The space of the port.
    pub space: PortSpace,
    /// The port.
    pub port: u16,
    /// The first tick at which it may be leased again.
    pub due: Tick,
}

/// The ports one worker holds back, first in first out, at most a fixed number.
///
/// Entries leave in the order they came: after one with a longer hold time, a shorter one waits too. No port leaves
/// early, except that a full queue lets its oldest go.
// Implements: G8.
pub struct HoldQueue {
    entries: VecDeque<Held>,
    capacity: usize,
    overflows: u64,
}

impl HoldQueue {
    /// A queue of at most `capacity` ports (`hold_max`); 0 holds nothing back.
    pub fn new(capacity: usize) -> HoldQueue {
        HoldQueue {
            entries: VecDeque::with_capacity(capacity),
            capacity,
            overflows: 0,
        }
    }

    /// Adds a port. Returns the port to release at once: the oldest of a full queue, or `entry` itself if the
    /// capacity is 0.
    #[inline]
    #[must_use = "the returned port must be released"]
    pub fn push(&mut self, entry: Held) -> Option<Held> {
        if self.entries.len() < self.capacity {
            self.entries.push_back(entry);
            return None;
        }
        self.overflows += 1;
        match self.entries.pop_front() {
            Some(oldest) => {
                self.entries.push_back(entry);
                Some(oldest)
            }
            None => Some(entry),
        }
    }

    /// Hands at most `budget` ports whose time has come to `release`; returns how many.
    pub fn release_due(
        &mut self,
        now: Tick,
        budget: usize,
        mut release: impl FnMut(Held),
    ) -> usize {
        let mut released = 0;
        while released < budget {
            match self.entries.front() {
                Some(entry) if entry.due <= now => release(*entry),
                _ => break,
            }
            self.entries.pop_front();
            released += 1;
        }
        released
    }

    /// Ports in hold.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if no port is in hold.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Ports let go before their time because the queue was full.
    pub fn overflows(&self) -> u64 {
        self.overflows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(port: u16, due: u32) -> Held {
        Held {
            external: ExternalIndex(0),
            space: PortSpace::Udp,
            port,
            due: Tick(due),
        }
    }

    // Proves: G8.
    #[test]
    fn ports_leave_when_due_or_when_crowded_out() {
        let mut queue = HoldQueue::new(3);
        for (port, due) in [(1, 10), (2, 11), (3, 12)] {
            assert_eq!(queue.push(held(port, due)), None);
        }
        assert_eq!(queue.push(held(4, 13)), Some(held(1, 10)));
        assert_eq!(queue.overflows(), 1);
        let mut out = Vec::new();
        assert_eq!(queue.release_due(Tick(10), 9, |e| out.push(e.port)), 0);
        assert_eq!(queue.release_due(Tick(12), 1, |e| out.push(e.port)), 1);
        assert_eq!(queue.release_due(Tick(12), 9, |e| out.push(e.port)), 1);
        assert_eq!((out, queue.len()), (vec![2, 3], 1));
        assert!(!queue.is_empty());
        let mut none = HoldQueue::new(0);
        assert_eq!(none.push(held(1, 9)), Some(held(1, 9)));
        assert_eq!((none.is_empty(), none.overflows()), (true, 1));
        assert_eq!(queue.push(held(5, 14)), None);
        assert_eq!(queue.push(held(6, 15)), None);
        assert_eq!(queue.push(held(7, 16)), Some(held(4, 13)));
        assert_eq!(queue.overflows(), 2);
    }
}
