//! The subscribers of one worker: who they are, what they hold, which external address they are paired with.
//!
//! A subscriber is an inside address in a realm. Its record lives as long as anything refers to it: a session
//! ([`Subscribers::enter`] … [`Subscribers::leave`]), a leased port, or a block. Records are a fixed array; an open
//! addressed index with linear probing finds them. Nothing grows or moves after construction.

use crate::arch::prefetch_index;
use crate::base::time::Now;
use crate::base::{DropReason, PoolId, RealmId};
use crate::nat::limits::{HostLimits, Pace};
use crate::nat::ports::{BlockLink, ExternalIndex};

/// The number of a subscriber in its worker's table, valid while something refers to the subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SubscriberIndex(pub u32);

/// Pools a subscriber can be paired in at the same time. In more pools than this it uses the address its hash names,
/// and is refused when that is full.
const PAIRINGS: usize = 3;

/// "This subscriber uses this address of this pool", while `holds` ports and blocks are held there.
#[derive(Clone, Copy)]
#[repr(C)]
struct Paired {
    pool: PoolId,
    external: ExternalIndex,
    holds: u32,
}

/// One subscriber.
#[derive(Clone, Copy)]
#[repr(C)]
struct Record {
    address: u128,
    pairings: [Paired; PAIRINGS],
    sessions: u32,
    /// Sessions it opened that are half-open.
    half_open: u32,
    leases: u32,
    references: u32,
    /// First block of the list that is chained through the blocks; next free record while unused.
    blocks: BlockLink,
    block_count: u16,
    realm: RealmId,
    used: bool,
}

const _: () = assert!(size_of::<Record>() <= 64);

const EMPTY: u32 = u32::MAX;

const VACANT: Record = Record {
    address: 0,
    pairings: [Paired {
        pool: PoolId(0),
        external: ExternalIndex(0),
        holds: 0,
    }; PAIRINGS],
    sessions: 0,
    half_open: 0,
    leases: 0,
    references: 0,
    blocks: BlockLink::END,
    block_count: 0,
    realm: RealmId(0),
    used: false,
};

/// The subscribers of one worker.
///
/// IPv4 addresses are the numbers below 2³², IPv6 addresses their 128-bit value, both in host order.
pub struct Subscribers {
    records: Box<[Record]>,
    /// How fast each opens sessions, by record number; read only where that is limited.
    paces: Box<[Pace]>,
    /// Record numbers by hash, [`EMPTY`] where there is none; at most half full.
    index: Box<[u32]>,
    /// Unused record numbers.
    vacant: Vec<u32>,
    secret: u64,
}

impl Subscribers {
    /// A table for `capacity` subscribers (at most 2³⁰). `secret` keys the hash: draw it at random, so that nobody can
    /// choose addresses that collide.
    pub fn new(capacity: usize, secret: u64) -> Subscribers {
        let capacity = capacity.clamp(1, 1 << 30);
        Subscribers {
            records: vec![VACANT; capacity].into_boxed_slice(),
            paces: vec![Pace::default(); capacity].into_boxed_slice(),
            index: vec![EMPTY; (capacity * 2).next_power_of_two()].into_boxed_slice(),
            vacant: (0..capacity as u32).rev().collect(),
            secret,
        }
    }

    /// Number of subscribers.
    pub fn len(&self) -> usize {
        self.records.len() - self.vacant.len()
    }

    /// True if there is no subscriber.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most subscribers there can be.
    pub fn capacity(&self) -> usize {
        self.records.len()
    }

    /// Bytes of the table.
    pub fn memory_bytes(&self) -> usize {
        let vacant = self.vacant.capacity() * size_of::<u32>();
        let (records, paces) = (size_of_val(&*self.records), size_of_val(&*self.paces));
        let parts = [records, paces, size_of_val(&*self.index), vacant];
        parts.iter().sum()
    }

    /// The subscriber at `index`, for listing: a number below [`Subscribers::capacity`].
    pub fn at(&self, index: usize) -> Option<SubscriberIndex> {
        let record = self.records.get(index)?;
        record.used.then_some(SubscriberIndex(index as u32))
    }

    /// The subscriber with this inside address, if it is known.
    #[inline]
    pub fn find(&self, address: u128, realm: RealmId) -> Option<SubscriberIndex> {
        let slot = self.probe(address, realm);
        let number = self.index[slot];
        (number != EMPTY).then_some(SubscriberIndex(number))
    }

    /// Fetches the place in the index where [`Subscribers::enter`] begins to look.
    #[inline]
    pub fn prefetch_index(&self, address: u128, realm: RealmId) {
        prefetch_index(&self.index, self.home(address, realm));
    }

    /// Fetches the record that place leads to.
    #[inline]
    pub fn prefetch_record(&self, address: u128, realm: RealmId) {
        let number = self.index[self.home(address, realm)];
        prefetch_index(&self.records, number as usize);
    }

