//! Which worker a packet belongs to: one pure function of packet and policy.
//!
//! A subscriber lives on one worker, so that its ports, blocks and limits have one writer and are exact. What comes back
//! to an external port belongs to the worker that holds the port. Where the network card sorts packets the same way,
//! nothing is handed over; everything else is, and correctness never depends on the card.
//!
//! | packet | owner |
//! |---|---|
//! | to a forwarded or statically translated address | that of the flow with its destination translated |
//! | to a service, or to an address that has nothing but services | hash of the source address |
//! | to what was a service before a reload | the same; if that worker knows no such flow, as if it never was |
//! | from a backend | hash of the destination address; if that worker knows no such flow, as if it were no backend |
//! | to a backend by its own address | as if it were no backend; if that worker knows no such flow, hash of the source address, as if it were called by the service's |
//! | to an external port that some worker holds | that worker; if it knows no such flow and the sender is a subscriber, the subscriber's worker (first half of a hairpin) |
//! | from a subscriber | hash of the source address |
//! | to a subscriber | hash of the destination address |
//! | without ports, from or to a subscriber | hash of the remote address, since the reply shows nothing else |
//! | from neither to neither, or from one to another | hash of both, the same for both directions; if that worker knows no such flow and it gets an outside port, hash of the source address |
//! | of a PPTP call | to an external address: the remainder of its id; from a subscriber: hash of the source address; if that worker knows no such call, as if it was of none |
//! | a fragment whose ports are not known yet | hash of the datagram's identity |

use crate::base::{RealmId, WorkerId};
use crate::flow::key::Tuple;
use crate::nat::destination::{PolicyDestination, by_policy};
use crate::nat::family::Family;
use crate::nat::fragments::DatagramKey;
use crate::nat::open::{flow_hash, is_leased, worker_of};
use crate::nat::policy::Policy;
use crate::nat::ports::PortSpace;
use crate::nat::rules::Facts;

/// What steering looks at.
#[derive(Clone, Copy, Debug)]
pub struct Steer<A: Copy> {
    /// Ingress, tuple, protocol.
    pub facts: Facts<A>,
    /// Realm of the ingress interface.
    pub realm: RealmId,
    /// Second half of a hairpin.
    pub looped: bool,
    /// The holder of the destination port knows no such flow.
    pub not_a_reply: bool,
}

/// The worker a packet belongs to. `None`: whoever received it may as well handle it.
pub fn owner<A: Family>(policy: &Policy, steer: &Steer<A>) -> Option<WorkerId> {
    if policy.workers == 1 {
        return None;
    }
    let tuple = &steer.facts.tuple;
    let from_subscriber = !steer.looped && policy.was_inside(steer.facts.ingress, tuple.source);
    let services = &A::translation(&policy.nat).services;
    let protocol = steer.facts.protocol;
    // What only looks as if it belonged to a service may have been asked for there already.
    let perhaps = !steer.not_a_reply;
    let (destination, port, realm) = match by_policy(policy, &steer.facts, steer.looped) {
        PolicyDestination::Hairpin => return Some(of_address(policy, tuple.source)),
        PolicyDestination::Translate {
            address,
            port,
            realm,
            ..
        } => (address, port, realm),
        PolicyDestination::Service(_) => return Some(of_address(policy, tuple.source)),
        PolicyDestination::Keep if perhaps && services.were_called(tuple, protocol) => {
            return Some(of_address(policy, tuple.source));
        }
        PolicyDestination::Keep if policy.nat.external_of(tuple.destination).is_some() => {
            return to_external(policy, steer, from_subscriber);
        }
        PolicyDestination::Keep if perhaps && services.answers(tuple, protocol) => {
            return Some(of_address(policy, tuple.destination));
        }
        PolicyDestination::Keep => (tuple.destination, tuple.destination_port, steer.realm),
    };
    let portless = PortSpace::from_protocol(protocol).is_none();
    if !perhaps && !portless && services.leads_to_backend(tuple, protocol) {
        return Some(of_address(policy, tuple.source));
    }
    let to_subscriber = A::route(&policy.routes, realm, destination, 0)
        .is_some_and(|hop| policy.was_inside(hop.interface, destination));
    let (subscriber, remote) = match (from_subscriber, to_subscriber) {
        (true, false) => (tuple.source, destination),
        (false, true) => (destination, tuple.source),
        // An endpoint has its ports on one worker, whomever it calls.
        _ if !perhaps && leases(policy, steer, destination, port, realm) => {
            (tuple.source, destination)
        }
        _ => return Some(of_pair(policy, tuple.source, destination)),
    };
    Some(of_address(
        policy,
        if portless { remote } else { subscriber },
    ))
}

/// Whether a new flow gets an outside port, its destination translated.
fn leases<A: Family>(
    policy: &Policy,
    steer: &Steer<A>,
    destination: A,
    destination_port: u16,
    realm: RealmId,
) -> bool {
    let translated = Facts {
        tuple: Tuple {
            destination,
            destination_port,
            ..steer.facts.tuple
        },
        ..steer.facts
    };
    let hash = flow_hash(&steer.facts.tuple);
    !steer.looped && is_leased(policy, &translated, realm, hash)
}

/// The worker that knows the call of a packet of GRE, if there may be calls.
pub fn call_owner<A: Family>(policy: &Policy, steer: &Steer<A>) -> Option<WorkerId> {
    if policy.workers == 1 || !policy.helps_calls {
        return None;
    }
    let tuple = &steer.facts.tuple;
    if !steer.looped && policy.was_inside(steer.facts.ingress, tuple.source) {
        return Some(of_address(policy, tuple.source));
    }
    let external = policy.nat.external_of(tuple.destination);
    external.map(|_| worker_of(tuple.destination_port, policy.workers))
}

fn to_external<A: Family>(
    policy: &Policy,
    steer: &Steer<A>,
    from_subscriber: bool,
) -> Option<WorkerId> {
    let tuple = &steer.facts.tuple;
    let Some(space) = PortSpace::from_protocol(steer.facts.protocol) else {
        return Some(of_address(policy, tuple.source));
    };
    let holder = policy
        .nat
        .port_owner(tuple.destination, space, tuple.destination_port);
    if from_subscriber && (steer.not_a_reply || holder.is_none()) {
        return Some(of_address(policy, tuple.source));
    }
    holder
}

/// The worker on which a fragment meets the first fragment of its datagram.
pub fn fragment_tracker(policy: &Policy, key: &DatagramKey) -> Option<WorkerId> {
    if policy.workers == 1 {
        return None;
    }
    let mixed = key.source.fold()
        ^ key.destination.fold().rotate_left(8)
        ^ key.id.rotate_left(16)
        ^ u32::from(key.protocol);
    Some(of_address(policy, mixed))
}

/// A subscriber's worker: what a card with the inside key computes of IPv4.
pub fn of_address<A: Family>(policy: &Policy, address: A) -> WorkerId {
    policy.steering.worker(address.fold(), policy.workers)
}

fn of_pair<A: Family>(policy: &Policy, a: A, b: A) -> WorkerId {
    let (a, b) = (a.fold(), b.fold());
    of_address(policy, a.min(b) ^ a.max(b).rotate_left(16))
}
