//! Pools: those of the configuration, then one for each address that masquerades; and the addresses behind them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use super::sets::port_ranges;
use super::{Compiler, error_at};
use crate::base::{PoolId, Tick};
use crate::config::validated::{self, Validated};
use crate::nat::behaviour::{Behaviour, Behaviours};
use crate::nat::family::Family;
use crate::nat::helpers::Helpers;
use crate::nat::policy::Policy;
use crate::nat::ports::{
    BlockPolicy, Exhaustion, ExternalRef, Externals, Layout, Pairing, Pool, PoolPolicy, Pools,
    PortMask, PortRange, PortRanges, PortSpace, Select,
};
use crate::wire::{SCTP, TCP, UDP};

/// Hold-down of masqueraded ports (RFC 6888 REQ-8), the default of pools.
const HOLD: Duration = Duration::from_secs(120);
/// How long a block of a deterministic pool stays with its host without use (RFC 7768 section 4: a few minutes beyond
/// the mappings' own timers).
const OVERFLOW_IDLE: Duration = Duration::from_secs(120);
/// Protocols whose forwarded ports are not given out.
const RESERVED: [(u8, PortSpace); 3] = [
    (TCP, PortSpace::Tcp),
    (UDP, PortSpace::Udp),
    (SCTP, PortSpace::Sctp),
];
/// Masqueraded ports in hold-down at a time, the default of pools.
const HOLD_MAX: u32 = 4096;

/// What pools add up to; the fields are those of [`crate::nat::policy::NatPolicy`] and its
/// [`Translation`](crate::nat::policy::Translation).
pub(super) struct PoolSet {
    pub pools: Pools,
    pub masquerade_v4: HashMap<u32, PoolId>,
    pub masquerade_v6: HashMap<u128, PoolId>,
    pub externals: Externals,
    pub pool_by_external: Vec<Option<PoolId>>,
}

