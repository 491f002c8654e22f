//! Services: which backends they have, and which of them can be reached.

use std::net::{IpAddr, Ipv4Addr};

use hashbrown::HashMap;

use super::filter::Numbers;
use super::{Compiler, error_at};
use crate::base::{RealmId, RuleId, Tick};
use crate::config::services::{Backend as Server, Service as Configured};
use crate::gateway::routes::Routes;
use crate::nat::policy::RuleInfo;
use crate::nat::services::{
    Backend, KIND, Service, ServiceAddress, ServiceKey, ServiceSource, Services,
};

use super::rules::MAX_RULES;

impl Compiler<'_> {
    /// Compiles the services. Backends are counted behind the translation rules.
    pub(super) fn services(&mut self, routes: &Routes) -> Services<u32> {
        let config = self.config;
        let previous = self.previous;
        let before = previous.map(|p| &p.nat.v4.services);
        let known: HashMap<&str, u16> = before
            .iter()
            .flat_map(|services| services.iter())
            .map(|service| (service.name.as_str(), service.number))
            .collect();
        let mut next = known.values().max().map_or(0, |highest| highest + 1);
        let mut numbers = Numbers::new(previous, &self.rules, KIND);
        let mut services = Services::after(before);
        let mut infos = Vec::new();
        for service in &config.services {
            let number = known.get(service.label.name.as_str()).copied();
            let number = number.unwrap_or_else(|| {
                next = next.wrapping_add(1);
                next.wrapping_sub(1)
            });
            let backends: Vec<Backend<u32>> = service
                .backends
                .iter()
                .filter_map(|server| {
                    let name = format!("{} {server}", service.label.name);
                    let id = numbers.number(KIND, &name);
                    if id.index() == MAX_RULES {
                        let text = format!(
                            "more than {MAX_RULES} rules since the start (restart to count anew)"
                        );
                        self.errors.push(error_at(
                            &service.label.origin,
                            "service.backends",
                            &text,
                        ));
                    }
                    infos.push(RuleInfo {
                        id,
                        kind: KIND,
                        name,
                        text: format!("weight={}", server.weight),
                    });
                    backend(server, id, routes, config.realms.len())
                })
                .collect();
            for address in service.addresses(&config.interfaces) {
                let IpAddr::V4(address) = address else {
                    continue;
                };
                let address = u32::from(address);
                let name = service.label.name.clone();
                let mut compiled = Service::new(name, number, backends.clone());
                compiled.fields = service.fields;
                compiled.balance = service.balance;
                compiled.affinity = service.affinity.map_or(0, Tick::span);
                compiled.empty = service.empty;
                compiled.drain = service.drain;
                let at = ServiceAddress {
                    unmatched: service.is_virtual.then_some(service.unmatched),
                    ping: service.ping,
                };
                let keys = keys(service, address);
                services.add(compiled, (address, at), &keys);
            }
        }
        self.rules.extend(infos);
        if let Some(before) = before {
            services.succeed(before);
        }
        services
    }

    /// Addresses that backends are to see as source, and who says so.
    pub(super) fn service_sources(&self) -> Vec<(Ipv4Addr, &str)> {
        let services = self.config.services.iter();
        let all = services.flat_map(|service| {
            service.backends.iter().filter_map(|backend| {
                let ServiceSource::Address(IpAddr::V4(address)) = backend.source else {
                    return None;
                };
                Some((address, service.label.origin.as_str()))
            })
        });
        all.collect()
    }
}

/// What clients call a service by.
fn keys(service: &Configured, address: u32) -> Vec<ServiceKey<u32>> {
    let key = |protocol| ServiceKey {
        address,
        protocol,
        port: service.port,
    };
    if service.proto.is_any() {
        return vec![key(None)];
    }
    service.proto.iter().map(|p| key(Some(p))).collect()
}

fn backend(server: &Server, id: RuleId, routes: &Routes, realms: usize) -> Option<Backend<u32>> {
    let IpAddr::V4(address) = server.address else {
        return None;
    };
    let address = u32::from(address);
    let mut realms = (0..realms.max(1)).map(|realm| RealmId(realm as u8));
    Some(Backend {
        id,
        address,
        port: server.port,
        source: match server.source {
            ServiceSource::Auto => ServiceSource::Auto,
            ServiceSource::Keep => ServiceSource::Keep,
            ServiceSource::Address(IpAddr::V4(address)) => {
                ServiceSource::Address(u32::from(address))
            }
            ServiceSource::Address(IpAddr::V6(_)) => return None,
        },
        weight: server.weight,
        direct: server.forward_only,
        // Without a route nobody reaches it; a link that comes or goes compiles anew.
        healthy: realms.any(|realm| routes.route_v4(realm, address, 0).is_some()),
    })
}
