//! Subscribers at one of their limits, told at both edges once: when the first of their flows is refused, and when none was
//! for a while (RFC 6888 REQ-11c). Packet code never logs: the management side fetches what there is to tell.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::base::{DropReason, RealmId, Tick};

/// Subscribers watched at a time; more are counted as refusals, but not told.
const HOSTS: usize = 256;

/// Edges that wait to be fetched.
const EDGES: usize = 2 * HOSTS;

/// Ticks without a refusal after which a subscriber is no longer at its limit.
const QUIET: u32 = 30 * Tick::PER_SECOND;

/// A subscriber came to one of its limits, or has left it behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitEdge {
    /// The inside address.
    pub address: u128,
    /// Its realm.
    pub realm: RealmId,
    /// The limit.
    pub reason: DropReason,
    /// It begins; otherwise it is over.
    pub begins: bool,
    /// Flows refused since it began.
    pub refused: u64,
}

#[derive(Clone, Copy)]
struct Host {
    reason: DropReason,
    refused: u64,
    last: Tick,
}

/// The subscribers of one worker that are at a limit.
// Implements: G11c, D8.
pub struct AtLimit {
    hosts: HashMap<(u128, RealmId), Host>,
    edges: VecDeque<LimitEdge>,
    looked: Tick,
    begun: u64,
}

impl Default for AtLimit {
    fn default() -> AtLimit {
        AtLimit {
            hosts: HashMap::with_capacity(HOSTS),
            edges: VecDeque::with_capacity(EDGES),
            looked: Tick::default(),
            begun: 0,
        }
    }
}

impl AtLimit {
    /// A flow of a subscriber was refused for one of its limits.
    pub fn refused(&mut self, address: u128, realm: RealmId, reason: DropReason, now: Tick) {
        if let Some(host) = self.hosts.get_mut(&(address, realm)) {
            host.refused += 1;
            host.last = now;
            return;
        }
        if self.hosts.len() == HOSTS {
            return;
        }
        let host = Host {
            reason,
            refused: 1,
            last: now,
        };
        self.hosts.insert((address, realm), host);
        self.begun += 1;
        self.tell(LimitEdge {
            address,
            realm,
            reason,
            begins: true,
            refused: 1,
        });
    }

    /// Notices who is no longer refused anything; looks once a tick at most.
    pub fn sweep(&mut self, now: Tick) {
        if self.hosts.is_empty() || self.looked == now {
            return;
        }
        self.looked = now;
        let over = |host: &Host| now.since(host.last) >= QUIET;
        while let Some((&(address, realm), &host)) = self.hosts.iter().find(|(_, h)| over(h)) {
            self.hosts.remove(&(address, realm));
            self.tell(LimitEdge {
                address,
                realm,
                reason: host.reason,
                begins: false,
                refused: host.refused,
            });
        }
    }

    fn tell(&mut self, edge: LimitEdge) {
        if self.edges.len() < EDGES {
            self.edges.push_back(edge);
        }
    }

    /// Hands out what there is to tell, as far as there is room.
    pub fn fetch(&mut self, out: &mut Vec<LimitEdge>) {
        while out.len() < out.capacity()
            && let Some(edge) = self.edges.pop_front()
        {
            out.push(edge);
        }
    }

    /// Subscribers at a limit now.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Times that a subscriber came to a limit.
    pub fn begun(&self) -> u64 {
        self.begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: RealmId = RealmId(0);

    fn told(at_limit: &mut AtLimit) -> Vec<(u128, bool, u64)> {
        let mut edges = Vec::with_capacity(EDGES);
        at_limit.fetch(&mut edges);
        let brief = |e: &LimitEdge| (e.address, e.begins, e.refused);
        edges.iter().map(brief).collect()
    }

    #[test]
    fn a_subscriber_is_told_at_both_edges_once() {
        let mut at_limit = AtLimit::default();
        for tick in 0..100 {
            at_limit.refused(7, MAIN, DropReason::SessionLimit, Tick(tick));
            at_limit.sweep(Tick(tick));
        }
        at_limit.refused(7, RealmId(1), DropReason::QuotaRate, Tick(99));
        assert_eq!(told(&mut at_limit), [(7, true, 1), (7, true, 1)]);
        at_limit.sweep(Tick(99 + QUIET - 1));
        assert_eq!((told(&mut at_limit), at_limit.len()), (vec![], 2));
        at_limit.sweep(Tick(99 + QUIET));
        let mut over = told(&mut at_limit);
        over.sort_unstable();
        assert_eq!(over, [(7, false, 1), (7, false, 100)]);
        assert!(at_limit.is_empty());
        assert_eq!(at_limit.begun(), 2);
    }

    #[test]
    fn a_crowd_is_bounded() {
        let mut at_limit = AtLimit::default();
        for host in 0..1000 {
            at_limit.refused(host, MAIN, DropReason::QuotaBlocks, Tick(1));
        }
        assert_eq!(at_limit.len(), HOSTS);
        let mut few = Vec::with_capacity(10);
        at_limit.fetch(&mut few);
        assert_eq!((few.len(), told(&mut at_limit).len()), (10, HOSTS - 10));
        at_limit.sweep(Tick(1 + QUIET));
        assert_eq!((at_limit.len(), told(&mut at_limit).len()), (0, HOSTS));
    }

    #[test]
    fn edges_that_nobody_fetches_are_bounded() {
        let mut at_limit = AtLimit::default();
        for round in 0..3 {
            let now = Tick(1 + round * QUIET);
            for host in 0..HOSTS as u128 {
                at_limit.refused(host, MAIN, DropReason::QuotaRate, now);
            }
            at_limit.sweep(Tick(now.0 + QUIET));
        }
        assert_eq!(at_limit.begun(), 3 * HOSTS as u64);
        assert_eq!(told(&mut at_limit).len(), EDGES);
        assert_eq!(told(&mut at_limit), []);
    }

    #[test]
    fn whom_nothing_was_refused_for_half_a_minute_is_told_in_any_tick() {
        let mut at_limit = AtLimit::default();
        at_limit.refused(7, MAIN, DropReason::QuotaRate, Tick(0));
        assert_eq!(told(&mut at_limit), [(7, true, 1)]);
        assert!(!at_limit.is_empty());
        for tick in 1..=QUIET {
            assert_eq!(at_limit.len(), 1);
            at_limit.sweep(Tick(tick));
        }
        assert_eq!(told(&mut at_limit), [(7, false, 1)]);
    }
}