    /// Finds or adds the subscriber and refers to it, until [`Subscribers::leave`].
    ///
    /// # Errors
    /// [`DropReason::SubscriberLimit`] if the table is full.
    // Implements: U7.
    #[inline]
    pub fn enter(&mut self, address: u128, realm: RealmId) -> Result<SubscriberIndex, DropReason> {
        let slot = self.probe(address, realm);
        let number = match self.index[slot] {
            EMPTY => {
                let number = self.vacant.pop().ok_or(DropReason::SubscriberLimit)?;
                self.index[slot] = number;
                self.paces[number as usize] = Pace::default();
                self.records[number as usize] = Record {
                    address,
                    realm,
                    used: true,
                    ..VACANT
                };
                number
            }
            known => known,
        };
        self.records[number as usize].references += 1;
        Ok(SubscriberIndex(number))
    }

    /// Drops a reference taken by [`Subscribers::enter`]. The last one, with no port or block left, frees the record.
    #[inline]
    pub fn leave(&mut self, subscriber: SubscriberIndex) {
        if let Some(record) = self.get_mut(subscriber) {
            record.references = record.references.saturating_sub(1);
            self.free_if_idle(subscriber);
        }
    }

    /// Counts a session of a subscriber that is referred to. `opens`: whether the subscriber itself opens it, and if so,
    /// whether it is half-open; what others open costs it neither tokens nor half-open connections.
    ///
    /// # Errors
    /// Nothing is counted if the subscriber is at a limit: [`DropReason::SessionLimit`], [`DropReason::QuotaHalfOpen`],
    /// [`DropReason::QuotaRate`].
    // Implements: G5, G4.
    #[inline]
    pub fn open_session(
        &mut self,
        subscriber: SubscriberIndex,
        opens: Option<bool>,
        limits: &HostLimits,
        now: Now,
    ) -> Result<(), DropReason> {
        let record = self.records.get_mut(subscriber.0 as usize);
        let record = record.filter(|r| r.used).ok_or(DropReason::Internal)?;
        if limits.sessions != 0 && record.sessions >= limits.sessions {
            return Err(DropReason::SessionLimit);
        }
        if let Some(half_open) = opens {
            if half_open && limits.half_open != 0 && record.half_open >= limits.half_open {
                return Err(DropReason::QuotaHalfOpen);
            }
            if limits.new_per_second != 0
                && !self.paces[subscriber.0 as usize].take(limits.new_per_second, now)
            {
                return Err(DropReason::QuotaRate);
            }
            record.half_open += u32::from(half_open);
        }
        record.sessions += 1;
        Ok(())
    }

    /// Uncounts a session; `half_open`: it is one that the subscriber opened and that is half-open.
    #[inline]
    pub fn close_session(&mut self, subscriber: SubscriberIndex, half_open: bool) {
        if let Some(record) = self.get_mut(subscriber) {
            record.sessions = record.sessions.saturating_sub(1);
        }
        if half_open {
            self.half_open_changed(subscriber, false);
        }
    }

    /// A session that the subscriber opened became half-open, or is so no more.
    pub fn half_open_changed(&mut self, subscriber: SubscriberIndex, more: bool) {
        if let Some(record) = self.get_mut(subscriber) {
            record.half_open = match more {
                true => record.half_open.saturating_add(1),
                false => record.half_open.saturating_sub(1),
            };
        }
    }

    /// TCP connections the subscriber opened that are not established yet.
    pub fn half_open(&self, subscriber: SubscriberIndex) -> u32 {
        self.get(subscriber).map_or(0, |r| r.half_open)
    }

    /// Sessions of the subscriber.
    pub fn sessions(&self, subscriber: SubscriberIndex) -> u32 {
        self.get(subscriber).map_or(0, |r| r.sessions)
    }

    /// Ports the subscriber has leased.
    pub fn leases(&self, subscriber: SubscriberIndex) -> u32 {
        self.get(subscriber).map_or(0, |r| r.leases)
    }

    /// Blocks the subscriber holds.
    pub fn block_count(&self, subscriber: SubscriberIndex) -> u16 {
        self.get(subscriber).map_or(0, |r| r.block_count)
    }

    /// The inside address.
    #[inline]
    pub fn address(&self, subscriber: SubscriberIndex) -> Option<u128> {
        Some(self.get(subscriber)?.address)
    }

    /// The realm of the inside address.
    pub fn realm(&self, subscriber: SubscriberIndex) -> Option<RealmId> {
        Some(self.get(subscriber)?.realm)
    }

    /// The address the subscriber is paired with in `pool`.
    #[inline]
    pub fn paired(&self, subscriber: SubscriberIndex, pool: PoolId) -> Option<ExternalIndex> {
        let mut pairings = self.get(subscriber)?.pairings.iter();
        let found = pairings.find(|p| p.holds > 0 && p.pool == pool)?;
        Some(found.external)
    }

    /// True if a pairing in one more pool can be remembered.
    #[inline]
    pub(super) fn can_pair(&self, subscriber: SubscriberIndex) -> bool {
        self.get(subscriber)
            .is_some_and(|r| r.pairings.iter().any(|p| p.holds == 0))
    }

