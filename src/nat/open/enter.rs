//! Entering a decided flow: the subscriber's limits, the outside port, both tuples.

use crate::base::time::Now;
use crate::base::{DropReason, Random, RealmId};
use crate::flow::session::{FLAG_INBOUND, MappingKind, Session, SessionIndex};
use crate::nat::ahead::Hashes;
use crate::nat::behaviour::{Behaviour, Remote};
use crate::nat::family::Family;
use crate::nat::limits::HostLimits;
use crate::nat::mapping::{InsideEndpoint, Mapping};
use crate::nat::policy::Policy;
use crate::nat::ports::{Pool, PortRanges, PortSpace, Request, Returned, Select, Share};
use crate::nat::rewrite::deltas;
use crate::nat::state::{Nat, NotEntered, remote_of, wide};
use crate::nat::subscriber::SubscriberIndex;

/// Enters a session whose tuples are complete. `hashes` are its own, as far as they are known.
pub(super) fn enter<A: Family>(
    nat: &mut Nat<A>,
    session: &mut Session<A>,
    hashes: &Hashes,
) -> Result<SessionIndex, DropReason> {
    let (addresses, transport) = deltas(&session.before, &session.after, session.protocol);
    session.address_delta = addresses.raw();
    session.transport_delta = transport.raw();
    let portless = PortSpace::from_protocol(session.protocol).is_none();
    nat.insert(*session, hashes)
        .map_err(|refusal| match refusal {
            NotEntered::Full => DropReason::TableFull,
            NotEntered::Taken if portless => DropReason::NoPortConflict,
            NotEntered::Taken => DropReason::MappingConflict,
        })
}

/// Enters the session of an outside host that a mapping admits.
pub(super) fn inbound<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    session: Session<A>,
    first: SessionIndex,
    now: Now,
) -> Result<SessionIndex, DropReason> {
    let index = enter_alone(nat, policy, session, now)?;
    join(nat, policy, first, index);
    Ok(index)
}

/// Enters a session that takes nothing of a pool, on its subscriber's account.
pub(super) fn enter_alone<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    mut session: Session<A>,
    now: Now,
) -> Result<SessionIndex, DropReason> {
    let subscriber = charge(nat, policy, &session, now)?;
    session.subscriber = subscriber.0;
    let entered = enter(nat, &mut session, &Hashes::default());
    if entered.is_err() {
        nat.discharge(&session);
    }
    entered
}

/// Counts one more session on its subscriber, within the limits.
fn charge<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    session: &Session<A>,
    now: Now,
) -> Result<SubscriberIndex, DropReason> {
    let (address, realm) = subscriber_of(session);
    let own = session.flags & FLAG_INBOUND == 0;
    let opens = own.then(|| session.state.is_half_open());
    let subscriber = nat.subscribers.enter(address.into(), realm)?;
    let limits = &policy.limits;
    match nat.subscribers.open_session(subscriber, opens, limits, now) {
        Ok(()) => Ok(subscriber),
        Err(reason) => {
            nat.subscribers.leave(subscriber);
            nat.at_limit
                .refused(address.into(), realm, reason, now.tick);
            Err(reason)
        }
    }
}

/// Whose session it is.
fn subscriber_of<A: Family>(session: &Session<A>) -> (A, RealmId) {
    match session.flags & FLAG_INBOUND == 0 {
        true => (session.before.source, session.realm),
        false => (session.after.destination, session.far_realm),
    }
}

/// What a rule allocates from.
pub(super) struct Allocation<'a> {
    pub(super) pool: &'a Pool,
    pub(super) ports: Option<&'a PortRanges>,
    pub(super) select: Option<Select>,
    /// The only port that will do.
    pub(super) exactly: Option<u16>,
    /// The flow's hashes, as far as they are known.
    pub(super) hashes: Hashes,
}

/// Gives the flow an outside endpoint and enters its session.
pub(super) fn allocate<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    session: &mut Session<A>,
    from: &Allocation<'_>,
    now: Now,
    random: &mut Random,
) -> Result<SessionIndex, DropReason> {
    let subscriber = charge(nat, policy, session, now)?;
    session.subscriber = subscriber.0;
    let entered = match PortSpace::from_protocol(session.protocol) {
        Some(space) => with_port(nat, policy, session, from, space, now, random),
        None => match nat
            .allocator
            .address(&nat.subscribers, from.pool, subscriber)
            .and_then(A::from_ip)
        {
            Some(address) => {
                session.after.source = address;
                enter(nat, session, &from.hashes)
            }
            None => Err(DropReason::NoAddress),
        },
    };
    if let Err(reason) = entered {
        nat.discharge(session);
        if HostLimits::refuses(reason) {
            let (address, realm) = subscriber_of(session);
            nat.at_limit
                .refused(address.into(), realm, reason, now.tick);
        }
    }
    entered
}

