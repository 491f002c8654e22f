//! Mappings: inside endpoint ↔ outside endpoint (RFC 4787 §4.1), the part of a translation that outlives one flow.
//!
//! Only the slow path sees them. A new flow from a known inside endpoint gets the outside port that endpoint already has
//! (endpoint-independent mapping, RFC 4787 REQ-1), and an outside packet that matches no flow is judged against the
//! mapping of its destination port. A mapping lives as long as a session uses it.

use crate::arch::OutOfMemory;
use crate::base::RealmId;
use crate::flow::hash::{Hash, Hasher};
use crate::flow::slab::{Slab, SlabEntry};
use crate::flow::table::BucketTable;
use crate::nat::ports::{ExternalIndex, PortSpace};

/// Load at which the two mapping tables are sized: they are off the fast path, so memory counts for more than the odd
/// second probe.
const LOAD_PERCENT: u32 = 95;

/// Position of a mapping in its slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct MappingIndex(pub u32);

/// An inside endpoint and the outside endpoint that stands for it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Mapping {
    /// Inside address.
    pub inside: u32,
    /// Sessions that use it; on a free slot the next free index.
    pub sessions: u32,
    /// Inside port (query id for ICMP).
    pub inside_port: u16,
    /// Outside port.
    pub outside_port: u16,
    /// Outside address, by its place in the policy's list.
    pub external: ExternalIndex,
    /// Port space + 1; 0 marks a free slot.
    space: u8,
    /// Realm of the inside endpoint.
    pub realm: RealmId,
}

const _: () = assert!(
    size_of::<Mapping>() == 16,
    "a mapping costs 16 bytes and two table entries"
);

impl Mapping {
    /// The port space the mapping lives in.
    pub fn space(&self) -> PortSpace {
        match self.space {
            1 => PortSpace::Tcp,
            2 => PortSpace::Udp,
            _ => PortSpace::Icmp,
        }
    }
}

impl SlabEntry for Mapping {
    fn is_live(&self) -> bool {
        self.space != 0
    }

    fn next_free(&self) -> u32 {
        self.sessions
    }

    fn set_next_free(&mut self, next: u32) {
        self.sessions = next;
    }
}

/// The endpoint on one side of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InsideEndpoint {
    /// Address.
    pub address: u32,
    /// Port or query id.
    pub port: u16,
    /// Port space.
    pub space: PortSpace,
    /// Realm.
    pub realm: RealmId,
}

/// The outside counterpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideEndpoint {
    /// Address, by its place in the policy's list.
    pub external: ExternalIndex,
    /// Port or query id.
    pub port: u16,
    /// Port space.
    pub space: PortSpace,
}

/// The mappings of one worker.
pub struct Mappings {
    slab: Slab<Mapping>,
    by_inside: BucketTable,
    by_outside: BucketTable,
    hasher: Hasher,
}

/// No room for another mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingsFull;

