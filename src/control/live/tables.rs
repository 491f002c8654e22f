//! Listings of what workers own: sessions, mappings, subscribers, neighbours; and ending sessions.
//!
//! A filter is resolved to numbers first and then applied on the worker, so that only what is asked for is copied.

use super::ask::{Part, WorkerHandle};
use crate::base::time::Now;
use crate::base::{InterfaceId, PoolId, RealmId, RuleId, Tick};
use crate::control::api::filter::protocol_name;
use crate::control::api::{
    Endpoint, Failure, FailureKind, Filter, Item, ListEnd, Mapping, Neighbor, Session, Subscriber,
    Translation,
};
use crate::dataplane::worker::JobContext;
use crate::flow::key::Tuple;
use crate::flow::session::{FLAG_FIRST, FLAG_MAPPED, Session as FlowSession, SessionIndex, State};
use crate::gateway::neighbour::NeighbourId;
use crate::nat::family::Family;
use crate::nat::filter;
use crate::nat::mapping::Mapping as NatMapping;
use crate::nat::policy::Policy;
use crate::nat::ports::ExternalIndex;
use crate::nat::state::{EndCause, Nat};
use std::net::IpAddr;
use std::ops::Range;

/// Next hops of one worker that a listing shows.
const MAX_NEIGHBOURS: usize = 65_536;

/// A filter with names turned into numbers.
#[derive(Clone)]
pub struct Resolved {
    filter: Filter,
    /// Several where an interface masquerades with several addresses: one name, a pool for each.
    pools: Option<Vec<PoolId>>,
    interface: Option<InterfaceId>,
    realm: Option<RealmId>,
}

impl Resolved {
    /// Looks up what the filter names.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] for a pool, interface, state or worker that does not exist.
    pub fn new(filter: &Filter, policy: &Policy) -> Result<Resolved, Failure> {
        let missing = |what: &str, name: &str, known: Vec<String>| {
            Failure::new(
                FailureKind::NotFound,
                "filter",
                format!("there is no {what} `{name}`"),
            )
            .hint(format!("there are: {}", known.join(", ")))
        };
        let pools = match &filter.pool {
            None => None,
            Some(name) => {
                let known = policy.nat.pools.iter().map(|p| p.policy());
                let named = known.clone().filter(|p| p.name == *name);
                let found: Vec<PoolId> = named.map(|p| p.id).collect();
                if found.is_empty() {
                    let known = known.map(|p| p.name.clone()).collect();
                    return Err(missing("pool", name, known));
                }
                Some(found)
            }
        };
        let interface = match &filter.interface {
            None => None,
            Some(name) => {
                let known = || policy.interfaces.iter().map(|i| i.name.clone()).collect();
                Some(
                    policy
                        .interfaces
                        .by_name(name)
                        .ok_or_else(|| missing("interface", name, known()))?
                        .id,
                )
            }
        };
        let realm = match &filter.realm {
            None => None,
            Some(name) => {
                let at = policy.realms.iter().position(|known| known == name);
                let at = at.ok_or_else(|| missing("realm", name, policy.realms.clone()))?;
                Some(RealmId(at as u8))
            }
        };
        if let Some(worker) = filter.worker.filter(|w| *w >= policy.workers) {
            let known = (0..policy.workers).map(|w| w.to_string()).collect();
            return Err(missing("worker", &worker.to_string(), known));
        }
        Ok(Resolved {
            filter: filter.clone(),
            pools,
            interface,
            realm,
        })
    }

    /// The filter as it was asked.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Fails for a state that no session can have.
    fn known_state(&self) -> Result<(), Failure> {
        match &self.filter.state {
            Some(name) if !State::LIVE.iter().any(|s| s.name() == name) => {
                let known: Vec<&str> = State::LIVE.iter().map(|s| s.name()).collect();
                Err(Failure::new(
                    FailureKind::NotFound,
                    "filter",
                    format!("no session state is called `{name}`"),
                )
                .hint(format!("there are: {}", known.join(", "))))
            }
            _ => Ok(()),
        }
    }

    fn takes_worker(&self, worker: u8) -> bool {
        self.filter.worker.is_none_or(|w| w == worker)
    }

