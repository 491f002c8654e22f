//! The reference: a NAT made of ordinary maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use natgate::base::DropReason;

pub type Endpoint = (Ipv4Addr, u16);

/// How long a flow lives that was answered, and one that was not.
pub const UDP: u64 = 300_000;
pub const UDP_UNREPLIED: u64 = 120_000;
/// Time in the data plane is in quarter seconds; near a deadline both answers are right.
pub const GRAIN: u64 = 500;

/// What mappings and filters may depend on, in the words of the configuration; from little to much.
pub const DEPENDS: [&str; 3] = ["endpoint", "address", "address-port"];

/// As much of a remote as a behaviour looks at.
pub fn part(depends: usize, remote: Endpoint) -> (Option<Ipv4Addr>, Option<u16>) {
    (
        (depends > 0).then_some(remote.0),
        (depends > 1).then_some(remote.1),
    )
}

#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub seen: u64,
    pub replied: bool,
    /// An outside host opened it through a mapping.
    pub from_outside: bool,
    pub mapping: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    pub inside: Endpoint,
    pub outside: Endpoint,
    /// The remote it was made for, as far as it depends on that; none once the last flow to it is gone.
    pub for_remote: Option<(Option<Ipv4Addr>, Option<u16>)>,
}

/// What mappings are made of: each host keeps to one of the addresses while it has a mapping there.
#[derive(Clone)]
pub struct Pool {
    pub addresses: Vec<Ipv4Addr>,
    pub ports: RangeInclusive<u16>,
}

impl Pool {
    pub fn has(&self, end: Endpoint) -> bool {
        self.addresses.contains(&end.0) && self.ports.contains(&end.1)
    }
}

/// The executable specification: UDP through a pool, mapping and filtering by RFC 4787 §4.1 and §5.
#[derive(Clone)]
pub struct Reference {
    pub now: u64,
    /// How long a flow lives that was answered.
    pub answered: u64,
    pub mapping: usize,
    pub filtering: usize,
    pub pool: Pool,
    pub mappings: BTreeMap<u32, Mapping>,
    made: u32,
    /// (inside, remote) → flow.
    pub flows: BTreeMap<(Endpoint, Endpoint), Flow>,
}

/// What may happen to a packet.
#[derive(Debug, PartialEq)]
pub enum Expect {
    Translated(Endpoint),
    /// A translated packet whose outside endpoint is up to the gateway.
    NewMapping,
    Refused(DropReason),
}

impl Reference {
    /// Nothing yet.
    pub fn new(now: u64, (mapping, filtering): (usize, usize), pool: Pool) -> Reference {
        Reference {
            now,
            answered: UDP,
            mapping,
            filtering,
            pool,
            mappings: BTreeMap::new(),
            made: 0,
            flows: BTreeMap::new(),
        }
    }

    /// Nothing is left; time and rules stay.
    pub fn forget(&mut self) {
        self.mappings.clear();
        self.flows.clear();
        self.made = 0;
    }

    fn deadline(&self, flow: &Flow) -> u64 {
        let life = if flow.replied {
            self.answered
        } else {
            UDP_UNREPLIED
        };
        flow.seen + life
    }

    pub fn purge(&mut self) {
        let mut flows = std::mem::take(&mut self.flows);
        flows.retain(|_, flow| self.deadline(flow) > self.now);
        self.flows = flows;
        let flows = &self.flows;
        let depends = self.mapping;
        self.mappings.retain(|id, mapping| {
            let own = || flows.iter().filter(|(_, f)| f.mapping == *id);
            let wanted = mapping.for_remote;
            if !own().any(|((_, remote), _)| Some(part(depends, *remote)) == wanted) {
                mapping.for_remote = None;
            }
            own().next().is_some()
        });
    }

    /// Whether some flow is so close to its timeout that both answers are right.
    pub fn near_deadline(&self) -> bool {
        self.flows
            .values()
            .any(|f| self.deadline(f).abs_diff(self.now) <= GRAIN)
    }

    pub fn outbound(&mut self, inside: Endpoint, remote: Endpoint) -> Expect {
        self.purge();
        match self.used_by(inside, remote) {
            Some(id) => Expect::Translated(self.mappings[&id].outside),
            None => Expect::NewMapping,
        }
    }

    /// The mapping that a packet from inside uses.
    pub fn used_by(&self, inside: Endpoint, remote: Endpoint) -> Option<u32> {
        if let Some(flow) = self.flows.get(&(inside, remote)) {
            return Some(flow.mapping);
        }
        let wanted = Some(part(self.mapping, remote));
        let fits = |m: &Mapping| m.inside == inside && m.for_remote == wanted;
        let found = self.mappings.iter().find(|(_, m)| fits(m));
        found.map(|(id, _)| *id)
    }

