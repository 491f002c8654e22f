//! Services: one address and port in front of many backends, what VPP's cnat calls translations.
//!
//! ```text
//!   client 203.0.113.9:5555 ──▶ 198.51.100.1:80 ──▶ backend 10.0.0.2:8080    destination rewritten
//!                                                   (source kept, or rewritten as well: "twice NAT")
//! ```
//!
//! A *virtual* address belongs to nobody else: what matches no service there is refused. A *real* one is an interface's, a
//! pool's or another host's, and what matches no service goes on as if there were none. There is no inside and no outside:
//! a service answers on every interface, and in every realm.
//!
//! The choice of a backend is made once, for the packet that opens a flow: by affinity if the client has a backend,
//! else by a table over a hash of the packet. A session keeps its backend until it ends.

pub mod affinity;
pub mod hash;
pub mod maglev;

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::base::RuleId;
use crate::flow::key::{Address, Tuple};
use crate::flow::session::{FLAG_MAPPED, MappingLink, NONE, Session};
use crate::wire::{ICMP, ICMPV6, UDP};
use hash::Fields;
use maglev::Seat;

/// The kind of backends in [`RuleInfo`](crate::nat::policy::RuleInfo): each is counted on its own.
pub const KIND: &str = "service";

/// What becomes of a packet that no backend can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// Dropped in silence.
    #[default]
    Drop,
    /// Dropped, and its sender told: a TCP reset, or port unreachable.
    Reject,
}

/// What becomes of the sessions of a backend that goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// They go on until they end, except those of UDP.
    ByProtocol,
    /// They go on until they end.
    Keep,
    /// They end with it.
    End,
}

impl Drain {
    /// Whether sessions of `protocol` end with their backend.
    pub fn ends(self, protocol: Option<u8>) -> bool {
        match self {
            Drain::ByProtocol => protocol == Some(UDP),
            Drain::Keep => false,
            Drain::End => true,
        }
    }
}

/// What a backend sees as the source of a service's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceSource<A> {
    /// The client, unless it lies behind the same interface as the backend, whose answers would then bypass the gateway:
    /// that interface's address.
    Auto,
    /// Always the client, as far as no source rule says otherwise.
    Keep,
    /// This address of the gateway.
    Address(A),
}

/// A server behind a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend<A> {
    /// What it is counted under; stable while service and backend keep their names.
    pub id: RuleId,
    /// Its address.
    pub address: A,
    /// Its port; `None` keeps the service's.
    pub port: Option<u16>,
    /// What it sees as source.
    pub source: ServiceSource<A>,
    /// Its share of new flows; 0 drains it: it gets none.
    pub weight: u32,
    /// Packets go to it as they are, and it answers the client itself (direct return).
    pub direct: bool,
    /// It can be reached and passes its check.
    pub healthy: bool,
}

impl<A: Copy> Backend<A> {
    fn takes_flows(&self) -> bool {
        self.weight > 0 && self.healthy
    }
}

/// How a backend is found from a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// By remainder: even, and every change of the backends moves most new flows.
    Hash,
    /// By a Maglev table of this many places.
    Maglev(u32),
}

/// The table from hashes to backends.
#[derive(Clone, Debug)]
enum Choice {
    /// Sums of the weights up to each backend that takes flows, and its position.
    Sums(Vec<(u32, u16)>),
    /// A Maglev table and the backends its seats are.
    Places(Arc<Vec<u16>>, Vec<u16>),
}

/// One service at one address.
#[derive(Clone, Debug)]
pub struct Service<A> {
    /// Its name.
    pub name: String,
    /// A number that stays while it keeps its name.
    pub number: u16,
    /// What the choice depends on.
    pub fields: Fields,
    /// How the choice is made.
    pub balance: Balance,
    /// Ticks that a client comes back to its backend for; 0 is no affinity.
    pub affinity: u32,
    /// What happens while no backend takes flows.
    pub empty: Refusal,
    /// What becomes of the sessions of a backend that goes away.
    pub drain: Drain,
    /// The servers, in the order of the configuration.
    pub backends: Vec<Backend<A>>,
    choice: Choice,
}

/// Size and seats of a Maglev table.
type TableKey = (u32, Vec<(u64, u32)>);

/// Maglev tables: equal ones are built once, and not again by a reload that does not change them.
#[derive(Clone, Debug, Default)]
struct Tables {
    now: HashMap<TableKey, Arc<Vec<u16>>>,
    before: HashMap<TableKey, Arc<Vec<u16>>>,
}

