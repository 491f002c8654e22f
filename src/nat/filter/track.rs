//! IPv6 flows the filter let pass.
//!
//! IPv6 is forwarded as it is and has no sessions; but answers can only pass unasked if it is known what they answer. This
//! table knows no more than that: the two ends of a flow, who opened it, which rule let it pass, and when it is over. It is
//! only used while the filter is in use.

use crate::arch::OutOfMemory;
use crate::base::time::Now;
use crate::base::{RuleId, Tick};
use crate::flow::hash::Hasher;
use crate::flow::key::FlowKey;
use crate::flow::session::{Direction, State};
use crate::flow::slab::{Slab, SlabEntry};
use crate::flow::sweep::ClockHand;
use crate::flow::table::{BucketTable, DEFAULT_LOAD};
use crate::nat::policy::Timeouts;
use crate::nat::tcp;
use crate::wire::parse::Transport;

/// A flow. Its key has the lower end first, so that both directions find it under one hash.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Flow {
    key: FlowKey<u128>,
    /// Tick of the last packet; on a free slot the next free index.
    last_seen: u32,
    rule: RuleId,
    state: State,
    /// The higher end opened it.
    turned: bool,
}

const _: () = assert!(size_of::<Flow>() == 80);

impl SlabEntry for Flow {
    fn is_live(&self) -> bool {
        self.state != State::Free
    }

    fn next_free(&self) -> u32 {
        self.last_seen
    }

    fn set_next_free(&mut self, next: u32) {
        self.last_seen = next;
    }
}

/// What is known of a packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    index: u32,
    /// Which way the packet travels.
    pub direction: Direction,
    /// The rule that let the flow pass.
    pub rule: RuleId,
}

/// The IPv6 flows of one worker.
pub struct Tracker {
    flows: Slab<Flow>,
    table: BucketTable,
    hasher: Hasher,
    hand: ClockHand,
}

impl Tracker {
    /// Room for `capacity` flows.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(capacity: u32, hasher: Hasher) -> Result<Tracker, OutOfMemory> {
        Ok(Tracker {
            flows: Slab::with_capacity(capacity as usize)?,
            table: BucketTable::with_capacity(capacity as usize, DEFAULT_LOAD)?,
            hasher,
            hand: ClockHand::default(),
        })
    }

    /// The flow of a packet, unless its time is over.
    pub fn find(&self, timeouts: &Timeouts, key: &FlowKey<u128>, now: Now) -> Option<Known> {
        let (key, turned) = ordered(key);
        let index = self.table.find(self.hasher.hash6(&key), |index| {
            self.flows.get(index).is_some_and(|flow| flow.key == key)
        })?;
        let flow = self.flows.get(index)?;
        (!timeouts.expired(flow.state, Tick(flow.last_seen), now.tick)).then_some(Known {
            index,
            direction: if flow.turned == turned {
                Direction::Forward
            } else {
                Direction::Reverse
            },
            rule: flow.rule,
        })
    }

    /// Records a packet of a known flow.
    pub fn touch(&mut self, known: &Known, transport: Transport, tcp_flags: u8, now: Now) {
        let Some(flow) = self.flows.get_mut(known.index) else {
            return;
        };
        flow.last_seen = now.tick.0;
        flow.state = match (transport, known.direction) {
            (Transport::Tcp, direction) => tcp::advance(flow.state, tcp_flags, direction),
            (Transport::Udp, Direction::Reverse) => State::Udp,
            _ => flow.state,
        };
    }

    /// Enters the flow that a packet opens. False when there is no room.
    #[must_use]
    pub fn open(
        &mut self,
        timeouts: &Timeouts,
        key: &FlowKey<u128>,
        (transport, tcp_flags): (Transport, u8),
        rule: RuleId,
        now: Now,
    ) -> bool {
        let (key, turned) = ordered(key);
        self.forget_expired(timeouts, &key, now);
        let state = match transport {
            Transport::Tcp => tcp::opening(tcp_flags),
            Transport::Udp => State::UdpUnreplied,
            Transport::IcmpQuery => State::Icmp,
            _ => State::Other,
        };
        let flow = Flow {
            key,
            last_seen: now.tick.0,
            rule,
            state,
            turned,
        };
        let Some(index) = self.flows.allocate(flow) else {
            return false;
        };
        let entered = self.table.insert(self.hasher.hash6(&key), index).is_ok();
        if !entered {
            self.flows.release(index);
        }
        entered
    }

    /// A flow that is over but not swept yet must not be entered twice.
    fn forget_expired(&mut self, timeouts: &Timeouts, key: &FlowKey<u128>, now: Now) {
        let same = |index| self.flows.get(index).is_some_and(|flow| flow.key == *key);
        let old = self.table.find(self.hasher.hash6(key), same);
        if let Some(index) = old {
            debug_assert!(self.flows.get(index).is_some_and(|flow| {
                timeouts.expired(flow.state, Tick(flow.last_seen), now.tick)
            }));
            self.end(index);
        }
    }

    fn end(&mut self, index: u32) {
        if let Some(flow) = self.flows.get(index).filter(|flow| flow.is_live()) {
            self.table.remove(self.hasher.hash6(&flow.key), index);
            self.flows.release(index);
        }
    }

    /// Looks at the next slice of flows and forgets those that are over.
    pub fn sweep(&mut self, timeouts: &Timeouts, now: Now, budget: u32) {
        for index in self.hand.next_slice(self.flows.high_water(), budget) {
            let over = self.flows.get(index).is_some_and(|flow| {
                flow.is_live() && timeouts.expired(flow.state, Tick(flow.last_seen), now.tick)
            });
            if over {
                self.end(index);
            }
        }
    }

    /// Entries ever used: what a turn of the sweep visits.
    pub fn high_water(&self) -> u32 {
        self.flows.high_water()
    }

    /// Flows known now.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether no flow is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the table.
    pub fn memory_bytes(&self) -> usize {
        self.flows.memory_bytes() + self.table.memory_bytes()
    }
}

