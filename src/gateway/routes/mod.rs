//! Where packets go: local addresses, connected subnets and static routes, per realm.
//!
//! [`Routes::build`] resolves everything once: a next hop to the interface whose subnet holds it, several routes with one
//! prefix to a group of next hops, and each prefix to its group in an [`Lpm`]. Routes through an interface that is down
//! are left out, so a link that comes or goes means building anew.
//!
//! Within one prefix a connected subnet beats static routes, and the first of several connected ones beats the others.
//! Members of a group share flows by rendezvous hashing: losing a member moves its flows only.

use super::interface::{Interface, Interfaces, broadcasts, is_link_local};
use super::lpm::{Address, Lpm};
use super::mix;
use crate::base::{InterfaceId, RealmId};
use hashbrown::HashMap;
use ipnet::IpNet;
use std::net::IpAddr;

/// A route as configured. Several with the same realm and prefix share the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// The realm it belongs to.
    pub realm: RealmId,
    /// The destinations; host bits are ignored.
    pub prefix: IpNet,
    /// The router to hand packets to. Without `interface` it must lie in a connected subnet; with it, it is taken to be
    /// on that link.
    pub via: Option<IpAddr>,
    /// The interface to leave by. Without `via`, destinations are on link there.
    pub interface: Option<InterfaceId>,
}

/// Why a static route cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct RouteError {
    /// Position in the list given to [`Routes::build`].
    pub index: usize,
    /// What is wrong with it.
    pub reason: RouteErrorReason,
}

/// What is wrong with a static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteErrorReason {
    /// Neither `via` nor `interface`.
    #[error("the route names neither a next hop nor an interface")]
    NoNextHop,
    /// Prefix and next hop are of different address families.
    #[error("the prefix and the next hop are of different address families")]
    FamilyMismatch,
    /// `via` is in no subnet of the realm.
    #[error("the next hop is in no subnet of an interface of this realm")]
    NotConnected,
    /// `via` is link-local, so that any interface could be meant.
    #[error("a link-local next hop needs an interface")]
    LinkLocalNeedsInterface,
    /// `via` is one of the gateway's own addresses.
    #[error("the next hop is one of the gateway's own addresses")]
    OwnAddress,
    /// `via` cannot be a single host.
    #[error("the next hop is not the address of a host")]
    NotAHost,
    /// There is no such interface.
    #[error("there is no such interface")]
    UnknownInterface,
    /// More different next hops, or more routes with one prefix, than fit (65,535).
    #[error("there are too many next hops")]
    TooManyNextHops,
}

/// Whether a packet's destination is itself on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HopKind {
    /// The destination is the next hop.
    Connected,
    /// A router is the next hop.
    Gateway,
}

/// The answer to a route lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop<A> {
    /// The interface to leave by.
    pub interface: InterfaceId,
    /// The address whose neighbour entry carries the packet.
    pub next_hop: A,
    /// On link, or through a router.
    pub kind: HopKind,
}

/// One of the gateway's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The interface that has it, not necessarily the one a packet for it arrived by.
    pub interface: InterfaceId,
}

/// A route as listed to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Its realm.
    pub realm: RealmId,
    /// The destinations, host bits clear.
    pub prefix: IpNet,
    /// The interface it leaves by.
    pub interface: InterfaceId,
    /// The router, if any.
    pub via: Option<IpAddr>,
    /// Position of the static route; `None` for a connected subnet.
    pub configured: Option<usize>,
    /// Whether packets use it: its interface is up and no better route has the same prefix.
    pub active: bool,
}

/// A run of next hops in [`Table::hops`].
#[derive(Clone, Copy, Debug)]
struct Group {
    first: u16,
    count: u16,
}

/// Routes and addresses of one family in one realm.
#[derive(Clone, Debug)]
struct Table<A> {
    lpm: Lpm<A, Group>,
    hops: Vec<Hop<A>>,
    /// The gateway's own addresses, sorted.
    local: Vec<(A, InterfaceId)>,
}

/// Both families of one realm.
#[derive(Clone, Debug)]
struct Realm {
    v4: Table<u32>,
    v6: Table<u128>,
    /// Network and broadcast addresses of connected subnets, sorted.
    broadcasts: Vec<(u32, InterfaceId)>,
}

/// All routes and local addresses of a policy.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    realms: Vec<Realm>,
    entries: Vec<RouteEntry>,
}