    /// Whether objects of a realm are asked for.
    pub fn takes_realm(&self, realm: RealmId) -> bool {
        self.realm.is_none_or(|wanted| wanted == realm)
    }

    fn takes_pool(&self, pool: Option<PoolId>) -> bool {
        let wanted = self.pools.as_ref();
        wanted.is_none_or(|wanted| pool.is_some_and(|pool| wanted.contains(&pool)))
    }

    fn takes_session<A: Family>(&self, context: &JobContext<'_>, session: &FlowSession<A>) -> bool {
        let filter = &self.filter;
        filter.protocol.is_none_or(|p| p == session.protocol)
            && Filter::matches_name(&filter.state, Some(session.state.name()))
            && (self.takes_realm(session.realm) || self.takes_realm(session.far_realm))
            && self.takes_pool(pool_of_session(context.policy, session))
            && self
                .interface
                .is_none_or(|i| i == session.ingress || egress(context, session) == Some(i))
            && filter.matches_endpoint(&ends(&session.before, &session.after))
    }
}

/// All endpoints of a session, both sides.
fn ends<A: Family>(before: &Tuple<A>, after: &Tuple<A>) -> [(IpAddr, Option<u16>); 4] {
    let end = |address: A, port: u16| (address.to_ip(), Some(port));
    [
        end(before.source, before.source_port),
        end(before.destination, before.destination_port),
        end(after.source, after.source_port),
        end(after.destination, after.destination_port),
    ]
}

/// The pool a session holds an address of: its translated source, or for sessions from outside the address they called.
fn pool_of_session<A: Family>(policy: &Policy, session: &FlowSession<A>) -> Option<PoolId> {
    pool_of(policy, session.after.source).or_else(|| pool_of(policy, session.before.destination))
}

/// The pool an external address belongs to.
fn pool_of<A: Family>(policy: &Policy, address: A) -> Option<PoolId> {
    let (external, _) = policy.nat.external_of(address)?;
    let pool = policy.nat.pool_by_external.get(external.index());
    pool.copied().flatten()
}

/// The interface a session's forward packets leave by, as far as it is known.
fn egress<A: Family>(context: &JobContext<'_>, session: &FlowSession<A>) -> Option<InterfaceId> {
    let neighbour = context.neighbours.get(NeighbourId(session.egress[0].0))?;
    Some(neighbour.interface)
}

/// Where a listing goes, and how much of it.
pub struct Listed<'a> {
    emit: &'a mut dyn FnMut(Item) -> bool,
    left: u64,
    end: ListEnd,
    open: bool,
}