/// A key with the lower end first, and whether that turned it.
fn ordered(key: &FlowKey<u128>) -> (FlowKey<u128>, bool) {
    let tuple = &key.tuple;
    let turned = (tuple.source, tuple.source_port) > (tuple.destination, tuple.destination_port);
    (if turned { key.reversed() } else { *key }, turned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RealmId;
    use crate::flow::key::Tuple;
    use crate::nat::policy::TimeoutSettings;

    const RULE: RuleId = RuleId(4);

    fn key(source: u128, destination: u128) -> FlowKey<u128> {
        let tuple = Tuple {
            source,
            destination,
            source_port: 4000,
            destination_port: 53,
        };
        FlowKey::new(tuple, 17, RealmId(0))
    }

    fn tracker(capacity: u32) -> (Tracker, Timeouts) {
        let tracker = Tracker::new(capacity, Hasher::new([1, 2])).unwrap();
        (tracker, Timeouts::new(&TimeoutSettings::default()))
    }

    fn open(tracker: &mut Tracker, timeouts: &Timeouts, key: &FlowKey<u128>, now: Now) -> bool {
        tracker.open(timeouts, key, (Transport::Udp, 0), RULE, now)
    }

    #[test]
    fn answers_are_known_whoever_opened_the_flow() {
        for (source, destination) in [(1, 9), (9, 1)] {
            let (mut tracker, timeouts) = tracker(8);
            let (out, now) = (key(source, destination), Now::at(1000));
            assert_eq!(tracker.find(&timeouts, &out, now), None);
            assert!(open(&mut tracker, &timeouts, &out, now));
            let there = tracker.find(&timeouts, &out, now).unwrap();
            let back = tracker.find(&timeouts, &out.reversed(), now).unwrap();
            assert_eq!((there.direction, there.rule), (Direction::Forward, RULE));
            assert_eq!(back.direction, Direction::Reverse);
            let other = FlowKey::new(out.tuple, 6, RealmId(0));
            assert_eq!(tracker.find(&timeouts, &other, now), None);
        }
    }

    #[test]
    fn flows_end_and_can_begin_anew_before_the_sweep() {
        let (mut tracker, timeouts) = tracker(1);
        let flow = key(1, 2);
        assert!(open(&mut tracker, &timeouts, &flow, Now::at(0)));
        assert!(
            !open(&mut tracker, &timeouts, &key(1, 3), Now::at(0)),
            "full"
        );
        let unanswered = Now::at(121_000);
        assert_eq!(tracker.find(&timeouts, &flow, unanswered), None);
        assert!(open(&mut tracker, &timeouts, &flow, unanswered));
        let back = tracker
            .find(&timeouts, &flow.reversed(), unanswered)
            .unwrap();
        tracker.touch(&back, Transport::Udp, 0, unanswered);
        let later = Now::at(121_000 + 290_000);
        assert!(
            tracker.find(&timeouts, &flow, later).is_some(),
            "answered: five minutes"
        );
        tracker.sweep(&timeouts, later, 100);
        assert_eq!(tracker.len(), 1);
        tracker.sweep(&timeouts, Now::at(121_000 + 301_000), 100);
        assert!(tracker.is_empty());
        assert!(open(&mut tracker, &timeouts, &key(7, 8), Now::at(500_000)));
    }
}
