//! The slow path: what becomes of a packet that belongs to no session.
//!
//! ```text
//!   destination   static NAT → port forward → mapping of the port → the gateway itself
//!   route         by the new destination: the outgoing interface
//!   filter        the first rule that matches, or the default
//!   source        static NAT → exemption (longest prefix) → source NAT (in order, first match)
//!   session       outside port, subscriber's limits, both tuples; or a drop with its reason
//! ```
//!
//! The order is that of PREROUTING, FORWARD and POSTROUTING, so rules mean what they mean on Linux. A refusal changes
//! nothing: no living flow is evicted, moved or overwritten (RFC 6888 REQ-11d).

use std::net::IpAddr;

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId, PoolId, Random, RealmId, RuleId};
use crate::flow::key::Tuple;
use crate::flow::session::{
    Direction, Egress, FLAG_ALLOWED, FLAG_INBOUND, FLAG_LOOPED, FLAG_MASQUERADE, FLAG_STATIC,
    Session, SessionIndex, State,
};
use crate::nat::destination::{PolicyDestination, by_policy};
use crate::nat::filter::Verdict;
use crate::nat::filter::conditions::IcmpKind;
use crate::nat::filter::flows::{self, Bound};
use crate::nat::mapping::{InsideEndpoint, Mapping, OutsideEndpoint};
use crate::nat::policy::Policy;
use crate::nat::ports::{Behaviour, Pool, PortRanges, PortSpace, Request, Returned, Select};
use crate::nat::rewrite::deltas;
use crate::nat::rules::{Exemption, Facts, Via};
use crate::nat::state::{EndCause, Nat, NotEntered, blank_session, remote_of};
use crate::nat::subscriber::SubscriberIndex;
use crate::nat::tcp;
use crate::nat::trace::{DestinationStep, SourceStep, Trace};
use crate::wire::ICMP;
use crate::wire::parse::Transport;

/// A packet that no session claimed.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// What rules look at.
    pub facts: Facts,
    /// What kind of packet it is.
    pub transport: Transport,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP type and code.
    pub icmp: Option<IcmpKind>,
    /// Realm of the ingress interface.
    pub realm: RealmId,
    /// It is the second half of a hairpin.
    pub looped: bool,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A session exists now; the packet travels forward through it.
    Session(SessionIndex),
    /// It is for the gateway itself.
    Local(InterfaceId),
}

/// How the destination came out.
struct Destination {
    address: u32,
    port: u16,
    rule: Option<RuleId>,
    source: Option<u32>,
    /// First session of the mapping that an outside host reaches the inside through.
    mapping: Option<SessionIndex>,
    hairpin: bool,
    allowed: bool,
}

impl Destination {
    fn step(&self) -> DestinationStep {
        match (self.rule, self.mapping) {
            (Some(rule), _) => DestinationStep::Translated {
                address: self.address,
                port: self.port,
                rule,
                allowed: self.allowed,
            },
            (None, Some(_)) => DestinationStep::Mapped,
            (None, None) if self.hairpin => DestinationStep::Hairpin,
            (None, None) => DestinationStep::Kept,
        }
    }
}

/// How the source comes out.
enum Source {
    /// By the rule that says so, if one does.
    Keep(Option<RuleId>),
    Static {
        address: u32,
        rule: RuleId,
    },
    Allocate {
        pool: PoolId,
        rule: RuleId,
        ports: Option<PortRanges>,
        select: Option<Select>,
        masquerade: bool,
    },
}

impl Source {
    fn step(&self) -> SourceStep {
        match self {
            Source::Keep(rule) => SourceStep::Kept(*rule),
            Source::Static { rule, .. } => SourceStep::Static(*rule),
            Source::Allocate { pool, rule, .. } => SourceStep::Pool {
                pool: *pool,
                rule: (*rule != RuleId::NONE).then_some(*rule),
            },
        }
    }
}