impl<'a> Listed<'a> {
    /// At most `max` objects to `emit`.
    pub fn new(max: u64, emit: &'a mut dyn FnMut(Item) -> bool) -> Listed<'a> {
        Listed {
            emit,
            left: max,
            end: ListEnd::default(),
            open: true,
        }
    }

    /// Shows an object unless the maximum is reached; counts it either way.
    pub fn add(&mut self, item: Item) {
        self.end.total += 1;
        self.show(item);
    }

    /// False once nobody listens.
    fn show(&mut self, item: Item) -> bool {
        if self.left > 0 && self.open {
            self.left -= 1;
            self.end.shown += 1;
            self.open = (self.emit)(item);
        }
        self.open
    }

    /// How it ended.
    pub fn finish(self) -> ListEnd {
        self.end
    }

    /// Walks one kind of table of all workers.
    fn walk<T: Send + 'static>(
        &mut self,
        workers: &[WorkerHandle],
        resolved: &Resolved,
        high_water: fn(&JobContext<'_>) -> u32,
        visit: fn(&Resolved, &mut JobContext<'_>, u32) -> Option<T>,
        view: impl Fn(&T, Now, u8) -> Item,
    ) {
        for worker in workers.iter().filter(|w| resolved.takes_worker(w.worker)) {
            let left = self.left;
            let visitor = || {
                let resolved = resolved.clone();
                move |context: &mut JobContext<'_>, slots: Range<u32>, rows: &mut Vec<T>| {
                    let mut matched = 0;
                    for slot in slots {
                        if let Some(row) = visit(&resolved, context, slot) {
                            matched += 1;
                            if (rows.len() as u64) < left {
                                rows.push(row);
                            }
                        }
                    }
                    matched
                }
            };
            let walked = worker.walk(high_water, visitor, |part: Part<T>| {
                self.end.total += part.matched;
                let now = part.now;
                part.rows
                    .iter()
                    .all(|row| self.show(view(row, now, worker.worker)));
                self.open
            });
            if walked.is_err() {
                self.end.stalled_workers.push(worker.worker);
            }
        }
    }

    /// Lists sessions.
    ///
    /// # Errors
    /// For a state that does not exist.
    pub fn sessions(
        &mut self,
        workers: &[WorkerHandle],
        policy: &Policy,
        resolved: &Resolved,
    ) -> Result<(), Failure> {
        resolved.known_state()?;
        self.sessions_of::<u32>(workers, policy, resolved);
        self.sessions_of::<u128>(workers, policy, resolved);
        Ok(())
    }

    fn sessions_of<A: Family>(
        &mut self,
        workers: &[WorkerHandle],
        policy: &Policy,
        resolved: &Resolved,
    ) {
        self.walk(
            workers,
            resolved,
            |context| nat::<A>(context).sessions.high_water(),
            |resolved, context, slot| {
                let session = nat::<A>(context)
                    .sessions
                    .get(slot)
                    .filter(|s| s.state != State::Free)?;
                let takes = resolved.takes_session(context, session);
                takes.then(|| {
                    let rules = context.accounts.rules(session.rule);
                    (*session, rules, egress(context, session))
                })
            },
            |(session, rules, out), now, worker| {
                Item::Session(session_view(policy, session, *rules, *out, now, worker))
            },
        );
    }

    /// Lists mappings.
    pub fn mappings(&mut self, workers: &[WorkerHandle], policy: &Policy, resolved: &Resolved) {
        self.mappings_of::<u32>(workers, policy, resolved);
        self.mappings_of::<u128>(workers, policy, resolved);
    }

    fn mappings_of<A: Family>(
        &mut self,
        workers: &[WorkerHandle],
        policy: &Policy,
        resolved: &Resolved,
    ) {
        self.walk(
            workers,
            resolved,
            |context| nat::<A>(context).sessions.high_water(),
            |resolved, context, slot| {
                let first = nat::<A>(context)
                    .sessions
                    .get(slot)
                    .filter(|s| s.flags & FLAG_FIRST != 0)?;
                let mapping = NatMapping::of(first)?;
                let (inside, outside) = (mapping.inside, mapping.outside);
                let ends = [
                    (inside.address.to_ip(), Some(inside.port)),
                    (outside.address.to_ip(), Some(outside.port)),
                ];
                let filter = resolved.filter();
                let takes = filter
                    .protocol
                    .is_none_or(|p| protocol_name(p) == inside.space.name())
                    && resolved.takes_realm(inside.realm)
                    && resolved.takes_pool(pool_of(context.policy, outside.address))
                    && filter.matches_endpoint(&ends);
                takes.then_some((mapping, first.link.back))
            },
            |(mapping, sessions), _, worker| {
                let (inside, outside) = (mapping.inside, mapping.outside);
                let pool = pool_of(policy, outside.address);
                Item::Mapping(Mapping {
                    protocol: inside.space.name().to_owned(),
                    inside: endpoint(inside.address, Some(inside.port)),
                    outside: endpoint(outside.address, Some(outside.port)),
                    pool: pool.and_then(|id| pool_name(policy, id)),
                    realm: realm_name(policy, inside.realm),
                    sessions: (*sessions).into(),
                    worker,
                })
            },
        );
    }

    /// Lists inside hosts.
    pub fn subscribers(&mut self, workers: &[WorkerHandle], policy: &Policy, resolved: &Resolved) {
        self.subscribers_of::<u32>(workers, policy, resolved);
        self.subscribers_of::<u128>(workers, policy, resolved);
    }

    fn subscribers_of<A: Family>(
        &mut self,
        workers: &[WorkerHandle],
        policy: &Policy,
        resolved: &Resolved,
    ) {
        struct Row {
            address: u128,
            realm: RealmId,
            sessions: u32,
            half_open: u32,
            blocks: u16,
            paired: Option<ExternalIndex>,
        }
        self.walk(
            workers,
            resolved,
            |context| nat::<A>(context).subscribers.capacity() as u32,
            |resolved, context, slot| {
                let table = &nat::<A>(context).subscribers;
                let subscriber = table.at(slot as usize)?;
                let row = Row {
                    address: table.address(subscriber)?,
                    realm: table.realm(subscriber)?,
                    sessions: table.sessions(subscriber),
                    half_open: table.half_open(subscriber),
                    blocks: table.block_count(subscriber),
                    paired: context
                        .policy
                        .nat
                        .pools
                        .iter()
                        .map(|pool| pool.policy().id)
                        .filter(|pool| resolved.takes_pool(Some(*pool)))
                        .find_map(|pool| table.paired(subscriber, pool)),
                };
                let takes = resolved
                    .filter()
                    .ip
                    .is_none_or(|net| net.contains(&inside_address(row.address)))
                    && resolved.takes_realm(row.realm)
                    && (resolved.pools.is_none() || row.paired.is_some());
                takes.then_some(row)
            },
            |row, _, worker| {
                let outside = row
                    .paired
                    .and_then(|external| policy.nat.externals.get(external));
                Item::Subscriber(Subscriber {
                    subscriber: inside_address(row.address).to_string(),
                    realm: realm_name(policy, row.realm),
                    sessions: row.sessions.into(),
                    half_open: row.half_open.into(),
                    blocks: row.blocks.into(),
                    outside: outside.map(|external| external.address().to_string()),
                    worker,
                })
            },
        );
    }

    /// Lists next hops.
    pub fn neighbors(&mut self, workers: &[WorkerHandle], policy: &Policy, resolved: &Resolved) {
        // The table is small and cannot be entered in the middle: one look copies it all.
        let (answers, stalled) = super::ask::ask_all(workers, || {
            let mut rows = Vec::with_capacity(MAX_NEIGHBOURS);
            move |context: &mut JobContext<'_>| {
                let now = context.now;
                let entries = context.neighbours.iter().take(MAX_NEIGHBOURS);
                rows.extend(entries.map(|(_, n)| {
                    (
                        n.address(),
                        n.interface,
                        n.mac(),
                        n.state(),
                        n.idle_millis(now),
                    )
                }));
                std::mem::take(&mut rows)
            }
        });
        self.end.stalled_workers.extend(stalled);
        for (worker, rows) in answers {
            for (address, interface, mac, state, idle_millis) in rows {
                let state = state.to_string();
                let takes = resolved.takes_worker(worker)
                    && resolved.interface.is_none_or(|wanted| wanted == interface)
                    && resolved.takes_realm(policy.realm_of(interface))
                    && Filter::matches_name(&resolved.filter.state, Some(&state))
                    && resolved.filter.ip.is_none_or(|net| net.contains(&address));
                if takes {
                    self.add(Item::Neighbor(Neighbor {
                        address: address.to_string(),
                        interface: interface_name(policy, interface),
                        mac: mac.map(|mac| mac.to_string()),
                        state,
                        idle_seconds: Some(idle_millis as f64 / 1000.0),
                        worker,
                    }));
                }
            }
        }
    }
}