    /// Whether a new mapping may be refused: every one of the ports its host may have serves a mapping that must not meet
    /// this remote. With several workers a port is of no use to others than the one that has it.
    pub fn may_refuse(&self, inside: Endpoint, remote: Endpoint, workers: u8) -> bool {
        let sharing = self.mapping.min(self.filtering);
        let bars = |(id, m): (&u32, &Mapping)| {
            let mut own = self.flows.iter().filter(|(_, f)| f.mapping == *id);
            let meets = own.any(|((_, r), _)| part(sharing, *r) == part(sharing, remote));
            (workers > 1 || meets).then_some(m.outside)
        };
        let mut host = self.mappings.values().filter(|m| m.inside.0 == inside.0);
        let paired = host.next().map(|m| m.outside.0);
        let barred: BTreeSet<Endpoint> = self.mappings.iter().filter_map(bars).collect();
        let addresses = self.pool.addresses.iter();
        let mut eligible = addresses.filter(|a| paired.is_none_or(|paired| paired == **a));
        eligible.all(|a| barred.iter().filter(|end| end.0 == *a).count() == self.pool.ports.len())
    }

    /// Which inside endpoint sent what left by `outside` for `remote`, if that flow lives.
    pub fn sender(&mut self, outside: Endpoint, remote: Endpoint) -> Option<Endpoint> {
        self.purge();
        let mut flows = self.flows.iter();
        let found = flows.find(|(ends, flow)| {
            ends.1 == remote && self.mappings[&flow.mapping].outside == outside
        });
        found.map(|(ends, _)| ends.0)
    }

    pub fn sent(&mut self, inside: Endpoint, remote: Endpoint, outside: Endpoint) {
        let id = self.used_by(inside, remote).unwrap_or(self.made);
        for (other, mapping) in self.mappings.iter().filter(|(i, _)| **i != id) {
            if mapping.outside != outside {
                continue;
            }
            assert!(
                self.mapping.min(self.filtering) > 0,
                "{outside:?} stands for {mapping:?} and {inside:?}, and the filter would not tell them apart"
            );
            let filtering = self.filtering;
            let mut own = self.flows.iter().filter(|(_, f)| f.mapping == *other);
            let clash = own.find(|((_, r), _)| part(filtering, *r) == part(filtering, remote));
            assert!(
                clash.is_none(),
                "{outside:?} meets {remote:?} for {mapping:?} and {inside:?}: return traffic of one would reach the other"
            );
        }
        self.made = self.made.max(id + 1);
        self.mappings.entry(id).or_insert(Mapping {
            inside,
            outside,
            for_remote: Some(part(self.mapping, remote)),
        });
        let now = self.now;
        self.flows
            .entry((inside, remote))
            .and_modify(|f| {
                f.seen = now;
                f.replied |= f.from_outside;
            })
            .or_insert(Flow {
                seen: now,
                replied: false,
                from_outside: false,
                mapping: id,
            });
    }

    pub fn inbound(&mut self, remote: Endpoint, outside: Endpoint) -> Expect {
        self.purge();
        let here = |id: &u32| self.mappings.get(id).is_some_and(|m| m.outside == outside);
        let known = self
            .flows
            .iter_mut()
            .find(|((_, r), flow)| *r == remote && here(&flow.mapping));
        if let Some(((inside, _), flow)) = known {
            // Answers do not keep a UDP session alive, but they tell an answered one from an unanswered one.
            flow.replied |= !flow.from_outside;
            return Expect::Translated(*inside);
        }
        let filtering = self.filtering;
        let mut talks = self.flows.iter().filter(|((_, r), f)| {
            here(&f.mapping) && part(filtering, *r) == part(filtering, remote)
        });
        let Some(((inside, _), flow)) = talks.next() else {
            let known = self.mappings.values().any(|m| m.outside == outside);
            return Expect::Refused(match known {
                true => DropReason::Filtered,
                false => DropReason::NoMapping,
            });
        };
        let (inside, mapping) = (*inside, flow.mapping);
        if self.flows.contains_key(&(inside, remote)) {
            // The host calls this remote through another mapping: its answers could not be told apart.
            return Expect::Refused(DropReason::MappingConflict);
        }
        self.flows.insert(
            (inside, remote),
            Flow {
                seen: self.now,
                replied: false,
                from_outside: true,
                mapping,
            },
        );
        Expect::Translated(inside)
    }
}