impl Tables {
    fn of(&mut self, size: u32, seats: &[Seat]) -> Arc<Vec<u16>> {
        let key = (size, seats.iter().map(|s| (s.identity, s.weight)).collect());
        let before = &self.before;
        let known = self.now.entry(key);
        let known = known.or_insert_with_key(|key| match before.get(key) {
            Some(table) => table.clone(),
            None => Arc::new(maglev::table(size, seats)),
        });
        known.clone()
    }
}

impl<A: Address + Into<u128>> Service<A> {
    /// A service whose table is still to be built.
    pub fn new(name: String, number: u16, backends: Vec<Backend<A>>) -> Service<A> {
        Service {
            name,
            number,
            fields: Fields::ALL,
            balance: Balance::Hash,
            affinity: 0,
            empty: Refusal::Drop,
            drain: Drain::ByProtocol,
            backends,
            choice: Choice::Sums(Vec::new()),
        }
    }

    /// Builds the table over the backends that take flows.
    fn build(&mut self, tables: &mut Tables) {
        let taking = (0..).zip(&self.backends).filter(|(_, b)| b.takes_flows());
        self.choice = match self.balance {
            Balance::Hash => {
                let sums = taking.scan(0u32, |sum, (at, backend)| {
                    *sum = sum.saturating_add(backend.weight);
                    Some((*sum, at))
                });
                Choice::Sums(sums.collect())
            }
            Balance::Maglev(size) => {
                let (seats, whose): (Vec<Seat>, Vec<u16>) = taking
                    .map(|(at, backend)| {
                        let seat = Seat {
                            identity: hash::identity(backend.address, backend.port),
                            weight: backend.weight,
                        };
                        (seat, at)
                    })
                    .unzip();
                Choice::Places(tables.of(size, &seats), whose)
            }
        };
    }

    /// The backend that the hash of a packet leads to.
    pub fn pick(&self, tuple: &Tuple<A>, protocol: u8) -> Option<&Backend<A>> {
        let hash = self.fields.hash(tuple, protocol);
        let at = match &self.choice {
            Choice::Sums(sums) => {
                let (total, _) = *sums.last()?;
                let point = hash.checked_rem(total.into())?;
                let after = sums.partition_point(|(sum, _)| u64::from(*sum) <= point);
                sums.get(after)?.1
            }
            Choice::Places(table, whose) => {
                let place = hash.checked_rem(table.len() as u64)?;
                let seat = *table.get(place as usize)?;
                *whose.get(usize::from(seat))?
            }
        };
        self.backends.get(usize::from(at))
    }

    /// The backend with this number, if it takes new flows.
    pub fn taking(&self, id: RuleId) -> Option<&Backend<A>> {
        let mut backends = self.backends.iter();
        backends.find(|backend| backend.id == id && backend.takes_flows())
    }
}

/// Position of a service in [`Services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceIndex(pub u32);

/// What clients call a service by. `None` stands for any protocol but ICMP, and any port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey<A> {
    /// The address.
    pub address: A,
    /// The protocol.
    pub protocol: Option<u8>,
    /// The port.
    pub port: Option<u16>,
}

/// An address that services stand at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceAddress {
    /// It is virtual, and this becomes of packets that match no service.
    pub unmatched: Option<Refusal>,
    /// Echo requests to it are answered; virtual ones only.
    pub ping: bool,
}

/// What services have to say about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceMatch {
    /// It belongs to this service.
    Service(ServiceIndex),
    /// The address is virtual and no service there wants it.
    Unmatched,
}

/// A backend that went away, and whose sessions end with it: where they lead.
pub type Ended<A> = (ServiceKey<A>, (A, Option<u16>));

/// All services of one address family.
#[derive(Clone, Debug)]
pub struct Services<A> {
    services: Vec<Service<A>>,
    by_address: HashMap<A, ServiceAddress>,
    by_key: HashMap<ServiceKey<A>, ServiceIndex>,
    /// What services were called by since the start: their sessions must still be found on the client's worker.
    former: HashSet<ServiceKey<A>>,
    /// Where answers come from, or came from since the start: backends, and the addresses of services whose backends
    /// answer for them.
    answering: HashSet<ServiceKey<A>>,
    /// Direct backends by number, those that are gone included.
    direct: HashMap<RuleId, A>,
    ended: HashSet<Ended<A>>,
    ended_direct: HashSet<RuleId>,
    tables: Tables,
}