impl Routes {
    /// Resolves connected subnets and static routes.
    ///
    /// # Errors
    /// Every static route that cannot be resolved, in order. A route through an interface that is merely down is no
    /// error; it is listed as not active.
    pub fn build(
        interfaces: &Interfaces,
        routes: &[StaticRoute],
    ) -> Result<Routes, Vec<RouteError>> {
        let mut errors = Vec::new();
        let mut entries: Vec<RouteEntry> = interfaces.iter().flat_map(connected).collect();
        for (index, route) in routes.iter().enumerate() {
            match resolve(interfaces, route) {
                Ok(interface) => entries.push(RouteEntry {
                    realm: route.realm,
                    prefix: route.prefix.trunc(),
                    interface: interface.id,
                    via: route.via,
                    configured: Some(index),
                    active: interface.up,
                }),
                Err(reason) => errors.push(RouteError { index, reason }),
            }
        }
        // Stable: connected ones stay first, in order of interface, then static ones in order of the file.
        entries.sort_by_key(|entry| (entry.realm, entry.prefix));
        for same in entries.chunk_by_mut(|a, b| (a.realm, a.prefix) == (b.realm, b.prefix)) {
            elect(same);
        }
        let last = interfaces
            .iter()
            .map(|interface| interface.realm.index())
            .max();
        let mut realms = Vec::new();
        for id in 0..last.map_or(0, |last| last + 1) {
            let of_realm: Vec<&RouteEntry> = entries
                .iter()
                .filter(|entry| entry.active && entry.realm.index() == id)
                .collect();
            let members = interfaces
                .iter()
                .filter(|interface| interface.realm.index() == id);
            realms.push(Realm {
                v4: Table::build(&of_realm, members.clone(), &mut errors),
                v6: Table::build(&of_realm, members.clone(), &mut errors),
                broadcasts: collect_sorted(members, |interface| {
                    interface
                        .v4
                        .iter()
                        .filter_map(|&net| broadcasts(net))
                        .flatten()
                        .collect()
                }),
            });
        }
        if errors.is_empty() {
            Ok(Routes { realms, entries })
        } else {
            errors.sort_by_key(|error| error.index);
            Err(errors)
        }
    }

    /// Number of realms.
    pub fn realms(&self) -> usize {
        self.realms.len()
    }

    /// Where an IPv4 packet to `destination` leaves. `flow_hash` is the same for all packets of a flow.
    #[inline]
    pub fn route_v4(&self, realm: RealmId, destination: u32, flow_hash: u32) -> Option<Hop<u32>> {
        self.realms
            .get(realm.index())?
            .v4
            .route(destination, flow_hash)
    }

    /// Where an IPv6 packet to `destination` leaves. Link-local destinations have no route: they are on the link the
    /// caller means.
    #[inline]
    pub fn route_v6(&self, realm: RealmId, destination: u128, flow_hash: u32) -> Option<Hop<u128>> {
        self.realms
            .get(realm.index())?
            .v6
            .route(destination, flow_hash)
    }

    /// Whether packets to `source` may leave by `interface`, on any path: the strict reverse-path check (RFC 3704 §2.2).
    pub fn reaches_v4(&self, realm: RealmId, source: u32, interface: InterfaceId) -> bool {
        self.realms
            .get(realm.index())
            .is_some_and(|realm| realm.v4.reaches(source, interface))
    }

    /// Like [`reaches_v4`](Self::reaches_v4). A link-local source is always right.
    pub fn reaches_v6(&self, realm: RealmId, source: u128, interface: InterfaceId) -> bool {
        is_link_local(source)
            || self
                .realms
                .get(realm.index())
                .is_some_and(|realm| realm.v6.reaches(source, interface))
    }

    /// Whether `address` is one of the gateway's own in this realm, on whichever interface, up or down.
    #[inline]
    pub fn local_v4(&self, realm: RealmId, address: u32) -> Option<Local> {
        self.realms.get(realm.index())?.v4.local(address)
    }

    /// Like [`local_v4`](Self::local_v4). Link-local addresses are not in here, they belong to a link: ask the receiving
    /// interface ([`Interface::owns_v6`]).
    #[inline]
    pub fn local_v6(&self, realm: RealmId, address: u128) -> Option<Local> {
        self.realms.get(realm.index())?.v6.local(address)
    }

