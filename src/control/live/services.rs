//! The listing of services: a line for each backend.

use std::collections::HashMap;

use super::ask::{Stalled, WorkerHandle};
use super::counts::snapshots;
use super::{Live, lock};
use crate::base::RuleId;
use crate::config::validated::{self, Validated};
use crate::control::api::ServiceBackend;
use crate::dataplane::accounts::RuleCount;
use crate::dataplane::worker::JobContext;
use crate::flow::session::State;
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::services::{Balance, KIND, ServiceSource, Services};
use std::net::IpAddr;
use std::ops::Range;

impl Live {
    /// The services with their counts since start or since the counters were cleared, and with their living sessions.
    pub(super) fn service_views(&self) -> (Vec<ServiceBackend>, Vec<u8>) {
        let (snapshots, mut stalled) = snapshots(&self.workers);
        let counts = lock(&self.baseline).rules(&snapshots);
        let loaded = lock(&self.running).loaded.clone();
        let mut views = backends(&loaded.validated, &self.published.load(), &counts);
        let (sessions, silent) = sessions(&self.workers);
        stalled.extend(silent);
        stalled.dedup();
        for (view, id) in &mut views {
            view.sessions = sessions.get(id).copied();
        }
        (views.into_iter().map(|(view, _)| view).collect(), stalled)
    }
}

/// A line for each backend, in the order of the configuration, and what it is counted under.
pub fn backends(
    config: &Validated,
    policy: &Policy,
    counts: &[RuleCount],
) -> Vec<(ServiceBackend, RuleId)> {
    let known = policy.rules.iter().filter(|info| info.kind == KIND);
    let known: HashMap<&str, RuleId> = known.map(|info| (info.name.as_str(), info.id)).collect();
    let nat = &policy.nat;
    let mut healthy: HashMap<RuleId, bool> = healthy_of(&nat.v4.services).collect();
    healthy.extend(healthy_of(&nat.v6.services));
    let mut lines = Vec::new();
    for service in &config.services {
        let head = head(service, config);
        if service.backends.is_empty() {
            lines.push((head.clone(), RuleId::NONE));
        }
        for server in &service.backends {
            let name = format!("{} {server}", service.label.name);
            let id = known.get(name.as_str()).copied().unwrap_or(RuleId::NONE);
            let count = counts.get(id.index()).copied().unwrap_or_default();
            let state = match healthy.get(&id) {
                _ if server.weight == 0 => "drained",
                Some(true) => "active",
                _ => "down",
            };
            let line = ServiceBackend {
                backend: server.to_string(),
                source: source(server.source, server.forward_only),
                weight: server.weight,
                state: state.to_owned(),
                hits: count.hits,
                packets: count.packets,
                bytes: count.bytes,
                ..head.clone()
            };
            lines.push((line, id));
        }
    }
    lines
}

fn healthy_of<A: Family>(services: &Services<A>) -> impl Iterator<Item = (RuleId, bool)> {
    let backends = services.iter().flat_map(|service| &service.backends);
    backends.map(|backend| (backend.id, backend.healthy))
}

fn head(service: &validated::Service, config: &Validated) -> ServiceBackend {
    let addresses = service.addresses(&config.interfaces);
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    ServiceBackend {
        service: service.label.name.clone(),
        address: addresses.join(","),
        proto: service.proto.to_string(),
        port: service.port,
        lb: match service.balance {
            Balance::Hash => "hash".to_owned(),
            Balance::Maglev(size) => format!("maglev:{size}"),
        },
        hash: service.fields.names().join(","),
        ..ServiceBackend::default()
    }
}

fn source(source: ServiceSource<IpAddr>, direct: bool) -> String {
    match source {
        _ if direct => "direct".to_owned(),
        ServiceSource::Auto => "auto".to_owned(),
        ServiceSource::Keep => "keep".to_owned(),
        ServiceSource::Address(address) => address.to_string(),
    }
}

/// Living sessions by backend.
fn sessions(workers: &[WorkerHandle]) -> (HashMap<RuleId, u64>, Vec<u8>) {
    let (mut sessions, mut stalled) = (HashMap::new(), Vec::new());
    for worker in workers {
        let walked = count::<u32>(worker, &mut sessions);
        let walked = walked.and_then(|()| count::<u128>(worker, &mut sessions));
        if walked.is_err() {
            stalled.push(worker.worker);
        }
    }
    (sessions, stalled)
}

/// Counts one worker's sessions of one family.
fn count<A: Family>(
    worker: &WorkerHandle,
    sessions: &mut HashMap<RuleId, u64>,
) -> Result<(), Stalled> {
    let visitor = || {
        |context: &mut JobContext<'_>, slots: Range<u32>, rows: &mut Vec<RuleId>| {
            let nat = A::nat(context.nat, context.nat_v6);
            let live = |slot: &u32| {
                let session = nat.sessions.get(*slot);
                session.filter(|session| session.state != State::Free)
            };
            let counted = slots.filter_map(|slot| live(&slot)).filter_map(|session| {
                let (rule, _) = context.accounts.rules(session.rule);
                let info = context.policy.rule(rule)?;
                (info.kind == KIND).then_some(rule)
            });
            rows.extend(counted);
            0
        }
    };
    worker.walk(
        |context| A::nat(context.nat, context.nat_v6).sessions.high_water(),
        visitor,
        |part| {
            for rule in part.rows {
                *sessions.entry(rule).or_default() += 1;
            }
            true
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_a_line_and_so_has_a_service_without() {
        let text = r#"
schema = 1
port = [{ name = "a", device = "null:" }]
interface = [{ name = "lan", port = "a", address = ["10.0.0.1/24"] }]
[[service]]
name = "web"
address = "198.18.0.2"
port = 80
lb = "maglev"
hash = ["src", "sport"]
backends = [
  { to = "10.0.0.2:8080", weight = 3 },
  { to = "10.0.0.3", weight = 0, source = "10.0.0.1" },
  { to = "192.0.2.9", forward_only = true },
]
[[service]]
name = "later"
address = "interface:lan"
kind = "real"
proto = ["tcp", "udp"]
port = 53
"#;
        let loaded = crate::config::parse_str("test", text).unwrap();
        let policy = crate::control::runtime::preview(&loaded.validated).unwrap();
        let counts = vec![
            RuleCount {
                hits: 1,
                packets: 10,
                bytes: 420
            };
            1
        ];
        let lines = backends(&loaded.validated, &policy, &counts);
        let brief: Vec<_> = lines
            .iter()
            .map(|(l, _)| {
                (
                    l.backend.as_str(),
                    l.source.as_str(),
                    l.state.as_str(),
                    l.hits,
                )
            })
            .collect();
        assert_eq!(
            brief,
            [
                ("10.0.0.2:8080", "auto", "active", 1),
                ("10.0.0.3", "10.0.0.1", "drained", 0),
                ("192.0.2.9", "direct", "down", 0),
                ("", "", "", 0),
            ]
        );
        let (web, later) = (&lines[0].0, &lines[3].0);
        assert_eq!(
            (web.lb.as_str(), web.hash.as_str()),
            ("maglev:65537", "src,sport")
        );
        assert_eq!((web.address.as_str(), web.port), ("198.18.0.2", Some(80)));
        assert_eq!(later.proto, "tcp,udp");
    }
}
