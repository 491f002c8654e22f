//! Pools: those of the configuration, then one for each address that masquerades; and the addresses behind them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use ipnet::Ipv4Net;

use super::sets::{port_ranges, v4};
use super::{Compiler, error_at};
use crate::base::{PoolId, Tick};
use crate::config::validated::{self, Dependence};
use crate::nat::ports::{
    Behaviour, BlockPolicy, Exhaustion, ExternalIndex, ExternalRef, Externals, Layout, Pairing,
    Pool, PoolPolicy, PortMask, PortRange, PortRanges, PortSpace, Select,
};
use crate::wire::{TCP, UDP};

/// Hold-down of masqueraded ports (RFC 6888 REQ-8), the default of pools.
const HOLD: Duration = Duration::from_secs(120);
/// Masqueraded ports in hold-down at a time, the default of pools.
const HOLD_MAX: u32 = 4096;

/// What pools add up to; the fields are those of [`crate::nat::policy::NatPolicy`].
pub(super) struct PoolSet {
    pub pools: Vec<Pool>,
    pub masquerade: HashMap<u32, PoolId>,
    pub externals: Externals,
    pub by_address: HashMap<u32, ExternalIndex>,
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
            let policy = pool_policy(PoolId(at as u16), pool);
            let addresses = self.pool_addresses(pool);
            let layout = layout_of(pool, &policy.ports);
            let refs = self.intern(
                &mut externals,
                &addresses,
                &layout,
                &reserved,
                &pool.label.origin,
            );
            pools.push(Pool::new(policy, refs));
        }
        let masquerade = self.masquerade_pools(&mut externals, &mut pools, &reserved);
        let wanted: Vec<_> = pools
            .iter()
            .flat_map(|p| p.externals())
            .map(|e| e.index)
            .collect();
        // A worker may still lease by the policy in force: what that one offers goes one reload later.
        let offered = |index| {
            self.previous
                .is_some_and(|p| p.nat.pool_of(index).is_some())
        };
        externals.retire(|index| wanted.contains(&index) || offered(index));
        let by_address = externals
            .iter()
            .filter_map(|(index, e)| Some((v4(e.address())?, index)))
            .collect();
        let mut pool_by_external = Vec::new();
        for (at, pool) in pools.iter().enumerate() {
            for e in pool.externals() {
                if pool_by_external.len() <= e.index.index() {
                    pool_by_external.resize(e.index.index() + 1, None);
                }
                pool_by_external[e.index.index()] = Some(PoolId(at as u16));
            }
        }
        PoolSet {
            pools,
            masquerade,
            externals,
            by_address,
            pool_by_external,
        }
    }

    /// Address-dependent filtering needs tables of its own, which exist only if a pool asked for them at start.
    pub(super) fn tracks_contacts(&mut self) -> bool {
        let asks = |p: &&validated::Pool| p.filtering == Dependence::Address;
        let first = self.config.pools.iter().find(asks);
        let tracks = self.previous.map_or(first.is_some(), |p| p.tracks_contacts);
        if let (Some(pool), false) = (first, tracks) {
            let message = "filtering = \"address\" needs a restart: no pool filtered so at start";
            self.errors
                .push(error_at(&pool.label.origin, "pool.filtering", message));
        }
        tracks
    }

    fn pool_addresses(&self, pool: &validated::Pool) -> Vec<Ipv4Addr> {
        let mut addresses = pool.addresses.clone();
        for interface in pool
            .interfaces
            .iter()
            .filter_map(|id| self.config.interfaces.get(id.index()))
        {
            addresses.extend(interface.v4.iter().map(Ipv4Net::addr));
        }
        addresses
    }

    fn intern(
        &mut self,
        externals: &mut Externals,
        addresses: &[Ipv4Addr],
        layout: &Layout,
        reserved: &Arc<PortMask>,
        origin: &str,
    ) -> Vec<ExternalRef> {
        let mut refs = Vec::new();
        for address in addresses {
            match externals.intern(IpAddr::V4(*address), layout) {
                Ok(index) => {
                    if let Some(external) = externals.handle(index) {
                        refs.push(ExternalRef {
                            index,
                            external,
                            draining: false,
                            reserved: reserved.clone(),
                        });
                    }
                }
                Err(e) => self.errors.push(error_at(origin, "pool", &e.to_string())),
            }
        }
        refs
    }

    /// One unnamed pool for each address of an interface, unless a pool has the address already.
    fn masquerade_pools(
        &mut self,
        externals: &mut Externals,
        pools: &mut Vec<Pool>,
        reserved: &Arc<PortMask>,
    ) -> HashMap<u32, PoolId> {
        let mut masquerade = HashMap::new();
        for interface in &self.config.interfaces {
            for net in &interface.v4 {
                let address = net.addr();
                let holder = pools.iter().position(|p| {
                    p.externals()
                        .iter()
                        .any(|e| e.external.address() == IpAddr::V4(address))
                });
                let at = holder.unwrap_or(pools.len());
                if holder.is_none() {
                    let refs = self.intern(
                        externals,
                        &[address],
                        &Layout::Ports,
                        reserved,
                        &interface.label.origin,
                    );
                    pools.push(Pool::new(
                        masquerade_policy(PoolId(at as u16), &interface.label.name),
                        refs,
                    ));
                }
                masquerade.insert(u32::from(address), PoolId(at as u16));
            }
        }
        masquerade
    }

    /// Ports of port forwards: allocation never hands them out.
    fn reserved(&self) -> PortMask {
        let mut mask = PortMask::none().clone();
        for rule in &self.config.port_forwards {
            for &(first, last) in rule.dport.ranges() {
                for (protocol, space) in [(TCP, PortSpace::Tcp), (UDP, PortSpace::Udp)] {
                    if rule.proto.contains(protocol) && !rule.dport.is_any() {
                        mask.reserve(space, PortRange { first, last });
                    }
                }
            }
        }
        mask
    }
}