impl Mappings {
    /// Room for `capacity` mappings.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(capacity: u32, hasher: Hasher) -> Result<Mappings, OutOfMemory> {
        Ok(Mappings {
            slab: Slab::with_capacity(capacity as usize)?,
            by_inside: BucketTable::with_capacity(capacity as usize, LOAD_PERCENT)?,
            by_outside: BucketTable::with_capacity(capacity as usize, LOAD_PERCENT)?,
            hasher,
        })
    }

    /// The mapping of an inside endpoint whose outside address satisfies `eligible` (one endpoint may have a mapping in
    /// each of several pools when rules tell its flows apart by destination).
    pub fn find_inside(
        &self,
        endpoint: InsideEndpoint,
        eligible: impl Fn(ExternalIndex) -> bool,
    ) -> Option<MappingIndex> {
        self.by_inside
            .find(self.hash_inside(endpoint), |index| {
                self.slab
                    .get(index)
                    .is_some_and(|m| inside_of(m) == endpoint && eligible(m.external))
            })
            .map(MappingIndex)
    }

    /// The mapping that owns an outside endpoint.
    pub fn find_outside(&self, endpoint: OutsideEndpoint) -> Option<MappingIndex> {
        self.by_outside
            .find(self.hash_outside(endpoint), |index| {
                self.slab
                    .get(index)
                    .is_some_and(|m| outside_of(m) == endpoint)
            })
            .map(MappingIndex)
    }

    /// Adds a mapping without sessions.
    ///
    /// # Errors
    /// [`MappingsFull`] when there is no room; nothing is changed then.
    pub fn insert(
        &mut self,
        inside: InsideEndpoint,
        outside: OutsideEndpoint,
    ) -> Result<MappingIndex, MappingsFull> {
        let mapping = Mapping {
            inside: inside.address,
            sessions: 0,
            inside_port: inside.port,
            outside_port: outside.port,
            external: outside.external,
            space: inside.space as u8 + 1,
            realm: inside.realm,
        };
        let index = self.slab.allocate(mapping).ok_or(MappingsFull)?;
        let (by_inside, by_outside) = (self.hash_inside(inside), self.hash_outside(outside));
        if self.by_inside.insert(by_inside, index).is_err() {
            self.slab.release(index);
            return Err(MappingsFull);
        }
        if self.by_outside.insert(by_outside, index).is_err() {
            self.by_inside.remove(by_inside, index);
            self.slab.release(index);
            return Err(MappingsFull);
        }
        Ok(MappingIndex(index))
    }

    /// The mapping at `index`.
    pub fn get(&self, index: MappingIndex) -> Option<&Mapping> {
        self.slab.get(index.0).filter(|m| m.is_live())
    }

    /// Counts one more session on the mapping.
    pub fn attach(&mut self, index: MappingIndex) {
        if let Some(mapping) = self.slab.get_mut(index.0) {
            mapping.sessions += 1;
        }
    }

    /// Counts one session less. The last one takes the mapping with it, which is then returned so that its port can be
    /// given back.
    pub fn detach(&mut self, index: MappingIndex) -> Option<Mapping> {
        let mapping = self.slab.get_mut(index.0)?;
        mapping.sessions = mapping.sessions.saturating_sub(1);
        if mapping.sessions > 0 {
            return None;
        }
        self.remove(index)
    }

    /// Removes a mapping that has no sessions.
    pub fn remove(&mut self, index: MappingIndex) -> Option<Mapping> {
        let mapping = *self.get(index)?;
        self.by_inside
            .remove(self.hash_inside(inside_of(&mapping)), index.0);
        self.by_outside
            .remove(self.hash_outside(outside_of(&mapping)), index.0);
        self.slab.release(index.0);
        Some(mapping)
    }

    /// Mappings alive.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots ever used; listings walk up to here.
    pub fn high_water(&self) -> u32 {
        self.slab.high_water()
    }

    /// Bytes taken by slab and tables.
    pub fn memory_bytes(&self) -> usize {
        self.slab.memory_bytes() + self.by_inside.memory_bytes() + self.by_outside.memory_bytes()
    }

    fn hash_inside(&self, e: InsideEndpoint) -> Hash {
        self.hasher.hash_words(&[
            u64::from(e.address) << 32 | u64::from(e.port),
            1 << 32 | (e.space as u64) << 8 | u64::from(e.realm.0),
        ])
    }

    fn hash_outside(&self, e: OutsideEndpoint) -> Hash {
        self.hasher.hash_words(&[
            u64::from(e.external.0) << 32 | u64::from(e.port),
            2 << 32 | e.space as u64,
        ])
    }
}

fn inside_of(m: &Mapping) -> InsideEndpoint {
    InsideEndpoint {
        address: m.inside,
        port: m.inside_port,
        space: m.space(),
        realm: m.realm,
    }
}

fn outside_of(m: &Mapping) -> OutsideEndpoint {
    OutsideEndpoint {
        external: m.external,
        port: m.outside_port,
        space: m.space(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(port: u16) -> InsideEndpoint {
        InsideEndpoint {
            address: 0x0a00_0002,
            port,
            space: PortSpace::Udp,
            realm: RealmId(0),
        }
    }

    fn outside(external: u16, port: u16) -> OutsideEndpoint {
        OutsideEndpoint {
            external: ExternalIndex(external),
            port,
            space: PortSpace::Udp,
        }
    }

    #[test]
    fn both_sides_lead_to_the_mapping_until_its_last_session_ends() {
        let mut mappings = Mappings::new(100, Hasher::new([1, 2])).unwrap();
        let index = mappings.insert(inside(40000), outside(3, 1024)).unwrap();
        mappings.attach(index);
        mappings.attach(index);
        assert_eq!(
            mappings.find_inside(inside(40000), |e| e.0 == 3),
            Some(index)
        );
        assert_eq!(
            mappings.find_inside(inside(40000), |e| e.0 == 4),
            None,
            "another pool's mapping does not count"
        );
        assert_eq!(mappings.find_outside(outside(3, 1024)), Some(index));
        assert!(mappings.detach(index).is_none());
        let gone = mappings
            .detach(index)
            .expect("the last session takes the mapping along");
        assert_eq!((gone.outside_port, gone.inside_port), (1024, 40000));
        assert_eq!(mappings.find_inside(inside(40000), |_| true), None);
        assert_eq!(mappings.find_outside(outside(3, 1024)), None);
        assert!(mappings.is_empty());
    }

    #[test]
    fn full_is_a_value_and_changes_nothing() {
        let mut mappings = Mappings::new(10, Hasher::new([1, 2])).unwrap();
        for port in 0..10 {
            mappings.insert(inside(port), outside(0, port)).unwrap();
        }
        assert_eq!(
            mappings.insert(inside(99), outside(0, 99)),
            Err(MappingsFull)
        );
        assert_eq!(mappings.find_outside(outside(0, 99)), None);
        assert_eq!(mappings.len(), 10);
    }
}