/// Ends the sessions that match; says how many, and which workers did not answer.
///
/// # Errors
/// For a state that does not exist.
pub fn clear_sessions(
    workers: &[WorkerHandle],
    resolved: &Resolved,
) -> Result<(u64, Vec<u8>), Failure> {
    resolved.known_state()?;
    let (v4, mut stalled) = clear_sessions_of::<u32>(workers, resolved);
    let (v6, more) = clear_sessions_of::<u128>(workers, resolved);
    stalled.extend(more);
    stalled.sort_unstable();
    stalled.dedup();
    Ok((v4 + v6, stalled))
}

fn clear_sessions_of<A: Family>(workers: &[WorkerHandle], resolved: &Resolved) -> (u64, Vec<u8>) {
    let (mut cleared, mut stalled) = (0, Vec::new());
    for worker in workers.iter().filter(|w| resolved.takes_worker(w.worker)) {
        let visitor = || {
            let resolved = resolved.clone();
            move |context: &mut JobContext<'_>, slots: Range<u32>, _: &mut Vec<()>| {
                let mut ended = 0;
                for slot in slots {
                    let session = nat::<A>(context)
                        .sessions
                        .get(slot)
                        .filter(|s| s.state != State::Free);
                    if session
                        .copied()
                        .is_some_and(|session| resolved.takes_session(context, &session))
                    {
                        let (policy, now) = (context.policy, context.now);
                        A::nat_mut(context.nat, context.nat_v6).end(
                            policy,
                            SessionIndex(slot),
                            EndCause::Cleared,
                            now,
                        );
                        ended += 1;
                    }
                }
                ended
            }
        };
        let walked = worker.walk(
            |context| nat::<A>(context).sessions.high_water(),
            visitor,
            |part| {
                cleared += part.matched;
                true
            },
        );
        if walked.is_err() {
            stalled.push(worker.worker);
        }
    }
    (cleared, stalled)
}