/// Decides a new flow and, if it is to be forwarded, enters its session. The caller has looked the flow up in vain. `trace`
/// takes down what each stage decides.
///
/// # Errors
/// The reason to drop the packet; nothing is changed then.
pub fn open(
    nat: &mut Nat,
    policy: &Policy,
    flow: &NewFlow,
    now: Now,
    random: &mut Random,
    trace: &mut Trace,
) -> Result<Opened, DropReason> {
    match flow.transport {
        Transport::IcmpReply => return Err(unsolicited(policy, flow)),
        Transport::IcmpOther | Transport::IcmpError => {
            return local_or(policy, flow, DropReason::IcmpType);
        }
        _ => {}
    }
    let destination = match destination(nat, policy, flow, now)? {
        Some(destination) => destination,
        None => return local_or(policy, flow, DropReason::NoMapping),
    };
    trace.destination = Some(destination.step());
    let egress = outgoing(policy, flow, &destination)?;
    trace.egress = Some(egress);
    let verdict = judge(policy, flow, &destination, egress);
    trace.verdict = Some(verdict);
    if !verdict.passes() {
        return Err(DropReason::PolicyFilter);
    }
    let mut session = blank_session(flow.realm, policy.generation, now);
    session.before = flow.facts.tuple;
    session.after = Tuple {
        destination: destination.address,
        destination_port: destination.port,
        ..flow.facts.tuple
    };
    session.protocol = flow.facts.protocol;
    session.ingress = flow.facts.ingress;
    session.state = first_state(flow);
    session.rule = destination.rule.unwrap_or(RuleId::NONE);
    if flow.looped {
        // Its client is the first half's external address: answers go back into the translator.
        session.flags |= FLAG_LOOPED;
        session.egress[Direction::Reverse.index()] = Egress::LOOP;
    }
    if destination.hairpin {
        session.egress[Direction::Forward.index()] = Egress::LOOP;
    }
    if destination.allowed {
        session.flags |= FLAG_ALLOWED;
    }
    if let Some(first) = destination.mapping {
        session.flags |= FLAG_INBOUND;
        return inbound(nat, policy, session, first, now).map(Opened::Session);
    }
    if destination.rule.is_some() {
        session.flags |= FLAG_STATIC;
    }
    let source = source(policy, flow, &session.after, egress, &destination)?;
    trace.source = Some(source.step());
    match source {
        Source::Keep(rule) => {
            if session.rule == RuleId::NONE {
                session.rule = rule.unwrap_or(RuleId::NONE);
            }
            enter(nat, session).map(Opened::Session)
        }
        Source::Static { address, rule } => {
            session.after.source = address;
            session.flags |= FLAG_STATIC;
            session.rule = rule;
            enter(nat, session).map(Opened::Session)
        }
        Source::Allocate {
            pool,
            rule,
            ports,
            select,
            masquerade,
        } => {
            mid_stream_refused(flow)?;
            session.rule = rule;
            if masquerade {
                session.flags |= FLAG_MASQUERADE;
            }
            let pool = policy.nat.pool(pool).ok_or(DropReason::Internal)?;
            let from = Allocation {
                pool,
                ports: ports.as_ref(),
                select,
            };
            allocate(nat, policy, session, &from, now, random).map(Opened::Session)
        }
    }
}

/// The filter's word on a new flow.
fn judge(
    policy: &Policy,
    flow: &NewFlow,
    destination: &Destination,
    egress: InterfaceId,
) -> Verdict {
    let bound = Bound {
        to: Tuple {
            destination: destination.address,
            destination_port: destination.port,
            ..flow.facts.tuple
        },
        egress,
        hairpin: destination.hairpin,
        allowed: destination.allowed,
    };
    flows::opening(policy, flow, &bound)
}

/// A reply to a query nobody asked.
fn unsolicited(policy: &Policy, flow: &NewFlow) -> DropReason {
    let to = flow.facts.tuple;
    match policy
        .nat
        .port_owner(to.destination, PortSpace::Icmp, to.destination_port)
    {
        Some(_) => DropReason::Filtered,
        None => DropReason::IcmpNoSession,
    }
}

/// The gateway's own address, or else a drop.
fn local_or(policy: &Policy, flow: &NewFlow, reason: DropReason) -> Result<Opened, DropReason> {
    match policy
        .routes
        .local_v4(flow.realm, flow.facts.tuple.destination)
    {
        Some(local) => Ok(Opened::Local(local.interface)),
        None => Err(reason),
    }
}