impl Compiler<'_> {
    /// The pools and the registry of external addresses, which keep what is in use.
    pub(super) fn pools(&mut self) -> PoolSet {
        let mut externals = self
            .previous
            .map_or_else(Externals::new, |p| p.nat.externals.clone());
        let reserved = Arc::new(self.reserved());
        let mut pools: Vec<Pool> = Vec::new();
        for (at, pool) in self.config.pools.iter().enumerate() {
            let ids = self.pool_ids.get(at).copied().unwrap_or_default();
            let halves = [(ids.v4, false), (ids.v6, true)];
            for (id, v6) in halves.into_iter().filter_map(|(id, v6)| Some((id?, v6))) {
                let policy = pool_policy(id, pool);
                let addresses = pool_addresses(self.config, pool);
                let addresses: Vec<IpAddr> = addresses.filter(|a| a.is_ipv6() == v6).collect();
                let layout = layout_of(pool, &policy.ports);
                let refs = self.intern(
                    &mut externals,
                    &addresses,
                    &layout,
                    &reserved,
                    Some(pool),
                    &pool.label.origin,
                );
                pools.push(self.succeeding(Pool::new(policy, refs, self.config.system.workers)));
            }
        }
        let masquerade = self.masquerade_pools(&mut externals, &mut pools, &reserved);
        let masquerade_v4 = masquerade.iter().filter_map(of_family).collect();
        let masquerade_v6 = masquerade.iter().filter_map(of_family).collect();
        let wanted: Vec<_> = pools
            .iter()
            .flat_map(|p| p.externals())
            .map(|e| e.index)
            .collect();
        // A worker may still lease by the policy in force: what that one offers goes one reload later.
        let previous = self.previous;
        let offered = |index| previous.is_some_and(|p| p.nat.offers(index));
        externals.retire(|index| wanted.contains(&index) || offered(index));
        let mut pool_by_external = Vec::new();
        for pool in &pools {
            for e in pool.externals() {
                if pool_by_external.len() <= e.index.index() {
                    pool_by_external.resize(e.index.index() + 1, None);
                }
                pool_by_external[e.index.index()] = Some(pool.policy().id);
            }
        }
        PoolSet {
            pools: Pools::new(pools),
            masquerade_v4,
            masquerade_v6,
            externals,
            pool_by_external,
        }
    }

    /// Address-dependent filtering needs tables of its own, which exist only if a pool asked for them at start.
    pub(super) fn tracks_contacts(&mut self) -> bool {
        self.has_tables(
            validated::Pool::filters_by_address,
            |policy| policy.tracks_contacts,
            "pool.filtering",
            "filtering = \"address\" needs a restart: no pool filtered so at start",
        )
    }

    /// So do ports that several mappings use.
    pub(super) fn shares_ports(&mut self) -> bool {
        self.has_tables(
            validated::Pool::shares_ports,
            |policy| policy.shares_ports,
            "pool.mapping",
            "sharing ports between mappings needs a restart: no pool did so at start",
        )
    }

    fn has_tables(
        &mut self,
        asks: fn(&validated::Pool) -> bool,
        has: fn(&Policy) -> bool,
        key: &str,
        otherwise: &str,
    ) -> bool {
        let first = self.config.pools.iter().find(|pool| asks(pool));
        let has = self.previous.map_or(first.is_some(), has);
        if let (Some(pool), false) = (first, has) {
            self.errors
                .push(error_at(&pool.label.origin, key, otherwise));
        }
        has
    }

    fn intern(
        &mut self,
        externals: &mut Externals,
        addresses: &[IpAddr],
        layout: &Layout,
        reserved: &Arc<PortMask>,
        pool: Option<&validated::Pool>,
        origin: &str,
    ) -> Vec<ExternalRef> {
        let drained = pool.map(|p| p.drain.union(&p.quarantine).copied().collect());
        let drained: BTreeSet<IpAddr> = drained.unwrap_or_default();
        let previous = self.previous;
        let offered = |index| previous.is_some_and(|p| p.nat.offers(index));
        let mut refs = Vec::new();
        for address in addresses {
            match externals.intern(*address, layout, offered) {
                Ok(index) => {
                    if let Some(external) = externals.handle(index) {
                        refs.push(ExternalRef {
                            index,
                            external,
                            draining: drained.contains(address),
                            reserved: reserved.clone(),
                        });
                    }
                }
                Err(e) => self.errors.push(error_at(origin, "pool", &e.to_string())),
            }
        }
        refs
    }

    /// One unnamed pool for each address of an interface and each source a service gives its flows, unless a pool has the
    /// address already.
    fn masquerade_pools(
        &mut self,
        externals: &mut Externals,
        pools: &mut Vec<Pool>,
        reserved: &Arc<PortMask>,
    ) -> HashMap<IpAddr, PoolId> {
        let mut masquerade = HashMap::new();
        let config = self.config;
        let of_interfaces = config.interfaces.iter().flat_map(|interface| {
            let name = format!("interface:{}", interface.label.name);
            interface.addresses().map(move |address| {
                let origin = interface.label.origin.clone();
                (address, name.clone(), interface.helpers, origin)
            })
        });
        // What backends see as source, where it is no interface's address.
        let of_services = self.service_sources().into_iter();
        let of_services = of_services.map(|(address, origin)| {
            let name = format!("service:{address}");
            (address, name, Helpers::default(), origin.to_owned())
        });
        let wanted: Vec<_> = of_interfaces.chain(of_services).collect();
        for (address, name, helpers, origin) in wanted {
            let holder = pools.iter().find(|pool| has(pool, address));
            let id = match holder.map(|pool| pool.policy().id) {
                Some(id) => id,
                None => {
                    let same = |p: &Pool| p.policy().name == name && has(p, address);
                    let policy =
                        masquerade_policy(self.more_pool_ids.of(same), name.clone(), helpers);
                    let id = policy.id;
                    let refs = self.intern(
                        externals,
                        &[address],
                        &Layout::Ports,
                        reserved,
                        None,
                        &origin,
                    );
                    pools.push(self.succeeding(Pool::new(
                        policy,
                        refs,
                        self.config.system.workers,
                    )));
                    id
                }
            };
            masquerade.insert(address, id);
        }
        masquerade
    }

    /// Addresses on which no session may live.
    pub(super) fn quarantined<A: Family>(&self) -> HashSet<A> {
        let addresses = self.config.pools.iter().flat_map(|p| &p.quarantine);
        addresses.copied().filter_map(A::from_ip).collect()
    }

    /// The pool counts on where the one with its id is.
    fn succeeding(&self, pool: Pool) -> Pool {
        let before = self.previous.and_then(|p| p.nat.pool(pool.policy().id));
        match before {
            Some(before) => pool.succeeding(before),
            None => pool,
        }
    }

    /// Ports of port forwards and services, and those the gateway itself sends from: allocation never hands them out.
    fn reserved(&self) -> PortMask {
        let mut mask = PortMask::none().clone();
        for &port in &self.config.own_ports {
            mask.reserve(PortSpace::Udp, PortRange::new(port, port));
        }
        for rule in &self.config.port_forwards {
            for &(first, last) in rule.dport.ranges() {
                for (protocol, space) in RESERVED {
                    if rule.proto.contains(protocol) && !rule.dport.is_any() {
                        mask.reserve(space, PortRange { first, last });
                    }
                }
            }
        }
        for service in self.config.services.iter().filter(|s| !s.is_virtual) {
            for (protocol, space) in RESERVED {
                if let Some(port) = service.port.filter(|_| service.proto.contains(protocol)) {
                    let range = PortRange {
                        first: port,
                        last: port,
                    };
                    mask.reserve(space, range);
                }
            }
        }
        mask
    }
}