    /// The interface whose subnet has `address` as its network or broadcast address. Packets to it are not forwarded
    /// (RFC 2644) and no error is sent about them.
    pub fn broadcast_v4(&self, realm: RealmId, address: u32) -> Option<InterfaceId> {
        find(&self.realms.get(realm.index())?.broadcasts, address)
    }

    /// Whether `address` is a broadcast on this interface ([`Interface::is_broadcast`]); false if there is no such
    /// interface.
    pub fn is_broadcast(interfaces: &Interfaces, interface: InterfaceId, address: u32) -> bool {
        interfaces
            .get(interface)
            .is_some_and(|interface| interface.is_broadcast(address))
    }

    /// Every route by realm and prefix, also those not active.
    pub fn entries(&self) -> &[RouteEntry] {
        &self.entries
    }
}

/// The routes an interface's addresses bring along.
fn connected(interface: &Interface) -> Vec<RouteEntry> {
    let v4 = interface.v4.iter().map(|&net| IpNet::V4(net));
    let v6 = interface.v6.iter().map(|&net| IpNet::V6(net));
    v4.chain(v6)
        .map(|net| RouteEntry {
            realm: interface.realm,
            prefix: net.trunc(),
            interface: interface.id,
            via: None,
            configured: None,
            active: interface.up,
        })
        .collect()
}

/// Among routes with the same prefix, connected ones first, leaves those active that packets use.
fn elect(same: &mut [RouteEntry]) {
    let best = same
        .iter()
        .position(|entry| entry.active && entry.configured.is_none());
    if let Some(best) = best {
        for (position, entry) in same.iter_mut().enumerate() {
            entry.active = position == best;
        }
    }
}

/// The interface a static route leaves by.
fn resolve<'a>(
    interfaces: &'a Interfaces,
    route: &StaticRoute,
) -> Result<&'a Interface, RouteErrorReason> {
    use RouteErrorReason as No;
    let named = match route.interface {
        None => None,
        Some(id) => match interfaces.get(id) {
            None => return Err(No::UnknownInterface),
            // Of whichever realm: this is how packets get out of theirs.
            found => found,
        },
    };
    let Some(via) = route.via else {
        return named.ok_or(No::NoNextHop);
    };
    if via.is_ipv4() != route.prefix.addr().is_ipv4() {
        return Err(No::FamilyMismatch);
    }
    let (host, link_local) = match via {
        IpAddr::V4(v4) => (super::sanity::source_v4(v4.into()).is_none(), false),
        IpAddr::V6(v6) => (
            super::sanity::source_v6(v6.into(), v6.into()).is_none(),
            is_link_local(v6.into()),
        ),
    };
    if !host {
        return Err(No::NotAHost);
    }
    let of = named.map_or(route.realm, |interface| interface.realm);
    let realm = interfaces.iter().filter(|interface| interface.realm == of);
    let own = |interface: &Interface| interface.owns(via);
    // A link-local address is ours only on the link the route names.
    if if link_local {
        named.is_some_and(own)
    } else {
        realm.clone().any(own)
    } {
        return Err(No::OwnAddress);
    }
    let on = match named {
        Some(interface) => interface,
        None if link_local => return Err(No::LinkLocalNeedsInterface),
        None => realm
            .filter_map(|interface| Some((subnet_length(interface, via)?, interface)))
            // Of equally long subnets the first, as for connected routes; max_by_key would take the last.
            .min_by_key(|&(length, interface)| (std::cmp::Reverse(length), !interface.up))
            .map(|(_, interface)| interface)
            .ok_or(No::NotConnected)?,
    };
    match via {
        IpAddr::V4(v4) if on.is_broadcast(v4.into()) => Err(No::NotAHost),
        _ => Ok(on),
    }
}

/// The length of the longest subnet of `interface` that holds `address`.
fn subnet_length(interface: &Interface, address: IpAddr) -> Option<u8> {
    match address {
        IpAddr::V4(v4) => {
            let holds = interface.v4.iter().filter(|net| net.contains(&v4));
            holds.map(|net| net.prefix_len()).max()
        }
        IpAddr::V6(v6) => {
            let holds = interface.v6.iter().filter(|net| net.contains(&v6));
            holds.map(|net| net.prefix_len()).max()
        }
    }
}

