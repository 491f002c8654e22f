//! The decision which external address and port a new mapping gets, for one worker.
//!
//! 1. **Address.** Paired (RFC 6888 REQ-2): a hash of the inside address names it; a subscriber that already holds
//!    something stays where it is, and is refused when that address is full (RFC 7857 §4). A new subscriber takes the
//!    next address with room. Spread: a hash of inside address and port, then the next with room.
//! 2. **Port.** Of single ports, per `select`, within the class of the source port. Of blocks, a random block of the
//!    subscriber but the longest idle one (RFC 7768 §4), a new block when they are full, up to the quota. In a
//!    deterministic pool, the subscriber's own block as long as it has a port, blocks for overflow then (RFC 7422 §2).
//!    Where mappings share ports, a port counts as free for a remote that none of its mappings has.
//!
//! Nothing living is ever evicted to make room (RFC 6888 REQ-11-d).

use super::chain::return_idle;
use super::shared::{Share, SharedPorts, View};
use super::{
    Allowed, BlockIndex, ExternalIndex, ExternalRef, Externals, Held, HoldQueue, Pairing, Pool,
    PortRange, PortRanges, PortSpace, Preference, Select,
};
use crate::base::{DropReason, PoolId, Random, RealmId, Tick, WorkerId};
use crate::nat::subscriber::{SubscriberIndex, Subscribers};
use std::net::IpAddr;

/// A new mapping's wish.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The pool to take from.
    pub pool: &'a Pool,
    /// The rule's own ports, which replace the pool's (blocks: narrow them). For ICMP only those of a rule for ICMP.
    pub ports: Option<&'a PortRanges>,
    /// The rule's own way to choose, which replaces the pool's.
    pub select: Option<Select>,
    /// Who asks; referred to by the caller ([`Subscribers::enter`]).
    pub subscriber: SubscriberIndex,
    /// No port but this one, if it can be had without another block. A refusal says nothing about the pool and is not counted.
    pub exactly: Option<u16>,
    /// The source port, or the ICMP query id. 0 as a port is never preserved: the mapping gets a real one.
    pub inside_port: u16,
    /// The space of the port.
    pub space: PortSpace,
    /// How far the mapping shares its port; `None`: with nobody.
    pub share: Option<Share>,
    /// The present.
    pub now: Tick,
}

impl Request<'_> {
    pub(super) fn select(&self) -> Select {
        self.select.unwrap_or(self.pool.policy().select)
    }

    /// Whether the source port can be kept at all.
    pub(super) fn may_keep(&self) -> bool {
        self.inside_port != 0 || self.space == PortSpace::Icmp
    }

    /// Of these ports, those with the parity the pool asks for.
    pub(super) fn of_parity<'a>(&self, allowed: Allowed<'a>) -> Allowed<'a> {
        match self.pool.policy().parity && self.space != PortSpace::Icmp {
            true => allowed.with_parity_of(self.inside_port),
            false => allowed,
        }
    }
}

/// A port leased to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address's number.
    pub external: ExternalIndex,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The block that was opened for it: to be logged.
    pub opened: Option<BlockIndex>,
}

impl Lease {
    /// The IPv4 address in host order (0 if it is an IPv6 address).
    #[inline]
    pub fn v4(&self) -> u32 {
        match self.address {
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(_) => 0,
        }
    }

    /// The IPv6 address in host order (0 if it is an IPv4 address).
    #[inline]
    pub fn v6(&self) -> u128 {
        match self.address {
            IpAddr::V4(_) => 0,
            IpAddr::V6(v6) => v6.to_bits(),
        }
    }
}

/// A mapping's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Whose port it was.
    pub subscriber: SubscriberIndex,
    /// The address's number.
    pub external: ExternalIndex,
    /// The space of the port.
    pub space: PortSpace,
    /// The port.
    pub port: u16,
    /// How far the mapping shared it.
    pub share: Option<Share>,
    /// Ticks it rests: the pool's `hold`; 0 = reusable at once, as for TCP connections whose close was tracked.
    pub hold: u32,
}

/// A block that went back to its pool: to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnedBlock {
    /// The address's number.
    pub external: ExternalIndex,
    /// The block.
    pub block: BlockIndex,
    /// Its ports.
    pub ports: PortRange,
    /// The inside address that held it.
    pub inside: u128,
    /// The realm of the inside address.
    pub realm: RealmId,
    /// The pool it counted for.
    pub pool: Option<PoolId>,
}

/// Picks addresses and ports for the mappings of one worker, and takes them back.
pub struct Allocator {
    pub(super) worker: WorkerId,
    pub(super) preference: Preference,
    hold: HoldQueue,
    pub(super) shared: SharedPorts,
    /// The latest choice per space, for [`Select::Sequential`].
    pub(super) latest: [u16; PortSpace::COUNT],
    /// The subscriber [`Allocator::sweep`] looks at next.
    hand: usize,
    errors: u64,
}