/// The destination half. `None`: an external or own address with nothing behind this port.
fn destination(
    nat: &Nat,
    policy: &Policy,
    flow: &NewFlow,
    now: Now,
) -> Result<Option<Destination>, DropReason> {
    let tuple = flow.facts.tuple;
    let keep = Destination {
        address: tuple.destination,
        port: tuple.destination_port,
        rule: None,
        source: None,
        mapping: None,
        hairpin: false,
        allowed: false,
    };
    match by_policy(policy, flow.realm, &flow.facts, flow.looped) {
        PolicyDestination::Translate {
            address,
            port,
            rule,
            source,
            allowed,
        } => {
            return Ok(Some(Destination {
                address,
                port,
                rule: Some(rule),
                source,
                allowed,
                ..keep
            }));
        }
        PolicyDestination::Hairpin => {
            return Ok(Some(Destination {
                hairpin: true,
                ..keep
            }));
        }
        PolicyDestination::Keep => {}
    }
    let own = policy
        .routes
        .local_v4(flow.realm, tuple.destination)
        .is_some();
    let Some((index, external)) = policy.nat.external_of(tuple.destination) else {
        return Ok((!own).then_some(keep));
    };
    let Some(space) = PortSpace::from_protocol(flow.facts.protocol) else {
        return Ok(None);
    };
    let taken = external.owner(space, tuple.destination_port).is_some();
    if !taken || policy.nat.quarantined.contains(&tuple.destination) {
        return Ok(None);
    }
    if !flow.looped && policy.is_inside(flow.facts.ingress, tuple.source) {
        return Ok(Some(Destination {
            hairpin: true,
            ..keep
        }));
    }
    let endpoint = OutsideEndpoint {
        address: tuple.destination,
        port: tuple.destination_port,
        space,
    };
    let Some(first) = nat.mappings.find_outside(&nat.sessions, endpoint) else {
        // The port rests after use (RFC 6888 REQ-8), or belongs to a worker that is about to let it go.
        return Ok(None);
    };
    let lives = |s: &Session<u32>| !policy.timeouts.expired(s.state, s.seen(), now.tick);
    if !nat.mappings.any(&nat.sessions, first, lives) {
        return Ok(None);
    }
    let filtering = policy
        .nat
        .pool_of(index)
        .map(|pool| pool.policy().filtering);
    let admitted = match filtering {
        Some(Behaviour::Endpoint) => true,
        Some(Behaviour::Address) => nat.contacts.knows(endpoint, tuple.source),
        Some(Behaviour::AddressPort) | None => false,
    };
    if !admitted {
        return Err(DropReason::Filtered);
    }
    let mapping = nat.session(first).and_then(Mapping::of);
    let inside = mapping.ok_or(DropReason::Internal)?.inside;
    Ok(Some(Destination {
        address: inside.address,
        port: inside.port,
        mapping: Some(first),
        ..keep
    }))
}

/// The interface the flow leaves through. A hairpin leaves through the interface its public address belongs to.
fn outgoing(
    policy: &Policy,
    flow: &NewFlow,
    destination: &Destination,
) -> Result<InterfaceId, DropReason> {
    if destination.hairpin {
        return policy
            .home_of(flow.realm, destination.address)
            .ok_or(DropReason::NoRoute);
    }
    if policy
        .routes
        .local_v4(flow.realm, destination.address)
        .is_some()
    {
        return Err(DropReason::OwnService);
    }
    policy
        .routes
        .route_v4(
            flow.realm,
            destination.address,
            flow_hash(&flow.facts.tuple),
        )
        .map(|hop| hop.interface)
        .ok_or(DropReason::NoRoute)
}

/// A hash for choosing among equal routes; the same for all packets of a flow.
pub fn flow_hash(tuple: &Tuple<u32>) -> u32 {
    let mut x = tuple.source ^ tuple.destination.rotate_left(16);
    x ^= u32::from(tuple.source_port) << 16 | u32::from(tuple.destination_port);
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^ x >> 13
}

