//! The slow path: what becomes of a packet that belongs to no session.
//!
//! ```text
//!   destination   static NAT → port forward → service → mapping of the port → the gateway itself
//!   route         by the new destination: the outgoing interface
//!   filter        the first rule that matches, or the default
//!   source        service → static NAT → exemption (longest prefix) → source NAT (in order, first match)
//!   session       outside port, subscriber's limits, both tuples; or a drop with its reason
//! ```
//!
//! The order is that of PREROUTING, FORWARD and POSTROUTING, so rules mean what they mean on Linux. A refusal changes
//! nothing: no living flow is evicted, moved or overwritten (RFC 6888 REQ-11d).

mod apart;
mod call;
mod destination;
mod enter;
mod expected;
mod service;
mod source;

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId, Random, RealmId, RuleId};
use crate::flow::key::Tuple;
use crate::flow::session::{
    Direction, Egress, FLAG_ALLOWED, FLAG_INBOUND, FLAG_MASQUERADE, FLAG_STATIC, SessionIndex,
    State,
};
use crate::gateway::routes::Hop;
use crate::nat::ahead::Hashes;
use crate::nat::family::Family;
use crate::nat::filter::Verdict;
use crate::nat::filter::conditions::IcmpKind;
use crate::nat::filter::flows::{self, Bound};
use crate::nat::policy::Policy;
use crate::nat::ports::PortSpace;
use crate::nat::rules::Facts;
use crate::nat::state::{Nat, blank_session};
use crate::nat::tcp;
use crate::nat::trace::Trace;
use crate::wire::parse::Transport;
use apart::enter_apart;
use destination::{Destination, destination};
use enter::{Allocation, allocate, inbound};
use expected::met;
use source::{Source, source};

pub use call::{begin_call, inside_call, join_call, leave_call, outside_call, worker_of};
pub use expected::{Caller, Ends, Wanted, expect, expect_pair};
pub use source::is_leased;

/// A packet that no session claimed.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow<A: Copy> {
    /// What rules look at.
    pub facts: Facts<A>,
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
    /// What is known of the hashes its session will be entered under: those of its own side.
    pub hashes: Hashes,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened<A> {
    /// A session exists now; the packet travels forward through it. With the next hop, where that is the one its destination
    /// was routed to.
    Session(SessionIndex, Option<Hop<A>>),
    /// It is for the gateway itself.
    Local(InterfaceId),
}

/// Decides a new flow and, if it is to be forwarded, enters its session. The caller has looked the flow up in vain. `trace`
/// takes down what each stage decides.
///
/// # Errors
/// The reason to drop the packet; nothing is changed then.
// Implements: I11, G11d, U11.
pub fn open<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    flow: &NewFlow<A>,
    now: Now,
    random: &mut Random,
    trace: &mut Trace,
) -> Result<Opened<A>, DropReason> {
    let opened = decide(nat, policy, flow, now, random, trace);
    if policy.logging.sessions()
        && let Ok(Opened::Session(index, _)) = opened
    {
        nat.log_opened(policy, index, now);
    }
    opened
}

/// [`open`] but for the log.
fn decide<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    flow: &NewFlow<A>,
    now: Now,
    random: &mut Random,
    trace: &mut Trace,
) -> Result<Opened<A>, DropReason> {
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
    let (egress, hop) = outgoing(policy, flow, &destination)?;
    trace.egress = Some(egress);
    let verdict = judge(policy, flow, &destination, egress);
    trace.verdict = Some(verdict);
    if !verdict.passes() {
        return Err(DropReason::PolicyFilter);
    }
    service::remember(nat, &destination, now);
    let mut session = blank_session(flow.realm, policy.epoch, now);
    session.far_realm = match destination.realm == flow.realm {
        // A route may lead into another realm; a hairpin is answered where its public address is.
        true => policy.realm_of(egress),
        false => destination.realm,
    };
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
        let index = inbound(nat, policy, session, first, now)?;
        if let Some(expected) = destination.expected {
            met(nat, policy, expected, now);
        }
        return Ok(Opened::Session(index, None));
    }
    if destination.balanced.is_some() {
        service::mark(&mut session, &destination);
    } else if destination.rule.is_some() {
        session.flags |= FLAG_STATIC;
    }
    let source = source(policy, flow, &session.after, egress, &destination)?;
    trace.source = Some(source.step());
    let entered = match source {
        Source::Keep(rule) => {
            if session.rule == RuleId::NONE {
                session.rule = rule.unwrap_or(RuleId::NONE);
            }
            enter_apart(nat, policy, flow, (&mut session, egress), now, random)
        }
        Source::Static { address, rule } => {
            session.after.source = address;
            session.flags |= FLAG_STATIC;
            session.rule = destination.counted(rule);
            enter_apart(nat, policy, flow, (&mut session, egress), now, random)
        }
        Source::Allocate {
            pool,
            rule,
            ports,
            select,
            masquerade,
        } => {
            mid_stream_refused(policy, flow)?;
            session.rule = destination.counted(rule);
            if masquerade {
                session.flags |= FLAG_MASQUERADE;
            }
            let pool = policy.nat.pool(pool).ok_or(DropReason::Internal)?;
            let from = Allocation {
                pool,
                ports,
                select,
                exactly: None,
                hashes: flow.hashes,
            };
            allocate(nat, policy, &mut session, &from, now, random)
        }
    };
    Ok(Opened::Session(entered?, hop))
}