impl Allocator {
    /// An allocator for `worker` (below [`super::MAX_WORKERS`]) that holds back at most `hold_max` single ports.
    pub fn new(
        worker: WorkerId,
        preference: Preference,
        hold_max: usize,
        shared: SharedPorts,
    ) -> Allocator {
        Allocator {
            worker,
            preference,
            hold: HoldQueue::new(hold_max),
            shared,
            latest: [0; PortSpace::COUNT],
            hand: 0,
            errors: 0,
        }
    }

    /// Leases a port for a new mapping, and counts it on the pool.
    ///
    /// # Errors
    /// - [`DropReason::NoAddress`]: the pool has no address, or, being deterministic, none for this subscriber.
    /// - [`DropReason::PoolDraining`]: every address of the pool is draining, or this subscriber's.
    /// - [`DropReason::NoPort`]: every allowed port is taken.
    /// - [`DropReason::NoBlock`]: the subscriber's blocks (if any) are full and no block is free.
    /// - [`DropReason::QuotaBlocks`]: the subscriber's blocks are full and it may have no more.
    /// - [`DropReason::Internal`]: the subscriber does not exist, or pool and address layout do not fit.
    // Implements: U2, G2, P4.
    pub fn allocate(
        &mut self,
        externals: &Externals,
        subscribers: &mut Subscribers,
        request: &Request<'_>,
        random: &mut Random,
    ) -> Result<Lease, DropReason> {
        let leased = self.lease(externals, subscribers, request, random);
        let refused = leased.as_ref().err().copied();
        if refused.is_none() || request.exactly.is_none() {
            let counts = request.pool.counts();
            counts.count(self.worker, request.space, refused);
        }
        leased
    }

    fn lease(
        &mut self,
        externals: &Externals,
        subscribers: &mut Subscribers,
        request: &Request<'_>,
        random: &mut Random,
    ) -> Result<Lease, DropReason> {
        let policy = request.pool.policy();
        let inside = subscribers
            .address(request.subscriber)
            .ok_or(DropReason::Internal)?;
        if policy.deterministic.is_some() {
            let external = own_place(request.pool, inside).map(|(external, _)| external);
            let external = external.ok_or(DropReason::NoAddress)?;
            if external.draining {
                return Err(DropReason::PoolDraining);
            }
            return self.allocate_on(external, externals, subscribers, request, random);
        }
        let paired = policy.pairing == Pairing::Paired;
        let mut tries = request.pool.active_count();
        let first = match policy.pairing {
            Pairing::Paired => stable_hash(inside, 0),
            Pairing::Spread => stable_hash(inside, request.inside_port),
        };
        if paired && tries > 1 {
            let held = subscribers.paired(request.subscriber, policy.id);
            if let Some(external) = held.and_then(|index| request.pool.find_active(index)) {
                return self.allocate_on(external, externals, subscribers, request, random);
            }
            if held.is_none() && !subscribers.can_pair(request.subscriber) {
                tries = 1;
            }
        }
        let mut refusal = match request.pool.externals().is_empty() {
            true => DropReason::NoAddress,
            false => DropReason::PoolDraining,
        };
        for turn in 0..tries {
            let Some(external) = request.pool.active(first + turn) else {
                break;
            };
            match self.allocate_on(external, externals, subscribers, request, random) {
                Err(reason @ (DropReason::NoPort | DropReason::NoBlock)) => {
                    refusal = if turn == 0 { reason } else { refusal };
                }
                done => return done,
            }
        }
        Err(refusal)
    }

    /// The address a subscriber's flows of a protocol without ports leave with: the one it is paired with, or would be.
    pub fn address(
        &self,
        subscribers: &Subscribers,
        pool: &Pool,
        subscriber: SubscriberIndex,
    ) -> Option<IpAddr> {
        let inside = subscribers.address(subscriber)?;
        if pool.policy().deterministic.is_some() {
            let (external, _) = own_place(pool, inside).filter(|(e, _)| !e.draining)?;
            return Some(external.external.address());
        }
        let held = subscribers.paired(subscriber, pool.policy().id);
        let paired = held.and_then(|index| pool.find_active(index));
        let external = paired.or_else(|| pool.active(stable_hash(inside, 0)))?;
        Some(external.external.address())
    }

    /// Takes a port back at the end of its mapping.
    pub fn release(
        &mut self,
        externals: &Externals,
        subscribers: &mut Subscribers,
        returned: &Returned,
        now: Tick,
    ) {
        let Returned {
            external,
            space,
            port,
            mut hold,
            ..
        } = *returned;
        if let Some(share) = returned.share {
            match self.end_share(externals, returned, share, now) {
                Some(rest) => hold = rest,
                // Others use the port.
                None => return subscribers.lease_ended(returned.subscriber, external),
            }
        }
        match externals.get(external).map(|e| (e.single(), e.blocks())) {
            Some((Some(single), _)) if hold == 0 => single.release(space, port),
            Some((Some(single), _)) => {
                if single.hold(space, port) {
                    // One more: coarse ticks must not shorten the hold.
                    let due = Tick(now.0.saturating_add(hold).saturating_add(1));
                    let entry = Held {
                        external,
                        space,
                        port,
                        due,
                    };
                    if let Some(oldest) = self.hold.push(entry) {
                        self.end_hold(externals, oldest);
                    }
                }
            }
            Some((None, Some(blocks))) => blocks.free(space, port, now, hold),
            _ => self.errors += 1,
        }
        subscribers.lease_ended(returned.subscriber, external);
    }