/// The source half. `after` has the translated destination already.
fn source(
    policy: &Policy,
    flow: &NewFlow,
    after: &Tuple<u32>,
    egress: InterfaceId,
    destination: &Destination,
) -> Result<Source, DropReason> {
    if let Some(address) = destination.source {
        let pool = policy
            .nat
            .masquerade
            .get(&address)
            .copied()
            .ok_or(DropReason::NoAddress)?;
        let rule = destination.rule.unwrap_or(RuleId::NONE);
        return Ok(Source::Allocate {
            pool,
            rule,
            ports: None,
            select: None,
            masquerade: true,
        });
    }
    // The packet was source-translated in the first half of its hairpin.
    if flow.looped {
        return Ok(Source::Keep(None));
    }
    let facts = Facts {
        tuple: *after,
        ..flow.facts
    };
    for rule in policy.nat.statics.iter().filter(|r| r.outbound) {
        let leaves_there = rule.interface.is_none_or(|i| i == egress);
        if let Some(address) = rule.to_external(after.source).filter(|_| leaves_there) {
            return Ok(Source::Static {
                address,
                rule: rule.id,
            });
        }
    }
    let exempt = exemption(policy, &facts).filter(|_| !destination.hairpin);
    if exempt.is_some() {
        return Ok(Source::Keep(exempt));
    }
    for rule in &policy.nat.source {
        if !rule.conditions.match_flow(&facts, Some(egress)) {
            continue;
        }
        let (pool, masquerade) = match rule.via {
            Via::Nothing if destination.hairpin => continue,
            Via::Nothing => return Ok(Source::Keep(Some(rule.id))),
            Via::Pool(pool) => (pool, false),
            Via::Interface => (
                masquerade_pool(policy, flow, egress, after.destination)?,
                true,
            ),
        };
        // Without a protocol of its own a port range does not bind query ids (E6).
        let binding = facts.protocol != ICMP || rule.binds_ids;
        let ports = rule.ports.clone().filter(|_| binding);
        return Ok(Source::Allocate {
            pool,
            rule: rule.id,
            ports,
            select: rule.select,
            masquerade,
        });
    }
    if destination.hairpin {
        // No rule: the gateway still has to stand between the two, or the answer would bypass it.
        let pool = policy.nat.masquerade.get(&destination.address).copied();
        let pool = pool.map_or_else(
            || masquerade_pool(policy, flow, egress, after.destination),
            Ok,
        )?;
        return Ok(Source::Allocate {
            pool,
            rule: RuleId::NONE,
            ports: None,
            select: None,
            masquerade: true,
        });
    }
    Ok(Source::Keep(None))
}

/// The rule whose prefix is the longest that matches, if it says "leave alone".
fn exemption(policy: &Policy, facts: &Facts) -> Option<RuleId> {
    policy
        .nat
        .exempt
        .iter()
        .filter(|e| e.ingress.contains(facts.ingress) && e.source.contains(facts.tuple.source))
        .filter_map(|e| {
            let (exemption, length) = e.destinations.lookup_prefix(facts.tuple.destination)?;
            Some((e.id, exemption, length))
        })
        .max_by_key(|(_, _, length)| *length)
        .filter(|(_, exemption, _)| *exemption == Exemption::Leave)
        .map(|(rule, ..)| rule)
}

/// The unnamed pool that stands for the outgoing interface's address. Never another interface's (E13).
fn masquerade_pool(
    policy: &Policy,
    flow: &NewFlow,
    egress: InterfaceId,
    towards: u32,
) -> Result<PoolId, DropReason> {
    let next_hop = policy
        .routes
        .route_v4(flow.realm, towards, flow_hash(&flow.facts.tuple))
        .filter(|hop| hop.interface == egress)
        .map_or(towards, |hop| hop.next_hop);
    let address = policy
        .interfaces
        .get(egress)
        .and_then(|i| i.source_v4(next_hop))
        .ok_or(DropReason::NoAddress)?;
    policy
        .nat
        .masquerade
        .get(&address)
        .copied()
        .ok_or(DropReason::NoAddress)
}

/// A translated TCP flow starts with a SYN: without the state of the connection a new outside port would only be answered
/// by a reset.
fn mid_stream_refused(flow: &NewFlow) -> Result<(), DropReason> {
    let opens = flow.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
    if flow.transport == Transport::Tcp && !opens {
        return Err(DropReason::TcpNoSession);
    }
    Ok(())
}

fn first_state(flow: &NewFlow) -> State {
    match flow.transport {
        Transport::Tcp => tcp::opening(flow.tcp_flags),
        Transport::Udp => State::UdpUnreplied,
        Transport::IcmpQuery => State::Icmp,
        _ => State::Other,
    }
}

