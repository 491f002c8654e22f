//! The way of what has to be logged from a worker to the management side: a ring of its own for each worker.
//!
//! The worker never waits. What the ring has no room for is counted, and the reader is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::nat::journal::{Event, Journal};

/// Events under way from one worker: what it can say while the reader looks away for a tenth of a second.
const RING: usize = 1 << 16;

/// The part of the ring that only events of blocks may use.
const KEPT_FOR_BLOCKS: usize = RING / 8;

/// The worker's end.
pub struct Outlet {
    ring: rtrb::Producer<Event>,
    lost: Arc<AtomicU64>,
}

/// The end of the management side.
pub struct Inlet {
    ring: rtrb::Consumer<Event>,
    lost: Arc<AtomicU64>,
    told: u64,
}

/// A ring of its own for a worker.
pub fn ring() -> (Outlet, Inlet) {
    let (producer, consumer) = rtrb::RingBuffer::new(RING);
    let lost = Arc::new(AtomicU64::new(0));
    let outlet = Outlet {
        ring: producer,
        lost: lost.clone(),
    };
    let inlet = Inlet {
        ring: consumer,
        lost,
        told: 0,
    };
    (outlet, inlet)
}

impl Outlet {
    /// Carries off what the journal holds.
    pub fn carry(&mut self, journal: &mut Journal) {
        if journal.is_empty() {
            return;
        }
        let (ring, mut refused) = (&mut self.ring, 0);
        let lost = journal.take(|event| {
            let room = ring.slots() > KEPT_FOR_BLOCKS || event.kind.is_of_block();
            if !room || ring.push(event).is_err() {
                refused += 1;
            }
        });
        if lost + refused > 0 {
            self.lost.fetch_add(lost + refused, Ordering::Release);
        }
    }
}

impl Inlet {
    /// Hands out what there is, in order, and how many events were lost since the last time.
    pub fn take(&mut self, mut each: impl FnMut(Event)) -> u64 {
        for _ in 0..RING {
            let Ok(event) = self.ring.pop() else { break };
            each(event);
        }
        let lost = self.lost.load(Ordering::Acquire);
        lost - std::mem::replace(&mut self.told, lost)
    }
}