fn pool_policy(id: PoolId, pool: &validated::Pool) -> PoolPolicy {
    PoolPolicy {
        id,
        name: pool.label.name.clone(),
        ports: port_ranges(&pool.ports),
        low_ports: pool.low_ports,
        select: select(pool.select),
        pairing: match pool.pairing {
            validated::Pairing::Paired => Pairing::Paired,
            validated::Pairing::Spread => Pairing::Spread,
        },
        block: pool.block.map(|b| BlockPolicy {
            size: b.size,
            max_per_host: b.max_per_host,
            idle: Tick::span(b.idle),
        }),
        hold: Tick::span(pool.hold),
        hold_max: pool.hold_max,
        mapping: behaviour(pool.mapping),
        filtering: behaviour(pool.filtering),
        exhaustion: match pool.exhaustion {
            validated::Exhaustion::Drop => Exhaustion::Drop,
            validated::Exhaustion::Icmp => Exhaustion::Icmp,
        },
    }
}

/// What `via = "interface"` allocates from: the defaults of a pool, on the interface's address.
fn masquerade_policy(id: PoolId, interface: &str) -> PoolPolicy {
    PoolPolicy {
        id,
        name: format!("interface:{interface}"),
        ports: PortRanges::single(1024, u16::MAX),
        low_ports: true,
        select: Select::Preserve,
        pairing: Pairing::Paired,
        block: None,
        hold: Tick::span(HOLD),
        hold_max: HOLD_MAX,
        mapping: Behaviour::Endpoint,
        filtering: Behaviour::AddressPort,
        exhaustion: Exhaustion::Drop,
    }
}

fn layout_of(pool: &validated::Pool, ports: &PortRanges) -> Layout {
    match pool.block {
        Some(block) => Layout::Blocks {
            size: block.size,
            ranges: ports.clone(),
        },
        None => Layout::Ports,
    }
}

fn behaviour(dependence: Dependence) -> Behaviour {
    match dependence {
        Dependence::Endpoint => Behaviour::Endpoint,
        Dependence::Address => Behaviour::Address,
        Dependence::AddressPort => Behaviour::AddressPort,
    }
}

pub(super) fn select(select: validated::Select) -> Select {
    match select {
        validated::Select::Preserve => Select::Preserve,
        validated::Select::Random => Select::Random,
        validated::Select::Sequential => Select::Sequential,
    }
}
