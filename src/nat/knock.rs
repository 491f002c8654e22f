//! Knocks: packets from outside to a port of a pool that belong to no session, most of which nobody waits for.
//!
//! What scans the internet all day must cost next to nothing. So a batch of such packets is judged together: whether a worker
//! holds the port, whether the port has a mapping, and whether that admits anybody follows from three lines of memory, all
//! fetched ahead ([`Knock::of`], [`Knock::fetch_session`]). [`Knock::refusal`] says why a packet is dropped if
//! [`open`](crate::nat::open::open) would drop it in silence, with the same reason, and leaves everything else to it:
//! addresses that a rule, a service or an interface has, too ([`Bare`] are the others), senders who may be subscribers or
//! cannot be at all, mappings that admit some remotes or wait for somebody.

use hashbrown::HashMap;

use crate::base::time::Now;
use crate::base::{DropReason, RealmId};
use crate::flow::hash::Hash;
use crate::flow::session::State;
use crate::gateway::interface::{Interface, Interfaces, Urpf};
use crate::gateway::sanity;
use crate::nat::behaviour::{Behaviour, Remote};
use crate::nat::filter::Filter;
use crate::nat::mapping::OutsideEndpoint;
use crate::nat::matcher::RangeSet;
use crate::nat::policy::{NatPolicy, Policy, Translation};
use crate::nat::ports::{ExternalIndex, PortSpace};
use crate::nat::state::Nat;

/// External addresses at which packets from outside meet mappings or nothing, and where what meets nothing is dropped in
/// silence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bare {
    by_address: HashMap<u32, ExternalIndex>,
}

impl Bare {
    /// Those of a policy's external addresses. There are none while senders are told of refusals, or while mappings share
    /// ports, because then more than the first session of a mapping counts.
    pub fn of(nat: &NatPolicy, interfaces: &Interfaces, filter: &Filter, shared: bool) -> Bare {
        if shared || filter.default().rejects() || nat.v4.by_address.is_empty() {
            return Bare::default();
        }
        let Some(named) = named(&nat.v4, interfaces) else {
            return Bare::default();
        };
        let plain = |address: u32| {
            let martian = sanity::source_v4(address).or(sanity::destination_v4(address));
            martian.is_none() && !named.contains(address)
        };
        let all = nat.v4.by_address.iter();
        let bare = all.filter(|(address, _)| plain(**address));
        Bare {
            by_address: bare.map(|(address, index)| (*address, *index)).collect(),
        }
    }
}

/// Addresses that something else has, or has ports of. `None` if a port forward has all.
fn named(rules: &Translation<u32>, interfaces: &Interfaces) -> Option<RangeSet<u32>> {
    let mut ranges = Vec::new();
    for rule in &rules.forwards {
        let to = &rule.conditions.destination;
        if !to.is_constrained() {
            return None;
        }
        ranges.extend_from_slice(to.ranges());
    }
    let statics = rules.statics.iter();
    ranges.extend(statics.map(|rule| (rule.external, rule.external | rule.host_mask)));
    let subnets = interfaces.iter().flat_map(|on| &on.v4);
    let ours = subnets.flat_map(|net| [net.addr(), net.network(), net.broadcast()].map(u32::from));
    let alone = ours
        .chain(rules.services.addresses())
        .chain(rules.quarantined.iter().copied());
    ranges.extend(alone.map(|address| (address, address)));
    Some(RangeSet::of(ranges))
}

/// A packet from outside to a port of a bare address.
#[derive(Clone, Copy, Debug)]
pub struct Knock {
    external: ExternalIndex,
    endpoint: OutsideEndpoint<u32>,
    /// Under which the port's mapping is entered.
    hash: Hash,
}

impl Knock {
    /// Reads the key of a whole, plain packet as one number ([`Address::block`]) that arrived `on` an interface, and
    /// fetches who holds the port and the table line of its mapping. `None`: no knock, or not for sure.
    ///
    /// [`Address::block`]: crate::flow::key::Address::block
    #[inline]
    pub fn of<'a>(
        nat: &Nat<u32>,
        policy: &Policy,
        on: impl FnOnce() -> Option<&'a Interface>,
        key: u128,
    ) -> Option<Knock> {
        let destination = (key >> 32) as u32;
        let external = *policy.nat.bare.by_address.get(&destination)?;
        let source = key as u32;
        let on = on()?;
        let realm = RealmId((key >> 104) as u8);
        let from_outside = on.forward
            && on.urpf == Urpf::Off
            && sanity::source_v4(source).is_none()
            && policy.routes.local_v4(realm, source).is_none()
            && !policy.was_inside(on.id, source);
        if !from_outside {
            return None;
        }
        let endpoint = OutsideEndpoint {
            address: destination,
            port: (key >> 80) as u16,
            space: PortSpace::from_protocol((key >> 96) as u8)?,
        };
        policy
            .nat
            .external(external)?
            .prefetch_owner(endpoint.space, endpoint.port);
        let hash = nat.mappings.hash_outside(endpoint, Remote::default());
        nat.mappings.prefetch_at(hash);
        Some(Knock {
            external,
            endpoint,
            hash,
        })
    }

    /// Fetches the first session of the port's mapping.
    #[inline]
    pub fn fetch_session(&self, nat: &Nat<u32>) {
        if let Some(index) = nat.mappings.guess_at(self.hash) {
            nat.sessions.prefetch(index);
        }
    }

    /// Why the packet is dropped, if that needs no closer look. No session may have its key.
    #[inline]
    pub fn refusal(&self, nat: &Nat<u32>, policy: &Policy, now: Now) -> Option<DropReason> {
        let OutsideEndpoint { port, space, .. } = self.endpoint;
        match policy.nat.external(self.external)?.owner(space, port) {
            None => return Some(DropReason::NoMapping),
            Some(holder) if holder != nat.worker => return None,
            Some(_) => {}
        }
        let first = nat
            .mappings
            .find_alone(&nat.sessions, self.hash, self.endpoint);
        let Some(first) = first else {
            return Some(DropReason::NoMapping);
        };
        let pool = policy.nat.pool_of(self.external);
        let admits = pool.is_some_and(|p| p.behaviours(space).filtering != Behaviour::AddressPort);
        let session = nat.session(first)?;
        let lives = !policy
            .timeouts
            .expired(session.state, session.seen(), now.tick);
        let nobody_expected = nat.counts.live[State::Expected as usize] == 0;
        (lives && nobody_expected && !admits).then_some(DropReason::Filtered)
    }
}