/// The filter's word on a new flow.
fn judge<A: Family>(
    policy: &Policy,
    flow: &NewFlow<A>,
    destination: &Destination<A>,
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
fn unsolicited<A: Family>(policy: &Policy, flow: &NewFlow<A>) -> DropReason {
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
fn local_or<A: Family>(
    policy: &Policy,
    flow: &NewFlow<A>,
    reason: DropReason,
) -> Result<Opened<A>, DropReason> {
    match A::local(&policy.routes, flow.realm, flow.facts.tuple.destination) {
        Some(local) => Ok(Opened::Local(local.interface)),
        // A service's virtual address is nobody's but answers pings if it is to.
        None if A::translation(&policy.nat)
            .services
            .pings(flow.facts.tuple.destination) =>
        {
            Ok(Opened::Local(flow.facts.ingress))
        }
        None => Err(reason),
    }
}

/// A translated TCP flow starts with a SYN: without the state of the connection a new outside port would only be answered
/// by a reset. With pick-up, whatever is no reset may be the first.
// Implements: T11.
fn mid_stream_refused<A: Family>(policy: &Policy, flow: &NewFlow<A>) -> Result<(), DropReason> {
    let opens = match policy.tcp_pickup {
        true => flow.tcp_flags & tcp::RST == 0,
        false => flow.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN,
    };
    if flow.transport == Transport::Tcp && !opens {
        return Err(DropReason::TcpNoSession);
    }
    Ok(())
}

fn first_state<A: Family>(flow: &NewFlow<A>) -> State {
    match flow.transport {
        Transport::Tcp => tcp::opening(flow.tcp_flags),
        Transport::Udp => State::UdpUnreplied,
        Transport::Sctp => State::SctpOpening,
        Transport::IcmpQuery => State::Icmp,
        _ => State::Other,
    }
}

/// The interface the flow leaves through. A hairpin leaves through the interface its public address belongs to. And the next
/// hop, where the session's packets will be routed alike: their destination is kept, and reached by itself.
fn outgoing<A: Family>(
    policy: &Policy,
    flow: &NewFlow<A>,
    destination: &Destination<A>,
) -> Result<(InterfaceId, Option<Hop<A>>), DropReason> {
    if destination.hairpin {
        let home = policy.home_of(flow.realm, destination.address);
        return Ok((home.ok_or(DropReason::NoRoute)?, None));
    }
    let towards = destination.towards();
    let own = |realm| A::local(&policy.routes, realm, towards).is_some();
    if own(destination.realm) {
        return Err(DropReason::OwnService);
    }
    let hash = flow_hash(&flow.facts.tuple);
    let hop = A::route(&policy.routes, destination.realm, towards, hash);
    let hop = hop.ok_or(DropReason::NoRoute)?;
    let there = policy.realm_of(hop.interface);
    if there != destination.realm && own(there) {
        return Err(DropReason::OwnService);
    }
    let kept = towards == { flow.facts.tuple.destination } && destination.realm == flow.realm;
    let alike = kept && destination.balanced.is_none();
    Ok((hop.interface, alike.then_some(hop)))
}

/// A hash for choosing among equal routes; the same for all packets of a flow.
pub fn flow_hash<A: Family>(tuple: &Tuple<A>) -> u32 {
    let mut x = tuple.source.fold() ^ tuple.destination.fold().rotate_left(16);
    x ^= u32::from(tuple.source_port) << 16 | u32::from(tuple.destination_port);
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^ x >> 13
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow keeps its way among equal ones when the gateway is started anew, and takes the same at its neighbour.
    #[test]
    fn the_choice_among_equal_routes_stays_what_it_is() {
        let v4 = Tuple {
            source: 0x0a00_0002u32,
            destination: 0xcb00_7109,
            source_port: 40000,
            destination_port: 53,
        };
        let v6 = Tuple {
            source: 0x2001_0db8_0001_0002_0003_0004_0005_0006u128,
            destination: 0xfd00_0001_0000_0000_0000_0000_0000_0009,
            source_port: 40000,
            destination_port: 53,
        };
        assert_eq!(flow_hash(&v4), 0xb65e_b672);
        assert_eq!(flow_hash(&v6), 0x434e_e9e6);
    }
}