/// Hands out pool ids. A pool keeps its id while it keeps its name, wherever it stands in the file, because pairing, block
/// quotas and counters go by it.
pub(super) struct PoolIds<'a> {
    previous: Option<&'a Policy>,
    taken: Vec<PoolId>,
}

impl<'a> PoolIds<'a> {
    pub(super) fn new(previous: Option<&'a Policy>) -> PoolIds<'a> {
        // An id that only just became free still means the old pool to subscribers that are paired there.
        let before = previous
            .iter()
            .flat_map(|p| p.nat.pools.iter().map(|pool| pool.policy().id));
        PoolIds {
            taken: before.collect(),
            previous,
        }
    }

    /// The ids of a configuration's pools, in order.
    pub(super) fn of_config(&mut self, config: &Validated) -> Vec<Halves> {
        let mut all = Vec::new();
        for v6 in [false, true] {
            let ids = config.pools.iter().map(|pool| {
                let has = |v6: bool| pool_addresses(config, pool).any(|a| a.is_ipv6() == v6);
                // A pool that has no address at all is one of IPv4.
                let exists = has(v6) || !v6 && !has(true);
                exists.then(|| self.of(|before| is_half(before, &pool.label.name, v6)))
            });
            all.push(ids.collect::<Vec<_>>());
        }
        let [v4, v6] = [all.first(), all.get(1)].map(|ids| ids.into_iter().flatten().copied());
        v4.zip(v6).map(|(v4, v6)| Halves { v4, v6 }).collect()
    }

    /// The id of the pool in force that `same` recognises, or one that is free.
    fn of(&mut self, same: impl Fn(&Pool) -> bool) -> PoolId {
        let before = self.previous.map(|p| p.nat.pools.iter());
        if let Some(pool) = before.into_iter().flatten().find(|pool| same(pool)) {
            return pool.policy().id;
        }
        let mut free = (0..=u16::MAX).map(PoolId);
        let id = free
            .find(|id| !self.taken.contains(id))
            .unwrap_or(PoolId(u16::MAX));
        self.taken.push(id);
        id
    }
}

/// A pool of the configuration as allocation knows it: its addresses of each family, if it has any, are a pool.
#[derive(Clone, Copy, Default)]
pub(super) struct Halves {
    pub v4: Option<PoolId>,
    pub v6: Option<PoolId>,
}

/// The addresses of a pool: its own, then those of the interfaces it follows.
fn pool_addresses<'a>(
    config: &'a Validated,
    pool: &'a validated::Pool,
) -> impl Iterator<Item = IpAddr> + 'a {
    let followed = pool.interfaces.iter();
    let followed = followed.filter_map(|id| config.interfaces.get(id.index()));
    let own = pool.addresses.iter().copied();
    own.chain(followed.flat_map(|interface| interface.addresses()))
}

