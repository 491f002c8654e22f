//! Services: which backends they have, and which of them can be reached.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::filter::Numbers;
use super::{Compiler, error_at};
use crate::base::{RealmId, RuleId, Tick};
use crate::config::services::{Backend as Server, Service as Configured};
use crate::gateway::routes::Routes;
use crate::nat::family::Family;
use crate::nat::policy::RuleInfo;
use crate::nat::services::{
    Backend, KIND, Service, ServiceAddress, ServiceKey, ServiceSource, Services,
};

use super::rules::MAX_RULES;

/// What the backends of each service are counted under.
pub(super) type Counted = Vec<Vec<RuleId>>;

impl Compiler<'_> {
    /// Numbers the backends, behind the translation rules.
    pub(super) fn count_backends(&mut self) -> Counted {
        let config = self.config;
        let mut numbers = Numbers::new(self.previous, &self.rules, KIND);
        let mut infos = Vec::new();
        let mut counted = Counted::new();
        for service in &config.services {
            let mut ids = Vec::new();
            for server in &service.backends {
                let name = format!("{} {server}", service.label.name);
                let id = numbers.number(KIND, &name);
                if id.index() == MAX_RULES {
                    let text = format!(
                        "more than {MAX_RULES} rules since the start (restart to count anew)"
                    );
                    let origin = &service.label.origin;
                    self.errors
                        .push(error_at(origin, "service.backends", &text));
                }
                infos.push(RuleInfo {
                    id,
                    kind: KIND,
                    name,
                    text: format!("weight={}", server.weight),
                });
                ids.push(id);
            }
            counted.push(ids);
        }
        self.rules.extend(infos);
        counted
    }

    /// Compiles what services have of one address family.
    pub(super) fn services<A: Family>(&self, counted: &Counted, routes: &Routes) -> Services<A> {
        let config = self.config;
        let before = self.previous.map(|p| &A::translation(&p.nat).services);
        let known: HashMap<&str, u16> = before
            .iter()
            .flat_map(|services| services.iter())
            .map(|service| (service.name.as_str(), service.number))
            .collect();
        let mut next = known.values().max().map_or(0, |highest| highest + 1);
        let mut services = Services::after(before);
        for (service, ids) in config.services.iter().zip(counted) {
            let addresses = service.addresses(&config.interfaces).into_iter();
            let addresses: Vec<A> = addresses.filter_map(A::from_ip).collect();
            if addresses.is_empty() {
                continue;
            }
            let number = known.get(service.label.name.as_str()).copied();
            let number = number.unwrap_or_else(|| {
                next = next.wrapping_add(1);
                next.wrapping_sub(1)
            });
            let servers = service.backends.iter().zip(ids);
            let backends: Vec<Backend<A>> = servers
                .filter_map(|(server, id)| backend(server, *id, routes))
                .collect();
            for address in addresses {
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
        if let Some(before) = before {
            services.succeed(before);
        }
        services
    }

    /// Addresses that backends are to see as source, and who says so.
    pub(super) fn service_sources(&self) -> Vec<(IpAddr, &str)> {
        let services = self.config.services.iter();
        let all = services.flat_map(|service| {
            service.backends.iter().filter_map(|backend| {
                let ServiceSource::Address(address) = backend.source else {
                    return None;
                };
                Some((address, service.label.origin.as_str()))
            })
        });
        all.collect()
    }
}

/// What clients call a service by.
fn keys<A: Family>(service: &Configured, address: A) -> Vec<ServiceKey<A>> {
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

/// A backend, if it is of this family.
fn backend<A: Family>(server: &Server, id: RuleId, routes: &Routes) -> Option<Backend<A>> {
    let address = A::from_ip(server.address)?;
    let mut realms = (0..=u8::MAX).map(RealmId).take(routes.realms());
    Some(Backend {
        id,
        address,
        port: server.port,
        source: match server.source {
            ServiceSource::Auto => ServiceSource::Auto,
            ServiceSource::Keep => ServiceSource::Keep,
            ServiceSource::Address(source) => ServiceSource::Address(A::from_ip(source)?),
        },
        weight: server.weight,
        direct: server.forward_only,
        // Without a route nobody reaches it; a link that comes or goes compiles anew.
        healthy: realms.any(|realm| A::route(routes, realm, address, 0).is_some()),
    })
}