/// Enters a session whose tuples are complete.
fn enter(nat: &mut Nat, mut session: Session<u32>) -> Result<SessionIndex, DropReason> {
    let (addresses, transport) = deltas(&session.before, &session.after, session.protocol);
    session.address_delta = addresses.raw();
    session.transport_delta = transport.raw();
    let portless = PortSpace::from_protocol(session.protocol).is_none();
    nat.insert(session).map_err(|refusal| match refusal {
        NotEntered::Full => DropReason::TableFull,
        NotEntered::Taken if portless => DropReason::NoPortConflict,
        NotEntered::Taken => DropReason::MappingConflict,
    })
}

/// Enters the session of an outside host that a mapping admits.
fn inbound(
    nat: &mut Nat,
    policy: &Policy,
    mut session: Session<u32>,
    first: SessionIndex,
    now: Now,
) -> Result<SessionIndex, DropReason> {
    let subscriber = charge(nat, policy, &session, now)?;
    session.subscriber = subscriber.0;
    let entered = enter(nat, session);
    match entered {
        Ok(index) => join(nat, policy, first, index),
        Err(_) => nat.discharge(&session),
    }
    entered
}

/// Counts one more session on its subscriber, within the limits.
fn charge(
    nat: &mut Nat,
    policy: &Policy,
    session: &Session<u32>,
    now: Now,
) -> Result<SubscriberIndex, DropReason> {
    let (address, opens) = if session.flags & FLAG_INBOUND == 0 {
        (session.before.source, Some(session.state.is_half_open()))
    } else {
        (session.after.destination, None)
    };
    let subscriber = nat.subscribers.enter(address.into(), session.realm)?;
    let limits = &policy.limits;
    match nat.subscribers.open_session(subscriber, opens, limits, now) {
        Ok(()) => Ok(subscriber),
        Err(reason) => {
            nat.subscribers.leave(subscriber);
            Err(reason)
        }
    }
}

/// What a rule allocates from.
struct Allocation<'a> {
    pool: &'a Pool,
    ports: Option<&'a PortRanges>,
    select: Option<Select>,
}

/// Gives the flow an outside endpoint and enters its session.
fn allocate(
    nat: &mut Nat,
    policy: &Policy,
    mut session: Session<u32>,
    from: &Allocation<'_>,
    now: Now,
    random: &mut Random,
) -> Result<SessionIndex, DropReason> {
    let subscriber = charge(nat, policy, &session, now)?;
    session.subscriber = subscriber.0;
    let entered = match PortSpace::from_protocol(session.protocol) {
        Some(space) => with_port(nat, policy, session, from, space, now, random),
        None => match nat
            .allocator
            .address(&nat.subscribers, from.pool, subscriber)
        {
            Some(IpAddr::V4(address)) => {
                session.after.source = u32::from(address);
                enter(nat, session)
            }
            _ => Err(DropReason::NoAddress),
        },
    };
    if entered.is_err() {
        nat.discharge(&session);
    }
    entered
}

/// The outside port: that of the endpoint's mapping (RFC 4787 REQ-1), or a new one.
fn with_port(
    nat: &mut Nat,
    policy: &Policy,
    mut session: Session<u32>,
    from: &Allocation<'_>,
    space: PortSpace,
    now: Now,
    random: &mut Random,
) -> Result<SessionIndex, DropReason> {
    let inside = InsideEndpoint {
        address: session.before.source,
        port: session.before.source_port,
        space,
        realm: session.realm,
    };
    let eligible = |address| {
        let external = policy.nat.external_of(address);
        external.is_some_and(|(index, _)| from.pool.holds(index))
    };
    let known = nat.mappings.find_inside(&nat.sessions, inside, eligible);
    let Some(first) = known else {
        return with_new_port(nat, policy, session, from, inside, now, random);
    };
    let mapping = nat.session(first).and_then(Mapping::of);
    let outside = mapping.ok_or(DropReason::Internal)?.outside;
    (session.after.source, session.after.source_port) = (outside.address, outside.port);
    let index = enter(nat, session)?;
    join(nat, policy, first, index);
    Ok(index)
}