/// The outside port: that of the endpoint's mapping (RFC 4787 REQ-1), or a new one.
// Implements: U1, T1, I1a.
fn with_port<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    session: &mut Session<A>,
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
    let depends = from.pool.behaviours(space).mapping;
    let remote = remote_end(session);
    let known = nat.mappings.find_inside(
        &nat.sessions,
        inside,
        (depends, remote),
        &from.hashes,
        eligible,
    );
    let kind = from.pool.behaviours(space).kind();
    let Some(first) = known else {
        return with_new_port(nat, policy, session, (from, kind), now, random);
    };
    let mapping = nat.session(first).and_then(Mapping::of);
    let outside = mapping.ok_or(DropReason::Internal)?.outside;
    let mut joining = *session;
    (joining.after.source, joining.after.source_port) = (outside.address, outside.port);
    match enter(nat, &mut joining, &from.hashes) {
        Ok(index) => {
            join(nat, policy, first, index);
            Ok(index)
        }
        // The endpoint meets this remote already, by another name: a port that is this flow's alone tells them apart.
        Err(DropReason::MappingConflict) => {
            let apart = with_new_port(nat, policy, session, (from, kind.closed()), now, random);
            nat.counts.told_apart += u64::from(apart.is_ok());
            apart
        }
        Err(reason) => Err(reason),
    }
}

/// The remote endpoint of a flow from inside, its destination translated.
fn remote_end<A: Family>(session: &Session<A>) -> Remote<A> {
    Remote {
        address: session.after.destination,
        port: session.after.destination_port,
    }
}

/// Leases an outside port for the first session of a new mapping.
fn with_new_port<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    session: &mut Session<A>,
    (from, kind): (&Allocation<'_>, MappingKind),
    now: Now,
    random: &mut Random,
) -> Result<SessionIndex, DropReason> {
    let externals = &policy.nat.externals;
    let subscriber = SubscriberIndex(session.subscriber);
    let space = PortSpace::from_protocol(session.protocol).ok_or(DropReason::Internal)?;
    let share = Share::new(kind.sharing(), wide(remote_end(session)));
    let request = Request {
        pool: from.pool,
        ports: from.ports,
        select: from.select,
        exactly: from.exactly,
        subscriber,
        inside_port: session.before.source_port,
        space,
        share,
        now: now.tick,
    };
    let lease = nat
        .allocator
        .allocate(externals, &mut nat.subscribers, &request, random)?;
    if lease.opened.is_some() {
        nat.log_leased(policy, subscriber, from.pool.policy().id, &lease, now);
    }
    // A pool has addresses of one family; rules lead to pools of theirs.
    let address = A::from_ip(lease.address).unwrap_or_default();
    (session.after.source, session.after.source_port) = (address, lease.port);
    let hashes = nat.prefetch_way_back(session, &from.hashes);
    let entered = enter(nat, session, &hashes).and_then(|index| {
        let begun = nat.mappings.begin(&mut nat.sessions, index, kind, &hashes);
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
                space,
                port: lease.port,
                share,
                hold: 0,
            };
            nat.allocator
                .release(externals, &mut nat.subscribers, &returned, now.tick);
        }
    }
    entered
}

/// Adds a session to the mapping that begins with `first`.
fn join<A: Family>(nat: &mut Nat<A>, policy: &Policy, first: SessionIndex, index: SessionIndex) {
    nat.mappings.join(&mut nat.sessions, first, index);
    remember(nat, policy, index);
}

/// Notes the remote host among those the session's mapping talks to, where filtering asks for it.
fn remember<A: Family>(nat: &mut Nat<A>, policy: &Policy, index: SessionIndex) {
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
    let space = mapping.outside.space;
    if pool.is_some_and(|pool| pool.behaviours(space).filtering == Behaviour::Address) {
        nat.contacts.remember(mapping.outside, remote_of(session));
    }
}
