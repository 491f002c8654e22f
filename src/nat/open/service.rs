//! A new flow to a service: which backend it goes to, and what that sees of its source.

use super::NewFlow;
use super::destination::Destination;
use super::source::{Source, masquerade_pool};
use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId};
use crate::flow::key::Tuple;
use crate::flow::session::Session;
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::services::affinity::Client;
use crate::nat::services::{Backend, Service, ServiceMatch, ServiceSource, note_direct};
use crate::nat::state::Nat;
use crate::wire::parse::Transport;

/// The backend a flow was given.
#[derive(Clone, Copy)]
pub(super) struct Balanced<A> {
    /// What it sees as source.
    source: ServiceSource<A>,
    /// Where packets go that keep their destination: to the backend all the same.
    pub(super) direct: Option<A>,
    /// Whom to remember it for, and for how many ticks.
    affinity: Option<(Client<A>, u32)>,
}

/// The destination half. `None`: a ping of the service's address, for the gateway to answer.
pub(super) fn balance<A: Family>(
    nat: &Nat<A>,
    policy: &Policy,
    flow: &NewFlow<A>,
    found: ServiceMatch,
    now: Now,
) -> Result<Option<Destination<A>>, DropReason> {
    let tuple = &flow.facts.tuple;
    let services = &A::translation(&policy.nat).services;
    let ServiceMatch::Service(index) = found else {
        return if is_ping(flow) && services.pings(tuple.destination) {
            Ok(None)
        } else {
            Err(DropReason::VipUnmatched)
        };
    };
    let service = services.get(index).ok_or(DropReason::Internal)?;
    let client = Client {
        address: tuple.source,
        realm: flow.realm,
        service: service.number,
    };
    let backend = choose(nat, service, &client, flow, now).ok_or(DropReason::NoBackend)?;
    let (address, port) = if backend.direct {
        (tuple.destination, tuple.destination_port)
    } else {
        (
            backend.address,
            backend.port.unwrap_or(tuple.destination_port),
        )
    };
    Ok(Some(Destination {
        address,
        port,
        realm: flow.realm,
        rule: Some(backend.id),
        source: None,
        mapping: None,
        expected: None,
        hairpin: false,
        allowed: false,
        balanced: Some(Balanced {
            source: backend.source,
            direct: backend.direct.then_some(backend.address),
            affinity: (service.affinity > 0).then_some((client, service.affinity)),
        }),
    }))
}

/// The backend the client has, or the one its hash leads to.
fn choose<'a, A: Family>(
    nat: &Nat<A>,
    service: &'a Service<A>,
    client: &Client<A>,
    flow: &NewFlow<A>,
    now: Now,
) -> Option<&'a Backend<A>> {
    if service.affinity > 0
        && let Some(known) = nat.affinity.backend(client, now.tick)
        && let Some(backend) = service.taking(known)
    {
        return Some(backend);
    }
    service.pick(&flow.facts.tuple, flow.facts.protocol)
}

fn is_ping<A: Family>(flow: &NewFlow<A>) -> bool {
    let echo = flow.icmp.is_some_and(|icmp| icmp.kind == A::ECHO.kind);
    flow.transport == Transport::IcmpQuery && echo
}

/// Remembers the client's backend, now that its flow may pass.
pub(super) fn remember<A: Family>(nat: &mut Nat<A>, destination: &Destination<A>, now: Now) {
    let affinity = destination.balanced.and_then(|balanced| balanced.affinity);
    if let (Some((client, timeout)), Some(backend)) = (affinity, destination.rule) {
        nat.affinity.remember(client, backend, timeout, now.tick);
    }
}

/// Tells a session of a service where its packets go, where that is not their destination.
pub(super) fn mark<A: Family>(session: &mut Session<A>, destination: &Destination<A>) {
    let direct = destination.balanced.and_then(|balanced| balanced.direct);
    if let (Some(_), Some(backend)) = (direct, destination.rule) {
        note_direct(session, backend);
    }
}

/// What the service says of the source: `None` leaves it to the rules.
pub(super) fn source<A: Family>(
    policy: &Policy,
    flow: &NewFlow<A>,
    after: &Tuple<A>,
    egress: InterfaceId,
    destination: &Destination<A>,
) -> Result<Option<Source<'static, A>>, DropReason> {
    let (Some(balanced), Some(rule)) = (&destination.balanced, destination.rule) else {
        return Ok(None);
    };
    if balanced.direct.is_some() {
        return Ok(Some(Source::Keep(None)));
    }
    let (pool, masquerade) = match balanced.source {
        ServiceSource::Keep => return Ok(None),
        ServiceSource::Auto if egress != flow.facts.ingress => return Ok(None),
        ServiceSource::Auto => (
            masquerade_pool(policy, flow, egress, after.destination)?,
            true,
        ),
        ServiceSource::Address(address) => {
            let pool = A::translation(&policy.nat)
                .masquerade
                .get(&address)
                .copied();
            (pool.ok_or(DropReason::NoAddress)?, false)
        }
    };
    Ok(Some(Source::Allocate {
        pool,
        rule,
        ports: None,
        select: None,
        masquerade,
    }))
}