    /// Ends a mapping's share of a port. `Some`: the port has no other, and is to rest that long.
    fn end_share(
        &mut self,
        externals: &Externals,
        returned: &Returned,
        share: Share,
        now: Tick,
    ) -> Option<u32> {
        let port = returned.port;
        let view = View {
            external: returned.external,
            space: returned.space,
            share,
        };
        let blocks = externals.get(returned.external).and_then(|e| e.blocks());
        let window = blocks.map_or(port & !63, |blocks| blocks.window_of(port));
        self.shared.end(&view, window, port, returned.hold, now)
    }

    /// Ends the hold of at most `budget` single ports that are due; returns how many.
    pub fn release_due(&mut self, externals: &Externals, now: Tick, budget: usize) -> usize {
        self.shared.release_due(now, budget);
        let errors = &mut self.errors;
        self.hold.release_due(now, budget, |entry| {
            match externals.get(entry.external).and_then(|e| e.single()) {
                Some(single) => single.release_held(entry.space, entry.port),
                None => *errors += 1,
            }
        })
    }

    /// Looks at the next `budget` subscribers and gives back their blocks that have been idle long enough.
    pub fn sweep(
        &mut self,
        externals: &Externals,
        subscribers: &mut Subscribers,
        now: Tick,
        budget: usize,
        mut returned: impl FnMut(&ReturnedBlock),
    ) {
        for _ in 0..budget.min(subscribers.capacity()) {
            self.hand = (self.hand + 1) % subscribers.capacity();
            if let Some(subscriber) = subscribers.at(self.hand) {
                return_idle(externals, subscribers, subscriber, now, &mut returned);
            }
        }
    }

    /// Takes over single ports that rest since before the start, those due first in front.
    pub fn take_over(&mut self, externals: &Externals, resting: &[Held]) {
        for entry in resting {
            if let Some(oldest) = self.hold.push(*entry) {
                self.end_hold(externals, oldest);
            }
        }
    }

    /// Single ports in hold.
    pub fn held(&self) -> usize {
        self.hold.len()
    }

    /// Single ports, and remotes of shared ports, that had to leave hold early because `hold_max` was reached.
    pub fn hold_overflows(&self) -> u64 {
        self.hold.overflows() + self.shared.hold_overflows()
    }

    /// The ports that mappings share.
    pub fn shared(&self) -> &SharedPorts {
        &self.shared
    }

    /// Calls that made no sense (an address that does not exist). Stays 0.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    fn end_hold(&mut self, externals: &Externals, entry: Held) {
        match externals.get(entry.external).and_then(|e| e.single()) {
            Some(single) => single.release_held(entry.space, entry.port),
            None => self.errors += 1,
        }
    }

    /// Leases a port of one address.
    fn allocate_on(
        &mut self,
        external: &ExternalRef,
        externals: &Externals,
        subscribers: &mut Subscribers,
        request: &Request<'_>,
        random: &mut Random,
    ) -> Result<Lease, DropReason> {
        let policy = request.pool.policy();
        let (port, opened) = match (policy.block, external.external.single()) {
            (None, Some(single)) => (self.single_port(single, external, request, random), None),
            (Some(block), None) => {
                let (port, opened) =
                    self.block_port(external, externals, subscribers, request, block, random)?;
                (Some(port), opened)
            }
            _ => return Err(DropReason::Internal),
        };
        let port = port.ok_or(DropReason::NoPort)?;
        subscribers.lease_begun(request.subscriber, policy.id, external.index);
        Ok(Lease {
            external: external.index,
            address: external.external.address(),
            port,
            opened,
        })
    }
}

/// The address and the block that a deterministic pool has for an inside address.
// Implements: U2, G2.
pub(super) fn own_place(pool: &Pool, inside: u128) -> Option<(&ExternalRef, BlockIndex)> {
    let map = pool.policy().deterministic.as_deref()?;
    let place = map.place(u32::try_from(inside).ok()?)?;
    Some((pool.at(place.address)?, BlockIndex(place.slot)))
}

/// An unkeyed hash of an inside endpoint: the same after a restart, and in every release.
fn stable_hash(inside: u128, port: u16) -> usize {
    let mut x = inside as u64 ^ (inside >> 64) as u64 ^ u64::from(port) << 48;
    for _ in 0..2 {
        x = (x ^ (x >> 32)).wrapping_mul(0xe703_7ed1_a0b4_28db);
    }
    (x >> 33) as usize
}
