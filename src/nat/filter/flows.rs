//! Flows before the filter: the packet that opens one, its answers, and ICMP errors about it.

use super::Verdict;
use super::conditions::{Crossing, IcmpKind, States};
use crate::base::InterfaceId;
use crate::flow::key::Tuple;
use crate::flow::session::{Direction, Egress, FLAG_ALLOWED, Session};
use crate::nat::destination::{PolicyDestination, by_policy};
use crate::nat::family::Family;
use crate::nat::open::{NewFlow, flow_hash};
use crate::nat::policy::Policy;
use crate::nat::rules::Facts;
use crate::nat::tcp;
use crate::wire::parse::Transport;
use crate::wire::{ICMPV6, SCTP, TCP, UDP};

/// Where a new flow is going, as the filter is told.
#[derive(Clone, Copy, Debug)]
pub struct Bound<A: Copy> {
    /// Its endpoints, the destination translated.
    pub to: Tuple<A>,
    /// The interface it leaves by; for a hairpin the one its public address belongs to.
    pub egress: InterfaceId,
    /// It goes out and comes back: its destination is translated on the way back in.
    pub hairpin: bool,
    /// A port forward with `allow` made it.
    pub allowed: bool,
}

/// Judges the packet that opens a flow.
///
/// A hairpin is judged once, when it comes in, and as what it will be: by the target its second half leads to, where
/// a port forward or static NAT says which. Only if the public address leads to another subscriber's mapping is it judged
/// by that address.
pub fn opening<A: Family>(policy: &Policy, flow: &NewFlow<A>, bound: &Bound<A>) -> Verdict {
    if !policy.filter.is_active() || flow.looped || bound.allowed {
        return Verdict::PASS;
    }
    let sent = flow.facts.tuple;
    let mut bound = *bound;
    if bound.hairpin {
        match second_half(policy, flow, &bound) {
            Some(onward) if onward.allowed => return Verdict::PASS,
            Some(onward) => bound = onward,
            None => {}
        }
    }
    let translated = (bound.to.destination, bound.to.destination_port)
        != (sent.destination, sent.destination_port);
    let first = if may_open(flow) {
        States::NEW
    } else {
        States::INVALID
    };
    let crossing = Crossing {
        ingress: flow.facts.ingress,
        egress: bound.egress,
        tuple: bound.to,
        original: (sent.destination, sent.destination_port),
        protocol: flow.facts.protocol,
        has_ports: has_ports(flow.facts.protocol),
        icmp: flow.icmp,
        states: first | when(translated, States::DNAT),
    };
    A::judge(&policy.filter, &crossing)
}

/// Where a hairpin's second half leads.
fn second_half<A: Family>(
    policy: &Policy,
    flow: &NewFlow<A>,
    bound: &Bound<A>,
) -> Option<Bound<A>> {
    let facts = Facts {
        ingress: bound.egress,
        ..flow.facts
    };
    match by_policy(policy, &facts, true) {
        PolicyDestination::Translate {
            address,
            port,
            realm,
            allowed,
            ..
        } => {
            let to = Tuple {
                destination: address,
                destination_port: port,
                ..bound.to
            };
            let hop = A::route(&policy.routes, realm, address, flow_hash(&to));
            Some(Bound {
                to,
                egress: hop.map_or(bound.egress, |hop| hop.interface),
                hairpin: false,
                allowed,
            })
        }
        PolicyDestination::Keep | PolicyDestination::Service(_) | PolicyDestination::Hairpin => {
            None
        }
    }
}

/// Whether a packet can be the first of a flow. In TCP a SYN can, and a plain ACK from the middle of a connection whose
/// beginning the gateway has not seen; answers, resets and ends cannot.
fn may_open<A: Family>(flow: &NewFlow<A>) -> bool {
    flow.transport != Transport::Tcp || opens_tcp(flow.tcp_flags)
}

