//! Interfaces, routes, neighbours, and the addresses that are answered for.

use std::net::IpAddr;

use super::{Compiler, PortFacts, error_at};
use crate::base::{InterfaceId, PortId, RealmId};
use crate::config::report::Report;
use crate::config::validated::{self, Validated};
use crate::gateway::interface::{Interface, Interfaces, Urpf, link_local};
use crate::gateway::proxy::Proxy;
use crate::gateway::routes::{Routes, StaticRoute};
use crate::nat::policy::Policy;
use crate::wire::MacAddr;

impl Compiler<'_> {
    fn interface(&self, index: usize) -> Interface {
        let from = &self.config.interfaces[index];
        let facts = self.facts(from.port);
        Interface {
            id: self.ids[index],
            name: from.label.name.clone(),
            port: from.port,
            vlan: from.vlan,
            mac: facts.mac,
            mtu: from.link_mtu(),
            realm: self.realm(from.realm),
            forward: from.forward,
            urpf: match from.urpf {
                validated::Urpf::Off => Urpf::Off,
                validated::Urpf::Strict => Urpf::Strict,
                validated::Urpf::Loose => Urpf::Loose,
            },
            clamp_mss: from.clamp_mss,
            dhcp: from.dhcp,
            up: facts.up,
            v4: from.nets_v4().collect(),
            v6: from.v6.clone(),
            link_local: link_local(facts.mac),
        }
    }

    fn facts(&self, port: PortId) -> PortFacts {
        // A configured address wins over the device's, also where the driver cannot set it.
        let configured = self
            .config
            .ports
            .get(port.index())
            .and_then(|p| p.mac)
            .map(MacAddr);
        let facts = self.ports.get(port.index()).copied();
        PortFacts {
            mac: configured.or(facts.map(|f| f.mac)).unwrap_or(MacAddr([
                2,
                0,
                0,
                0,
                0,
                port.0 as u8,
            ])),
            up: facts.is_none_or(|f| f.up),
        }
    }

    pub(super) fn routes(&mut self) -> Result<(Interfaces, Routes), Report> {
        let interfaces =
            Interfaces::new((0..self.config.interfaces.len()).map(|i| self.interface(i)));
        let mut list = Vec::new();
        let mut origins = Vec::new();
        for route in &self.config.routes {
            let interface = route.interface.map(|id| self.id(id));
            let hops: Vec<Option<IpAddr>> = if route.via.is_empty() {
                vec![None]
            } else {
                route.via.iter().copied().map(Some).collect()
            };
            for via in hops {
                list.push(StaticRoute {
                    realm: self.realm(route.realm),
                    prefix: route.prefix,
                    via,
                    interface,
                });
                origins.push(&route.label);
            }
        }
        for (interface, prefix, via) in self.config.learned_routes() {
            let Some(on) = self.config.interfaces.get(interface.index()) else {
                continue;
            };
            list.push(StaticRoute {
                realm: self.realm(on.realm),
                prefix: prefix.into(),
                via: via.map(IpAddr::V4),
                interface: Some(self.id(interface)),
            });
            origins.push(&on.label);
        }
        match Routes::build(&interfaces, &list) {
            Ok(routes) => Ok((interfaces, routes)),
            Err(errors) => Err(Report {
                diagnostics: errors
                    .iter()
                    .map(|e| error_at(&origins[e.index].origin, "route", &e.reason.to_string()))
                    .collect(),
            }),
        }
    }

    pub(super) fn neighbours(&self) -> Vec<(InterfaceId, IpAddr, MacAddr)> {
        let list = self.config.neighbours.iter();
        list.map(|n| (self.id(n.interface), n.address, MacAddr(n.mac)))
            .collect()
    }

    /// Pool addresses, statically translated ones, forwarded ones and those of services are answered for where they are on link.
    pub(super) fn proxy(&self, interfaces: &Interfaces) -> Proxy {
        let mut ranges: Vec<(IpAddr, IpAddr)> = Vec::new();
        for pool in self.config.pools.iter().filter(|p| p.answer_arp) {
            ranges.extend(pool.addresses.iter().map(|a| (*a, *a)));
        }
        for rule in &self.config.static_nat {
            ranges.push((rule.external.network(), rule.external.broadcast()));
        }
        for rule in &self.config.port_forwards {
            let single = rule
                .dst
                .prefixes
                .iter()
                .filter(|net| net.prefix_len() == net.max_prefix_len());
            ranges.extend(single.map(|net| (net.addr(), net.addr())));
        }
        for service in self.config.services.iter().filter(|s| s.is_virtual) {
            let addresses = service.addresses(&self.config.interfaces).into_iter();
            ranges.extend(addresses.map(|address| (address, address)));
        }
        let own = |a: &IpAddr| {
            let mut addresses = self.config.interfaces.iter().flat_map(|i| i.addresses());
            addresses.any(|own| own == *a)
        };
        let sources = self.service_sources().into_iter().filter(|(a, _)| !own(a));
        ranges.extend(sources.map(|(a, _)| (a, a)));
        // Addresses on no local subnet are routed to us; nobody asks for them.
        Proxy::build(interfaces, &ranges).0
    }
}

/// Interfaces keep their number while they keep their name; new ones take numbers that are free.
pub(super) fn stable_interface_ids(
    config: &Validated,
    previous: Option<&Policy>,
) -> Vec<InterfaceId> {
    let before = |name: &str| {
        previous
            .and_then(|p| p.interfaces.by_name(name))
            .map(|i| i.id)
    };
    let mut taken: Vec<InterfaceId> = config
        .interfaces
        .iter()
        .filter_map(|i| before(&i.label.name))
        .collect();
    // A number that only just became free still means the old interface to sessions and neighbours.
    taken.extend(
        previous
            .iter()
            .flat_map(|p| p.interfaces.iter().map(|i| i.id)),
    );
    let mut next = 0;
    let mut fresh = || {
        while taken.contains(&InterfaceId(next)) {
            next += 1;
        }
        next += 1;
        InterfaceId(next - 1)
    };
    config
        .interfaces
        .iter()
        .map(|i| before(&i.label.name).unwrap_or_else(&mut fresh))
        .collect()
}

/// Realms keep their number while they keep their name; new ones take numbers that are free.
pub(super) fn stable_realm_ids(config: &Validated, previous: Option<&Policy>) -> Vec<RealmId> {
    let before = previous.map_or(&[][..], |p| &p.realms);
    let known = |name: &String| before.iter().position(|known| known == name);
    // A number that only just became free still means the old realm to sessions and hosts.
    let mut next = before.len();
    let mut fresh = || {
        next += 1;
        next - 1
    };
    config
        .realms
        .iter()
        .map(|name| known(name).unwrap_or_else(&mut fresh))
        .map(|id| RealmId(u8::try_from(id).unwrap_or(u8::MAX)))
        .collect()
}