fn session_view<A: Family>(
    policy: &Policy,
    session: &FlowSession<A>,
    (rule, filter): (RuleId, RuleId),
    out: Option<InterfaceId>,
    now: Now,
    worker: u8,
) -> Session {
    // Protocols without ports show none, and of an ICMP query only the end that has the identifier.
    let shown = |port: u16| match session.protocol {
        6 | 17 | 33 | 132 | 136 => Some(port),
        1 | 58 => (port != 0).then_some(port),
        _ => None,
    };
    let (before, after) = (&session.before, &session.after);
    let forward = Translation {
        source: endpoint(before.source, shown(before.source_port)),
        destination: endpoint(before.destination, shown(before.destination_port)),
        translated_source: endpoint(after.source, shown(after.source_port)),
        translated_destination: endpoint(after.destination, shown(after.destination_port)),
    };
    let idle = now.tick.since(session.seen());
    let limit = policy.timeouts.of(session.state);
    let (rule, filter) = match (policy.rule(rule), policy.rule(filter)) {
        // A flow that is only let through has the filter's account.
        (Some(only), None) if only.kind == filter::KIND => (None, Some(only)),
        both => both,
    };
    Session {
        protocol: protocol_name(session.protocol),
        state: session.state.name().to_owned(),
        forward,
        reverse: forward.reversed(),
        idle_seconds: seconds(idle),
        remaining_seconds: seconds(limit.saturating_sub(idle)),
        interface: interface_name(policy, session.ingress),
        out_interface: out.map(|id| interface_name(policy, id)),
        pool: pool_of_session(policy, session)
            .filter(|_| session.flags & FLAG_MAPPED != 0 || !session.is_untranslated())
            .and_then(|id| pool_name(policy, id)),
        realm: realm_name(policy, session.realm),
        far_realm: realm_name(policy, session.far_realm),
        rule: rule.map(|rule| rule.name.clone()),
        filter: filter.map(|rule| rule.name.clone()),
        worker,
    }
}

/// Ticks in seconds.
pub fn seconds(ticks: u32) -> f64 {
    f64::from(ticks) / f64::from(Tick::PER_SECOND)
}

fn endpoint<A: Family>(address: A, port: Option<u16>) -> Endpoint {
    Endpoint {
        address: address.to_ip(),
        port,
    }
}

/// The sessions of one family.
fn nat<'a, A: Family>(context: &'a JobContext<'_>) -> &'a Nat<A> {
    A::nat(context.nat, context.nat_v6)
}

/// A subscriber's address: IPv4 ones are the numbers below 2³².
pub fn inside_address(address: u128) -> IpAddr {
    match u32::try_from(address) {
        Ok(v4) => IpAddr::V4(v4.into()),
        Err(_) => IpAddr::V6(address.into()),
    }
}

/// The name of a realm.
pub fn realm_name(policy: &Policy, id: RealmId) -> String {
    policy.realms.get(id.index()).cloned().unwrap_or_default()
}

/// The name of a pool.
pub fn pool_name(policy: &Policy, id: PoolId) -> Option<String> {
    policy.nat.pool(id).map(|pool| pool.policy().name.clone())
}

/// The name of an interface, or its number while a reload has just removed it.
pub fn interface_name(policy: &Policy, id: InterfaceId) -> String {
    policy
        .interfaces
        .get(id)
        .map_or_else(|| format!("#{id}"), |interface| interface.name.clone())
}