impl<A> Default for Services<A> {
    fn default() -> Services<A> {
        Services {
            services: Vec::new(),
            by_address: HashMap::new(),
            by_key: HashMap::new(),
            former: HashSet::new(),
            answering: HashSet::new(),
            direct: HashMap::new(),
            ended: HashSet::new(),
            ended_direct: HashSet::new(),
            tables: Tables::default(),
        }
    }
}

impl<A: Address + Into<u128>> Services<A> {
    /// No services yet; those of `before` lend their tables.
    pub fn after(before: Option<&Services<A>>) -> Services<A> {
        Services {
            tables: Tables {
                before: before.map_or_else(HashMap::new, |before| before.tables.now.clone()),
                ..Tables::default()
            },
            ..Services::default()
        }
    }

    /// Adds a service that clients call by `keys`, all at `address`.
    pub fn add(
        &mut self,
        mut service: Service<A>,
        address: (A, ServiceAddress),
        keys: &[ServiceKey<A>],
    ) {
        service.build(&mut self.tables);
        let index = ServiceIndex(self.services.len() as u32);
        let at = self.by_address.entry(address.0).or_default();
        // What several services at one virtual address say adds up.
        at.ping |= address.1.ping;
        at.unmatched = match (at.unmatched, address.1.unmatched) {
            (Some(Refusal::Reject), _) => Some(Refusal::Reject),
            (known, said) => said.or(known),
        };
        for key in keys {
            self.by_key.entry(*key).or_insert(index);
            for backend in &service.backends {
                self.answering.insert(if backend.direct {
                    *key
                } else {
                    ServiceKey {
                        address: backend.address,
                        protocol: key.protocol,
                        port: backend.port.or(key.port),
                    }
                });
            }
        }
        let direct = service.backends.iter().filter(|b| b.direct);
        for backend in direct {
            self.direct.insert(backend.id, backend.address);
            self.ended_direct.remove(&backend.id);
        }
        self.services.push(service);
    }

    /// Takes over what sessions made under `before` still need: the way to direct backends that are gone, and which
    /// sessions end because their backend went. Called when all services are added.
    pub fn succeed(&mut self, before: &Services<A>) {
        self.tables.before = HashMap::new();
        self.former
            .extend(before.former.iter().chain(before.by_key.keys()));
        self.answering.extend(&before.answering);
        for (id, address) in &before.direct {
            self.direct.entry(*id).or_insert(*address);
        }
        self.ended = before.ended.clone();
        let mut gone: HashSet<RuleId> = before.ended_direct.clone();
        for (key, index) in &before.by_key {
            // The service as it is now says what happens; one that is gone altogether, as it was.
            let now = self.by_key.get(key).and_then(|index| self.get(*index));
            let then = before.get(*index);
            let ends = now.or(then).is_some_and(|s| s.drain.ends(key.protocol));
            let Some(service) = then.filter(|_| ends) else {
                continue;
            };
            for backend in &service.backends {
                if backend.direct {
                    gone.insert(backend.id);
                } else {
                    self.ended.insert((*key, (backend.address, backend.port)));
                }
            }
        }
        for (key, index) in &self.by_key {
            let service = self.services.get(index.0 as usize);
            for backend in service.into_iter().flat_map(|s| &s.backends) {
                self.ended.remove(&(*key, (backend.address, backend.port)));
                gone.remove(&backend.id);
            }
        }
        self.ended_direct = gone;
    }

    /// Whether sessions end and find their backends as they do with `other`.
    pub fn keep_sessions_as(&self, other: &Services<A>) -> bool {
        self.direct == other.direct
            && self.ended == other.ended
            && self.ended_direct == other.ended_direct
    }

    /// Leaves backends out that are not `well`, by the service's name, and the backend's address and port.
    pub fn judge(&mut self, well: impl Fn(&str, A, Option<u16>) -> bool) {
        for service in &mut self.services {
            let mut changed = false;
            for backend in service.backends.iter_mut().filter(|b| b.healthy) {
                backend.healthy = well(&service.name, backend.address, backend.port);
                changed |= !backend.healthy;
            }
            if changed {
                service.build(&mut self.tables);
            }
        }
    }

    /// The services, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Service<A>> {
        self.services.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The service at `index`.
    pub fn get(&self, index: ServiceIndex) -> Option<&Service<A>> {
        self.services.get(index.0 as usize)
    }