    /// Counts a leased port, and pairs the subscriber with its address.
    #[inline]
    pub(super) fn lease_begun(
        &mut self,
        subscriber: SubscriberIndex,
        pool: PoolId,
        external: ExternalIndex,
    ) {
        if let Some(record) = self.get_mut(subscriber) {
            record.leases += 1;
            record.pair(pool, external);
        }
    }

    /// Uncounts a leased port.
    #[inline]
    pub(super) fn lease_ended(&mut self, subscriber: SubscriberIndex, external: ExternalIndex) {
        if let Some(record) = self.get_mut(subscriber) {
            record.leases = record.leases.saturating_sub(1);
            record.unpair(external);
            self.free_if_idle(subscriber);
        }
    }

    /// The first of the subscriber's blocks.
    #[inline]
    pub(super) fn first_block(&self, subscriber: SubscriberIndex) -> BlockLink {
        self.get(subscriber).map_or(BlockLink::END, |r| r.blocks)
    }

    /// Makes `block` the first of the list; its old first was linked behind it by the caller. Pairs like a lease.
    pub(super) fn block_added(
        &mut self,
        subscriber: SubscriberIndex,
        pool: PoolId,
        external: ExternalIndex,
        block: BlockLink,
    ) {
        if let Some(record) = self.get_mut(subscriber) {
            record.blocks = block;
            record.block_count += 1;
            record.pair(pool, external);
        }
    }

    /// Uncounts a block; `first` is the list without it if it was the first.
    pub(super) fn block_removed(
        &mut self,
        subscriber: SubscriberIndex,
        external: ExternalIndex,
        first: Option<BlockLink>,
    ) {
        if let Some(record) = self.get_mut(subscriber) {
            record.blocks = first.unwrap_or(record.blocks);
            record.block_count = record.block_count.saturating_sub(1);
            record.unpair(external);
        }
    }

    /// Frees the record if nothing refers to it.
    pub(super) fn free_if_idle(&mut self, subscriber: SubscriberIndex) {
        let Some(record) = self.get(subscriber) else {
            return;
        };
        if record.references > 0 || record.leases > 0 || record.block_count > 0 {
            return;
        }
        let slot = self.probe(record.address, record.realm);
        self.remove_slot(slot);
        self.records[subscriber.0 as usize].used = false;
        self.vacant.push(subscriber.0);
    }

    #[inline]
    fn get(&self, subscriber: SubscriberIndex) -> Option<&Record> {
        self.records.get(subscriber.0 as usize).filter(|r| r.used)
    }

    #[inline]
    fn get_mut(&mut self, subscriber: SubscriberIndex) -> Option<&mut Record> {
        let record = self.records.get_mut(subscriber.0 as usize);
        record.filter(|r| r.used)
    }

    /// The slot of the index that has the subscriber, or the empty one where it would go.
    #[inline]
    fn probe(&self, address: u128, realm: RealmId) -> usize {
        let mask = self.index.len() - 1;
        let mut slot = self.home(address, realm);
        while let Some(record) = self.records.get(self.index[slot] as usize) {
            if record.address == address && record.realm == realm {
                break;
            }
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The slot an address hashes to.
    #[inline]
    fn home(&self, address: u128, realm: RealmId) -> usize {
        let low = address as u64 ^ u64::from(realm.0) << 56;
        let hash =
            mix(mix(low ^ self.secret) ^ (address >> 64) as u64 ^ self.secret.rotate_left(32));
        hash as usize & (self.index.len() - 1)
    }

    /// Empties a slot and closes the gap: entries behind it move up as long as they stay behind their home.
    fn remove_slot(&mut self, mut gap: usize) {
        let mask = self.index.len() - 1;
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let Some(record) = self.records.get(self.index[at] as usize) else {
                break;
            };
            let home = self.home(record.address, record.realm);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.index[gap] = self.index[at];
                gap = at;
            }
        }
        self.index[gap] = EMPTY;
    }
}

impl Record {
    /// Adds a hold to the pairing of `pool`. A pairing with another address, which is draining or gone, is replaced:
    /// what is still held there no longer counts.
    #[inline]
    fn pair(&mut self, pool: PoolId, external: ExternalIndex) {
        let known = self
            .pairings
            .iter()
            .position(|p| p.holds > 0 && p.pool == pool);
        let place = known.or_else(|| self.pairings.iter().position(|p| p.holds == 0));
        if let Some(paired) = place.map(|i| &mut self.pairings[i]) {
            let held = if paired.external == external {
                paired.holds
            } else {
                0
            };
            *paired = Paired {
                pool,
                external,
                holds: held + 1,
            };
        }
    }

    /// Takes a hold from the pairing with `external`.
    #[inline]
    fn unpair(&mut self, external: ExternalIndex) {
        let mut pairings = self.pairings.iter_mut();
        if let Some(p) = pairings.find(|p| p.holds > 0 && p.external == external) {
            p.holds -= 1;
        }
    }
}

/// A bijective mixer: every input bit moves every output bit.
#[inline]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

#[cfg(test)]
mod tests;