/// Whether a TCP segment with these flags can be the first that is seen of a connection.
pub fn opens_tcp(flags: u8) -> bool {
    flags & (tcp::RST | tcp::FIN) == 0 && flags & (tcp::SYN | tcp::ACK) != tcp::SYN | tcp::ACK
}

/// Judges the answers of `session`, once, when it is opened or revalidated, and bars them if they may not pass. `icmp` is
/// the query it was opened with, where that is known; queries count as echo requests otherwise.
pub fn bar_answers<A: Family>(policy: &Policy, session: &mut Session<A>, icmp: Option<IcmpKind>) {
    let unasked = session.flags & FLAG_ALLOWED != 0 || session.egress.contains(&Egress::LOOP);
    if !policy.filter.judges_answers() || unasked {
        return;
    }
    let (to, hash) = (session.after.destination, flow_hash(&session.before));
    let realm = session.routed_in(Direction::Forward);
    let hop = A::route(&policy.routes, realm, to, hash);
    let from = hop.map_or(session.ingress, |hop| hop.interface);
    let query = icmp.or((session.protocol == A::ICMP).then_some(A::ECHO));
    let answer = query.map(|query| query.answer(A::ICMP == ICMPV6));
    if !A::judge(&policy.filter, &answering(session, from, answer)).passes() {
        session.egress[Direction::Reverse.index()] = Egress::BARRED;
    }
}

/// Judges one answer of a barred session, which is refused in any case: whose counter it is, and what its sender is told. Rules
/// that accept it are about another way than its session was judged for, or another kind of answer.
pub fn answer<A: Family>(
    policy: &Policy,
    session: &Session<A>,
    from: InterfaceId,
    icmp: Option<IcmpKind>,
) -> Verdict {
    A::judge(&policy.filter, &answering(session, from, icmp))
}

/// An answer as the filter sees it: translated back at its destination, not yet at its source.
fn answering<A: Family>(
    session: &Session<A>,
    from: InterfaceId,
    icmp: Option<IcmpKind>,
) -> Crossing<A> {
    Crossing {
        ingress: from,
        egress: session.ingress,
        tuple: Tuple {
            source: session.after.destination,
            source_port: session.after.destination_port,
            destination: session.before.source,
            destination_port: session.before.source_port,
        },
        original: (session.before.destination, session.before.destination_port),
        protocol: session.protocol,
        has_ports: has_ports(session.protocol),
        icmp,
        states: States::ESTABLISHED | translated(session),
    }
}

/// Judges an ICMP error about `session`, from `source` to `destination` (translated back).
pub fn error<A: Family>(
    policy: &Policy,
    session: &Session<A>,
    from: InterfaceId,
    (source, destination): (A, A),
    icmp: IcmpKind,
) -> Verdict {
    if !policy.filter.judges_answers() {
        return Verdict::PASS;
    }
    let to_opener = destination == { session.before.source };
    let direction = match to_opener {
        true => Direction::Reverse,
        false => Direction::Forward,
    };
    let realm = session.routed_in(direction);
    let hop = A::route(&policy.routes, realm, destination, 0);
    let crossing = Crossing {
        ingress: from,
        egress: hop.map_or(session.ingress, |hop| hop.interface),
        tuple: Tuple {
            source,
            destination,
            ..Tuple::default()
        },
        original: (session.before.destination, session.before.destination_port),
        protocol: A::ICMP,
        has_ports: false,
        icmp: Some(icmp),
        states: States::RELATED | translated(session),
    };
    A::judge(&policy.filter, &crossing)
}

fn translated<A: Family>(session: &Session<A>) -> States {
    let (before, after) = (&session.before, &session.after);
    let source = (before.source, before.source_port) != (after.source, after.source_port);
    let destination = (before.destination, before.destination_port)
        != (after.destination, after.destination_port);
    when(source, States::SNAT) | when(destination, States::DNAT)
}

fn when(holds: bool, states: States) -> States {
    if holds { states } else { States::default() }
}

/// Protocols whose ports natgate reads.
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, SCTP | TCP | UDP)
}