impl<A: Address> Table<A> {
    /// Compiles this family's part of a realm's active routes (sorted by prefix).
    fn build<'a>(
        routes: &[&RouteEntry],
        interfaces: impl Iterator<Item = &'a Interface>,
        errors: &mut Vec<RouteError>,
    ) -> Table<A> {
        let mut hops = Vec::new();
        let mut known: HashMap<Vec<Hop<A>>, Group> = HashMap::new();
        let mut prefixes = Vec::new();
        for same in routes.chunk_by(|a, b| a.prefix == b.prefix) {
            let Some(network) = A::from_ip(same[0].prefix.addr()) else {
                continue;
            };
            let mut members: Vec<Hop<A>> = Vec::new();
            for hop in same.iter().map(|entry| Self::hop(entry)) {
                if !members.contains(&hop) {
                    members.push(hop);
                }
            }
            // Equal groups are stored once: many routes share few routers.
            let group = match known.get(&members) {
                Some(&group) => group,
                None => match (u16::try_from(hops.len()), u16::try_from(members.len())) {
                    (Ok(first), Ok(count)) => {
                        hops.extend_from_slice(&members);
                        known.insert(members, Group { first, count });
                        Group { first, count }
                    }
                    _ => {
                        errors.push(RouteError {
                            index: same[0].configured.unwrap_or(0),
                            reason: RouteErrorReason::TooManyNextHops,
                        });
                        break;
                    }
                },
            };
            prefixes.push((network, same[0].prefix.prefix_len(), group));
        }
        Table {
            lpm: Lpm::build(prefixes.into_iter()),
            hops,
            local: collect_sorted(interfaces, own_addresses),
        }
    }

    /// What is stored of a route. A connected one stores a zero address, the destination takes its place.
    fn hop(entry: &RouteEntry) -> Hop<A> {
        let (next_hop, kind) = match entry.via.and_then(A::from_ip) {
            Some(via) => (via, HopKind::Gateway),
            None => (A::ZERO, HopKind::Connected),
        };
        Hop {
            interface: entry.interface,
            next_hop,
            kind,
        }
    }

    /// The next hops for a destination, never empty.
    #[inline]
    fn group(&self, destination: A) -> Option<&[Hop<A>]> {
        let group = self.lpm.lookup(destination)?;
        let first = usize::from(group.first);
        self.hops.get(first..first + usize::from(group.count))
    }

    #[inline]
    fn route(&self, destination: A, flow_hash: u32) -> Option<Hop<A>> {
        let mut hop = match self.group(destination)? {
            [only] => *only,
            several => *several.iter().max_by_key(|hop| weight(hop, flow_hash))?,
        };
        if hop.kind == HopKind::Connected {
            hop.next_hop = destination;
        }
        Some(hop)
    }

    fn reaches(&self, address: A, interface: InterfaceId) -> bool {
        self.group(address)
            .is_some_and(|hops| hops.iter().any(|hop| hop.interface == interface))
    }

    #[inline]
    fn local(&self, address: A) -> Option<Local> {
        find(&self.local, address).map(|interface| Local { interface })
    }
}

/// How much a flow prefers a next hop: it depends on the two alone, so the other members do not matter.
fn weight<A: Address>(hop: &Hop<A>, flow_hash: u32) -> u64 {
    let member = u64::from(hop.interface.0) << 32 | u64::from(flow_hash);
    mix(super::mapped(hop.next_hop.to_ip()), mix(0, member))
}

/// An interface's own addresses of one family.
fn own_addresses<A: Address>(interface: &Interface) -> Vec<A> {
    let v4 = interface.v4.iter().map(|net| IpAddr::V4(net.addr()));
    let v6 = interface.v6.iter().map(|net| IpAddr::V6(net.addr()));
    v4.chain(v6).filter_map(A::from_ip).collect()
}

/// Addresses with their interface, sorted for [`find`].
fn collect_sorted<'a, A: Ord>(
    interfaces: impl Iterator<Item = &'a Interface>,
    addresses: impl Fn(&Interface) -> Vec<A>,
) -> Vec<(A, InterfaceId)> {
    let mut all: Vec<_> = interfaces
        .flat_map(|interface| {
            addresses(interface)
                .into_iter()
                .map(|address| (address, interface.id))
        })
        .collect();
    all.sort_unstable();
    all
}

/// The first interface with this address.
#[inline]
fn find<A: Address>(sorted: &[(A, InterfaceId)], address: A) -> Option<InterfaceId> {
    let at = sorted.partition_point(|&(have, _)| have < address);
    sorted
        .get(at)
        .filter(|&&(have, _)| have == address)
        .map(|&(_, interface)| interface)
}

#[cfg(test)]
mod tests;