/// Leases an outside port for the first session of a new mapping.
fn with_new_port(
    nat: &mut Nat,
    policy: &Policy,
    mut session: Session<u32>,
    from: &Allocation<'_>,
    inside: InsideEndpoint<u32>,
    now: Now,
    random: &mut Random,
) -> Result<SessionIndex, DropReason> {
    let externals = &policy.nat.externals;
    let subscriber = SubscriberIndex(session.subscriber);
    let request = Request {
        pool: from.pool,
        ports: from.ports,
        select: from.select,
        subscriber,
        inside_port: inside.port,
        space: inside.space,
        now: now.tick,
    };
    let lease = nat
        .allocator
        .allocate(externals, &mut nat.subscribers, &request, random)?;
    (session.after.source, session.after.source_port) = (lease.v4(), lease.port);
    let entered = enter(nat, session).and_then(|index| {
        let begun = nat.mappings.begin(&mut nat.sessions, index);
        begun.map(|()| index).map_err(|_| {
            nat.undo(index);
            DropReason::TableFull
        })
    });
    match entered {
        Ok(index) => {
            nat.counts.mappings_created += 1;
            remember(nat, policy, index);
        }
        Err(_) => {
            let returned = Returned {
                subscriber,
                external: lease.external,
                space: inside.space,
                port: lease.port,
                hold: 0,
            };
            nat.allocator
                .release(externals, &mut nat.subscribers, &returned, now.tick);
        }
    }
    entered
}

/// Adds a session to the mapping that begins with `first`.
fn join(nat: &mut Nat, policy: &Policy, first: SessionIndex, index: SessionIndex) {
    nat.mappings.join(&mut nat.sessions, first, index);
    remember(nat, policy, index);
}

/// Notes the remote host among those the session's mapping talks to, where filtering asks for it.
fn remember(nat: &mut Nat, policy: &Policy, index: SessionIndex) {
    if !policy.tracks_contacts {
        return;
    }
    let Some(session) = nat.sessions.get(index.0) else {
        return;
    };
    let Some(mapping) = Mapping::of(session) else {
        return;
    };
    let external = policy.nat.external_of(mapping.outside.address);
    let pool = external.and_then(|(index, _)| policy.nat.pool_of(index));
    if pool.is_some_and(|pool| pool.policy().filtering == Behaviour::Address) {
        nat.contacts.remember(mapping.outside, remote_of(session));
    }
}

/// Whether a session made under an older policy may go on under `policy`. A session keeps its treatment until it ends
/// (E15); it ends early only when its outside address is gone or under quarantine, or when it masquerades and the address or the route it
/// was made for changed (E11, E13b).
pub fn still_valid(policy: &Policy, session: &Session<u32>) -> bool {
    let quarantined = &policy.nat.quarantined;
    if !quarantined.is_empty()
        && Mapping::of(session).is_some_and(|m| quarantined.contains(&m.outside.address))
    {
        return false;
    }
    if session.before.source == session.after.source || session.flags & FLAG_STATIC != 0 {
        return true;
    }
    let source = session.after.source;
    if policy.nat.external_of(source).is_none() {
        return false;
    }
    if session.flags & FLAG_MASQUERADE == 0 || session.egress[0] == Egress::LOOP {
        return true;
    }
    let hop = policy.routes.route_v4(
        session.realm,
        session.after.destination,
        flow_hash(&session.before),
    );
    let owner = policy.routes.local_v4(session.realm, source);
    match (hop, owner) {
        (Some(hop), Some(owner)) => {
            hop.interface == owner.interface
                && policy.interfaces.get(owner.interface).is_some_and(|i| i.up)
        }
        _ => false,
    }
}

/// Ends a session whose policy is gone, or stamps it as valid under the new one. Returns whether it lives.
pub fn revalidate(nat: &mut Nat, policy: &Policy, index: SessionIndex, now: Now) -> bool {
    let Some(session) = nat.sessions.get(index.0) else {
        return false;
    };
    if !still_valid(policy, session) {
        nat.end(policy, index, EndCause::ConfigChanged, now);
        return false;
    }
    if let Some(session) = nat.sessions.get_mut(index.0) {
        session.generation = policy.generation;
        for egress in &mut session.egress {
            if *egress != Egress::LOOP {
                *egress = Egress::UNKNOWN;
            }
        }
        flows::bar_answers(policy, session, None);
    }
    true
}