    /// Whose a destination is, if services stand at its address.
    pub fn find(&self, tuple: &Tuple<A>, protocol: u8) -> Option<ServiceMatch> {
        let at = self.by_address.get(&{ tuple.destination })?;
        let mut keys = candidates(tuple.destination, protocol, tuple.destination_port);
        match keys.find_map(|key| self.by_key.get(&key)) {
            Some(index) => Some(ServiceMatch::Service(*index)),
            None => at.unmatched.map(|_| ServiceMatch::Unmatched),
        }
    }

    /// Whether a packet may belong to a session of a service that is gone.
    pub fn were_called(&self, tuple: &Tuple<A>, protocol: u8) -> bool {
        let mut keys = candidates(tuple.destination, protocol, tuple.destination_port);
        !self.former.is_empty() && keys.any(|key| self.former.contains(&key))
    }

    /// Whether a packet looks like a backend's answer.
    pub fn answers(&self, tuple: &Tuple<A>, protocol: u8) -> bool {
        let mut keys = candidates(tuple.source, protocol, tuple.source_port);
        !self.answering.is_empty() && keys.any(|key| self.answering.contains(&key))
    }

    /// Whether a packet goes to where answers come from.
    pub fn leads_to_backend(&self, tuple: &Tuple<A>, protocol: u8) -> bool {
        self.answers(&tuple.reversed(), protocol)
    }

    /// Where services stand, or stood since the start. An address may come several times.
    pub fn addresses(&self) -> impl Iterator<Item = A> + '_ {
        let former = self.former.iter().map(|key| key.address);
        self.by_address.keys().copied().chain(former)
    }

    /// Whether an echo request to `address` is answered by the gateway.
    pub fn pings(&self, address: A) -> bool {
        self.by_address.get(&address).is_some_and(|at| at.ping)
    }

    /// What the sender is told of a packet that was refused for want of a service or a backend.
    pub fn refusal(&self, tuple: &Tuple<A>, protocol: u8) -> Refusal {
        match self.find(tuple, protocol) {
            Some(ServiceMatch::Service(index)) => self
                .get(index)
                .map_or(Refusal::Drop, |service| service.empty),
            Some(ServiceMatch::Unmatched) => {
                let at = self.by_address.get(&{ tuple.destination });
                at.and_then(|at| at.unmatched).unwrap_or_default()
            }
            None => Refusal::Drop,
        }
    }

    /// Whether services stand at an address that belongs to nobody else.
    pub fn is_virtual(&self, address: A) -> bool {
        self.by_address
            .get(&address)
            .is_some_and(|at| at.unmatched.is_some())
    }

    /// Where packets of a session go that reach their backend as they are.
    pub fn towards(&self, session: &Session<A>) -> Option<A> {
        self.direct.get(&direct_backend(session)?).copied()
    }

    /// Whether a session ends because its backend went away.
    pub fn has_ended(&self, session: &Session<A>) -> bool {
        if let Some(backend) = direct_backend(session) {
            return self.ended_direct.contains(&backend);
        }
        if self.ended.is_empty() {
            return false;
        }
        let (before, after) = (&session.before, &session.after);
        let ports = [Some(after.destination_port), None];
        candidates(
            before.destination,
            session.protocol,
            before.destination_port,
        )
        .any(|key| {
            let mut ends = ports
                .map(|port| (key, (after.destination, port)))
                .into_iter();
            ends.any(|end| self.ended.contains(&end))
        })
    }
}

/// The keys a packet may be listed under, the most particular first.
fn candidates<A: Copy>(address: A, protocol: u8, port: u16) -> impl Iterator<Item = ServiceKey<A>> {
    let key = move |protocol, port| ServiceKey {
        address,
        protocol,
        port,
    };
    let keys = [
        key(Some(protocol), Some(port)),
        key(Some(protocol), None),
        key(None, None),
    ];
    // Echo requests belong to the address, not to what stands there.
    keys.into_iter()
        .filter(move |_| protocol != ICMP && protocol != ICMPV6)
}

/// Notes in a session that its packets go to a direct backend. Such a session has no port of a pool, so that the link to
/// others of its mapping is free for it.
pub fn note_direct<A: Copy>(session: &mut Session<A>, backend: RuleId) {
    session.link = MappingLink {
        next: backend.0.into(),
        ..MappingLink::default()
    };
}

/// The direct backend of a session.
fn direct_backend<A: Copy>(session: &Session<A>) -> Option<RuleId> {
    let next = session.link.next;
    let direct = session.flags & FLAG_MAPPED == 0 && next != NONE;
    direct.then_some(RuleId(next as u16))
}

#[cfg(test)]
mod tests;