/// Whether a pool is the half with IPv6 addresses, or the other one, of the pool with this name.
fn is_half(pool: &Pool, name: &str, v6: bool) -> bool {
    let first = pool.externals().first();
    let is_v6 = first.is_some_and(|e| e.external.address().is_ipv6());
    pool.policy().name == name && is_v6 == v6
}

fn of_family<A: Family>((address, pool): (&IpAddr, &PoolId)) -> Option<(A, PoolId)> {
    Some((A::from_ip(*address)?, *pool))
}

fn has(pool: &Pool, address: IpAddr) -> bool {
    let mut externals = pool.externals().iter();
    externals.any(|e| e.external.address() == address)
}

fn pool_policy(id: PoolId, pool: &validated::Pool) -> PoolPolicy {
    PoolPolicy {
        id,
        name: pool.label.name.clone(),
        ports: port_ranges(&pool.ports),
        low_ports: pool.low_ports,
        select: select(pool.select),
        parity: pool.parity,
        pairing: match pool.pairing {
            validated::Pairing::Paired => Pairing::Paired,
            validated::Pairing::Spread => Pairing::Spread,
        },
        block: block_policy(pool),
        deterministic: pool
            .deterministic
            .as_ref()
            .map(|settings| Arc::new(settings.mapping())),
        hold: Tick::span(pool.hold),
        hold_max: pool.hold_max,
        behaviours: pool.behaviours(),
        exhaustion: match pool.exhaustion {
            validated::Exhaustion::Drop => Exhaustion::Drop,
            validated::Exhaustion::Icmp => Exhaustion::Icmp,
        },
        helpers: pool.helpers,
    }
}

/// What `via = "interface"` allocates from: the defaults of a pool, on the interface's address.
fn masquerade_policy(id: PoolId, name: String, helpers: Helpers) -> PoolPolicy {
    PoolPolicy {
        id,
        name,
        ports: PortRanges::single(1024, u16::MAX),
        low_ports: true,
        select: Select::Preserve,
        parity: false,
        pairing: Pairing::Paired,
        block: None,
        deterministic: None,
        hold: Tick::span(HOLD),
        hold_max: HOLD_MAX,
        behaviours: [Behaviours {
            mapping: Behaviour::Endpoint,
            filtering: Behaviour::AddressPort,
        }; PortSpace::COUNT],
        exhaustion: Exhaustion::Drop,
        helpers,
    }
}

/// The blocks of a pool; of a deterministic one, those for overflow.
fn block_policy(pool: &validated::Pool) -> Option<BlockPolicy> {
    if let Some(settings) = &pool.deterministic {
        return Some(BlockPolicy {
            size: settings.overflow.map_or(1, |o| o.block),
            max_per_host: settings.overflow.map_or(0, |o| o.max),
            idle: Tick::span(OVERFLOW_IDLE),
        });
    }
    pool.block.map(|b| BlockPolicy {
        size: b.size,
        max_per_host: b.max_per_host,
        idle: Tick::span(b.idle),
    })
}

fn layout_of(pool: &validated::Pool, ports: &PortRanges) -> Layout {
    match (&pool.deterministic, pool.block) {
        (Some(settings), _) => Layout::Planned(settings.plan()),
        (None, Some(block)) => Layout::Blocks {
            size: block.size,
            ranges: ports.clone(),
        },
        (None, None) => Layout::Ports,
    }
}

pub(super) fn select(select: validated::Select) -> Select {
    match select {
        validated::Select::Preserve => Select::Preserve,
        validated::Select::Random => Select::Random,
        validated::Select::Sequential => Select::Sequential,
    }
}
