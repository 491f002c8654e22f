//! From what the operator wants to what packets are compared with: [`Validated`] becomes a [`Policy`].
//!
//! A policy is built off line, against the one in force: interfaces, pools, rules and external addresses keep their
//! numbers while they keep their names, because sessions, mappings and counters refer to them. External addresses that the
//! new configuration no longer has stay as long as ports on them are leased, and give out none (they drain).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use ipnet::{IpNet, Ipv4Net};

use super::report::{Diagnostic, Report, Severity};
use super::validated::{self, AddressList, Dependence, ForwardSource, PrefixSet, Validated};
use crate::base::{Generation, InterfaceId, PoolId, PortId, Random, RuleId, Tick};
use crate::gateway::interface::{Interface, Interfaces, link_local};
use crate::gateway::lpm::Lpm;
use crate::gateway::proxy::Proxy;
use crate::gateway::routes::{Routes, StaticRoute};
use crate::nat::destination::Inside;
use crate::nat::matcher::{InterfaceSet, RangeSet};
use crate::nat::policy::{NatPolicy, Policy, RuleInfo, TimeoutSettings, Timeouts};
use crate::nat::ports::{
    Behaviour, BlockPolicy, Exhaustion, ExternalRef, Externals, Layout, Pairing, Pool, PoolPolicy,
    PortMask, PortRange, PortRanges, PortSpace, Select,
};
use crate::nat::rss::SourceSteering;
use crate::nat::rules::{
    Conditions, Exempt, Exemption, ForwardTarget, PortForward, SourceRule, StaticRule, Via,
};
use crate::wire::{ICMP, MacAddr, TCP, UDP};

/// What the devices say about a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Whether it has a link.
    pub up: bool,
}

/// Hold-down of masqueraded ports (RFC 6888 REQ-8), the default of pools.
const HOLD: Duration = Duration::from_secs(120);
/// Masqueraded ports in hold-down at a time, the default of pools.
const HOLD_MAX: u32 = 4096;

/// Counted rules there can be; see [`crate::dataplane::counters::MAX_RULES`].
const MAX_RULES: usize = crate::dataplane::counters::MAX_RULES;

/// Compiles a configuration. `ports` are the facts by [`PortId`]; `seed` determines the steering of a first policy.
///
/// # Errors
/// What only shows when everything is put together: a next hop in no subnet, a port layout that cannot change while ports
/// are in use.
pub fn compile(
    config: &Validated,
    ports: &[PortFacts],
    previous: Option<&Policy>,
    seed: u64,
) -> Result<Policy, Report> {
    let mut compiler = Compiler::new(config, ports, previous);
    let (interfaces, routes) = compiler.routes()?;
    let proxy = compiler.proxy(&interfaces);
    let nat = compiler.nat();
    let tracks_contacts = compiler.tracks_contacts();
    if !compiler.errors.is_empty() {
        return Err(Report {
            diagnostics: compiler.errors,
        });
    }
    let timeouts = Timeouts::new(&timeouts(&config.timeouts));
    Ok(Policy {
        generation: Generation(previous.map_or(1, |p| p.generation.0 + 1)),
        workers: config.system.workers,
        steering: previous.map_or_else(
            || SourceSteering::new(&mut Random::from_seed(seed)),
            |p| p.steering.clone(),
        ),
        // Sessions outlive the last rule (E15), so tracking goes on once it was needed.
        stateful: nat.is_stateful() || previous.is_some_and(|p| p.stateful),
        tracks_contacts,
        tells_exhaustion: nat
            .pools
            .iter()
            .any(|p| p.policy().exhaustion == Exhaustion::Icmp),
        static_neighbours: compiler.neighbours(),
        interfaces,
        routes,
        proxy,
        nat,
        timeouts,
        sessions_per_host: config.system.sessions_per_host,
        rules: compiler.rules,
    })
}

/// Reads and compiles a configuration text with devices at their best: every port up, MAC addresses as configured or made
/// up. For tests, benchmarks and questions about a configuration that is not running.
///
/// # Errors
/// As [`super::load`] and [`compile`].
pub fn compile_text(name: &str, text: &str) -> Result<Arc<Policy>, Report> {
    let loaded = super::parse_str(name, text)?;
    compile(&loaded.validated, &[], None, 1).map(Arc::new)
}

/// [`compile_text`] against a policy in force, as a reload does.
///
/// # Errors
/// As [`compile_text`].
pub fn recompile_text(name: &str, text: &str, previous: &Policy) -> Result<Arc<Policy>, Report> {
    let loaded = super::parse_str(name, text)?;
    compile(&loaded.validated, &[], Some(previous), 1).map(Arc::new)
}

fn timeouts(t: &validated::Timeouts) -> TimeoutSettings {
    TimeoutSettings {
        udp: t.udp,
        udp_unreplied: t.udp_unreplied,
        tcp: t.tcp,
        tcp_transitory: t.tcp_transitory,
        tcp_reset: t.tcp_reset,
        icmp: t.icmp,
        other: t.other,
    }
}

struct Compiler<'a> {
    config: &'a Validated,
    ports: &'a [PortFacts],
    previous: Option<&'a Policy>,
    /// Policy id of each interface of the configuration.
    ids: Vec<InterfaceId>,
    rules: Vec<RuleInfo>,
    errors: Vec<Diagnostic>,
}

impl<'a> Compiler<'a> {
    fn new(
        config: &'a Validated,
        ports: &'a [PortFacts],
        previous: Option<&'a Policy>,
    ) -> Compiler<'a> {
        Compiler {
            ids: stable_interface_ids(config, previous),
            config,
            ports,
            previous,
            rules: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn id(&self, of: InterfaceId) -> InterfaceId {
        self.ids.get(of.index()).copied().unwrap_or(of)
    }

    fn interface(&self, index: usize) -> Interface {
        let from = &self.config.interfaces[index];
        let facts = self.facts(from.port);
        Interface {
            id: self.ids[index],
            name: from.label.name.clone(),
            port: from.port,
            vlan: from.vlan,
            mac: facts.mac,
            mtu: from.mtu,
            realm: from.realm,
            forward: from.forward,
            urpf_strict: from.urpf == validated::Urpf::Strict,
            clamp_mss: from.clamp_mss,
            up: facts.up,
            v4: from.v4.clone(),
            v6: from.v6.clone(),
            link_local: link_local(facts.mac),
        }
    }

    fn facts(&self, port: PortId) -> PortFacts {
        // A configured address wins over the device's, also where the driver cannot set it.
        let configured = self
            .config
            .ports
            .get(port.index())
            .and_then(|p| p.mac)
            .map(MacAddr);
        let facts = self.ports.get(port.index()).copied();
        PortFacts {
            mac: configured.or(facts.map(|f| f.mac)).unwrap_or(MacAddr([
                2,
                0,
                0,
                0,
                0,
                port.0 as u8,
            ])),
            up: facts.is_none_or(|f| f.up),
        }
    }

    fn routes(&mut self) -> Result<(Interfaces, Routes), Report> {
        let interfaces =
            Interfaces::new((0..self.config.interfaces.len()).map(|i| self.interface(i)));
        let mut list = Vec::new();
        let mut origins = Vec::new();
        for route in &self.config.routes {
            let interface = route.interface.map(|id| self.id(id));
            let hops: Vec<Option<IpAddr>> = if route.via.is_empty() {
                vec![None]
            } else {
                route.via.iter().copied().map(Some).collect()
            };
            for via in hops {
                list.push(StaticRoute {
                    realm: route.realm,
                    prefix: route.prefix,
                    via,
                    interface,
                });
                origins.push(&route.label);
            }
        }
        match Routes::build(&interfaces, &list) {
            Ok(routes) => Ok((interfaces, routes)),
            Err(errors) => Err(Report {
                diagnostics: errors
                    .iter()
                    .map(|e| error_at(&origins[e.index].origin, "route", &e.reason.to_string()))
                    .collect(),
            }),
        }
    }

    fn neighbours(&self) -> Vec<(InterfaceId, IpAddr, MacAddr)> {
        let list = self.config.neighbours.iter();
        list.map(|n| (self.id(n.interface), n.address, MacAddr(n.mac)))
            .collect()
    }

    /// Pool addresses, statically translated ones and forwarded ones are answered for where they are on link.
    fn proxy(&self, interfaces: &Interfaces) -> Proxy {
        let mut ranges: Vec<(IpAddr, IpAddr)> = Vec::new();
        for pool in self.config.pools.iter().filter(|p| p.answer_arp) {
            ranges.extend(
                pool.addresses
                    .iter()
                    .map(|a| (IpAddr::V4(*a), IpAddr::V4(*a))),
            );
        }
        for rule in &self.config.static_nat {
            ranges.push((
                IpAddr::V4(rule.external.network()),
                IpAddr::V4(rule.external.broadcast()),
            ));
        }
        for rule in &self.config.port_forwards {
            let single = rule
                .dst
                .prefixes
                .iter()
                .filter(|net| net.prefix_len() == net.max_prefix_len());
            ranges.extend(single.map(|net| (net.addr(), net.addr())));
        }
        // Addresses on no local subnet are routed to us; nobody asks for them.
        Proxy::build(interfaces, &ranges).0
    }

    fn nat(&mut self) -> NatPolicy {
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
        let exempt = self.exempts();
        let source = self.source_rules();
        let forwards = self.forwards();
        let statics = self.statics();
        let inside = self.inside(&source, &statics);
        let ever_inside = self.ever_inside(&inside);
        NatPolicy {
            exempt,
            source,
            forwards,
            statics,
            pools,
            masquerade,
            externals,
            by_address,
            pool_by_external,
            inside,
            ever_inside,
        }
    }

    /// Address-dependent filtering needs tables of its own, which exist only if a pool asked for them at start.
    fn tracks_contacts(&mut self) -> bool {
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

    /// The number of a counted rule: the one it had under the previous policy, or one not used before.
    fn rule(&mut self, kind: &'static str, label: &validated::Label, text: String) -> RuleId {
        let before = self.previous.map_or(&[][..], |p| &p.rules);
        let known = before
            .iter()
            .find(|r| r.kind == kind && r.name == label.name);
        let highest = before
            .iter()
            .chain(&self.rules)
            .map(|r| r.id.index() + 1)
            .max()
            .unwrap_or(0);
        let id = known.map_or(RuleId(highest as u16), |r| r.id);
        if id.index() >= MAX_RULES {
            let text =
                format!("more than {MAX_RULES} rules since the start (restart to count anew)");
            self.errors.push(error_at(&label.origin, kind, &text));
        }
        self.rules.push(RuleInfo {
            id,
            kind,
            name: label.name.clone(),
            text,
        });
        id
    }

    fn interfaces_of(&self, of: &validated::InterfaceMatch) -> InterfaceSet {
        match of {
            validated::InterfaceMatch::Any => InterfaceSet::Any,
            validated::InterfaceMatch::Only { ids, .. } => {
                let mut list: Vec<InterfaceId> = ids.iter().map(|id| self.id(*id)).collect();
                list.sort_unstable();
                InterfaceSet::Only(list)
            }
        }
    }

    fn addresses_of(&self, set: &PrefixSet) -> RangeSet<u32> {
        if set.is_any() {
            return RangeSet::any();
        }
        let include = match &set.include {
            Some(list) => self.ranges(list),
            None => vec![(0, u32::MAX)],
        };
        RangeSet::of(subtract(include, self.ranges(&set.exclude)))
    }

    fn ranges(&self, list: &AddressList) -> Vec<(u32, u32)> {
        let nets = list.resolve(&self.config.interfaces);
        nets.iter()
            .filter_map(|net| match net {
                IpNet::V4(net) => Some((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(_) => None,
            })
            .collect()
    }

    fn conditions(&self, m: &validated::Match) -> Conditions {
        Conditions {
            ingress: self.interfaces_of(&m.in_),
            egress: self.interfaces_of(&m.out),
            source: self.addresses_of(&m.src),
            destination: self.addresses_of(&m.dst),
            protocol: protocols(&m.proto),
            source_port: port_set(&m.sport),
            destination_port: port_set(&m.dport),
        }
    }

    fn source_rules(&mut self) -> Vec<SourceRule> {
        let config = self.config;
        let mut rules = Vec::new();
        for rule in &config.source_nat {
            let text = describe_source(rule, config);
            let id = self.rule("source-nat", &rule.label, text);
            let via = match rule.via {
                validated::Via::Interface => Via::Interface,
                validated::Via::Pool(pool) => Via::Pool(pool),
                validated::Via::None => Via::Nothing,
            };
            // A port range binds query ids only when the rule is about ICMP alone (E6).
            let binds_ids = rule.matching.proto.iter().eq([ICMP]);
            rules.push(SourceRule {
                id,
                conditions: self.conditions(&rule.matching),
                via,
                ports: rule.ports.as_ref().map(port_ranges),
                binds_ids,
                select: rule.select.map(select),
            });
        }
        rules
    }

    fn exempts(&mut self) -> Vec<Exempt> {
        let config = self.config;
        let mut rules = Vec::new();
        for rule in &config.exempts {
            let text = format!("in={} src={} dst={}", rule.in_, rule.src, rule.dst);
            let id = self.rule("exempt", &rule.label, text);
            let leave = self
                .prefixes(&rule.dst)
                .into_iter()
                .map(|net| (net, Exemption::Leave));
            let force = rule
                .force
                .iter()
                .filter_map(v4_net)
                .map(|net| (net, Exemption::Force));
            let entries = leave
                .chain(force)
                .map(|(net, what)| (u32::from(net.network()), net.prefix_len(), what));
            rules.push(Exempt {
                id,
                ingress: self.interfaces_of(&rule.in_),
                source: self.addresses_of(&rule.src),
                destinations: Lpm::build(entries),
            });
        }
        rules
    }

    /// A destination list as prefixes, whose lengths matter; what it excludes is cut out of them.
    fn prefixes(&self, set: &PrefixSet) -> Vec<Ipv4Net> {
        if set.exclude.is_empty() {
            let list = set.include.as_ref().map_or_else(
                || vec![IpNet::V4(Ipv4Net::default())],
                |l| l.prefixes.clone(),
            );
            let own = set.include.as_ref().map(|l| {
                self.ranges(&AddressList {
                    prefixes: Vec::new(),
                    ..l.clone()
                })
            });
            let own = own
                .into_iter()
                .flatten()
                .map(|(a, _)| Ipv4Net::from(Ipv4Addr::from(a)));
            return list.iter().filter_map(v4_net).chain(own).collect();
        }
        let ranges = self.addresses_of(set);
        let subnets =
            |&(a, b): &(u32, u32)| ipnet::Ipv4Subnets::new(Ipv4Addr::from(a), Ipv4Addr::from(b), 0);
        ranges.ranges().iter().flat_map(subnets).collect()
    }

    fn statics(&mut self) -> Vec<StaticRule> {
        let config = self.config;
        let mut rules = Vec::new();
        for rule in &config.static_nat {
            let id = self.rule(
                "static-nat",
                &rule.label,
                format!("{} <-> {}", rule.external, rule.internal),
            );
            rules.push(StaticRule {
                id,
                external: u32::from(rule.external.network()),
                internal: u32::from(rule.internal.network()),
                host_mask: u32::from(rule.external.hostmask()),
                interface: rule.interface.map(|i| self.id(i)),
                inbound: rule.direction != validated::Direction::Out,
                outbound: rule.direction != validated::Direction::In,
            });
        }
        rules
    }

    fn forwards(&mut self) -> Vec<PortForward> {
        let config = self.config;
        let mut rules = Vec::new();
        for rule in &config.port_forwards {
            let targets: Vec<String> = rule.to.iter().map(describe_target).collect();
            let text = format!(
                "in={} proto={} dport={} to={}",
                rule.in_,
                rule.proto,
                rule.dport,
                targets.join(",")
            );
            let id = self.rule("port-forward", &rule.label, text);
            let destination = if rule.dst.is_empty() {
                self.arrival_addresses(&rule.in_)
            } else {
                self.ranges(&rule.dst)
            };
            rules.push(PortForward {
                id,
                conditions: Conditions {
                    ingress: self.interfaces_of(&rule.in_),
                    source: self.addresses_of(&rule.src),
                    destination: RangeSet::of(destination),
                    protocol: protocols(&rule.proto),
                    destination_port: port_set(&rule.dport),
                    ..Conditions::default()
                },
                targets: rule
                    .to
                    .iter()
                    .map(|t| ForwardTarget {
                        address: u32::from(t.address),
                        first_port: t.first_port,
                    })
                    .collect(),
                hairpin: rule.hairpin,
                source: match rule.source {
                    ForwardSource::Address(address) => Some(u32::from(address)),
                    ForwardSource::Auto | ForwardSource::Keep => None,
                },
            });
        }
        rules
    }

    fn arrival_addresses(&self, arriving: &validated::InterfaceMatch) -> Vec<(u32, u32)> {
        let matching = self
            .config
            .interfaces
            .iter()
            .enumerate()
            .filter(|(i, _)| arriving.contains(InterfaceId(*i as u16)));
        matching
            .flat_map(|(_, interface)| &interface.v4)
            .map(|net| (u32::from(net.addr()), u32::from(net.addr())))
            .collect()
    }

    /// Where subscribers are or were, by receiving interface.
    fn ever_inside(&self, inside: &[Inside]) -> Vec<Inside> {
        let before = self.previous.map_or(&[][..], |p| &p.nat.ever_inside);
        let slots = inside.len().max(before.len());
        let at = |list: &[Inside], slot: usize| list.get(slot).cloned().unwrap_or_default();
        (0..slots)
            .map(|slot| at(inside, slot).union(&at(before, slot)))
            .collect()
    }

    /// Where subscribers are: whose packets some rule may source-translate, by receiving interface.
    fn inside(&self, source: &[SourceRule], statics: &[StaticRule]) -> Vec<Inside> {
        let slots = self.ids.iter().map(|id| id.index() + 1).max().unwrap_or(0);
        let mut inside = vec![Inside::Never; slots];
        for id in &self.ids {
            let mut ranges = Vec::new();
            let mut always = false;
            for rule in source.iter().filter(|r| !matches!(r.via, Via::Nothing)) {
                let c = &rule.conditions;
                if !c.ingress.contains(*id) {
                    continue;
                }
                let leaves_here = c.egress.is_constrained() && c.egress.contains(*id);
                if c.source.is_constrained() {
                    ranges.extend_from_slice(c.source.ranges());
                } else if c.ingress.is_constrained() || !leaves_here {
                    always = true;
                }
            }
            for rule in statics
                .iter()
                .filter(|r| r.outbound && r.interface != Some(*id))
            {
                ranges.push((rule.internal, rule.internal | rule.host_mask));
            }
            inside[id.index()] = match (always, ranges.is_empty()) {
                (true, _) => Inside::Always,
                (false, true) => Inside::Never,
                (false, false) => Inside::Sources(RangeSet::of(ranges)),
            };
        }
        inside
    }
}

/// An error about an object, by where it stands.
fn error_at(origin: &str, path: &str, message: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        place: origin.to_owned(),
        path: path.to_owned(),
        message: message.to_owned(),
    }
}

/// Interfaces keep their number while they keep their name; new ones take numbers that are free.
fn stable_interface_ids(config: &Validated, previous: Option<&Policy>) -> Vec<InterfaceId> {
    let before = |name: &str| {
        previous
            .and_then(|p| p.interfaces.by_name(name))
            .map(|i| i.id)
    };
    let mut taken: Vec<InterfaceId> = config
        .interfaces
        .iter()
        .filter_map(|i| before(&i.label.name))
        .collect();
    // A number that only just became free still means the old interface to sessions and neighbours.
    taken.extend(
        previous
            .iter()
            .flat_map(|p| p.interfaces.iter().map(|i| i.id)),
    );
    let mut next = 0;
    let mut fresh = || {
        while taken.contains(&InterfaceId(next)) {
            next += 1;
        }
        next += 1;
        InterfaceId(next - 1)
    };
    config
        .interfaces
        .iter()
        .map(|i| before(&i.label.name).unwrap_or_else(&mut fresh))
        .collect()
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

fn select(select: validated::Select) -> Select {
    match select {
        validated::Select::Preserve => Select::Preserve,
        validated::Select::Random => Select::Random,
        validated::Select::Sequential => Select::Sequential,
    }
}

fn port_ranges(set: &validated::PortSet) -> PortRanges {
    let ranges = set
        .ranges()
        .iter()
        .map(|&(first, last)| PortRange { first, last })
        .collect();
    PortRanges::new(ranges).unwrap_or_else(|_| PortRanges::single(1024, u16::MAX))
}

fn port_set(set: &validated::PortSet) -> RangeSet<u16> {
    if set.is_any() {
        RangeSet::any()
    } else {
        RangeSet::of(set.ranges().iter().copied())
    }
}

fn protocols(set: &validated::ProtocolSet) -> RangeSet<u8> {
    if set.is_any() {
        RangeSet::any()
    } else {
        RangeSet::of(set.iter().map(|p| (p, p)))
    }
}

fn v4(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(v4) => Some(u32::from(v4)),
        IpAddr::V6(_) => None,
    }
}

fn v4_net(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    }
}

/// What is left of some ranges when others are taken out.
fn subtract(from: Vec<(u32, u32)>, mut out: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    out.sort_unstable();
    let mut left = Vec::new();
    for (mut low, high) in from {
        let mut open = true;
        for &(a, b) in &out {
            if !open || b < low || a > high {
                continue;
            }
            if a > low {
                left.push((low, a - 1));
            }
            match b.checked_add(1) {
                Some(next) => low = low.max(next),
                None => open = false,
            }
        }
        if open && low <= high {
            left.push((low, high));
        }
    }
    left
}

fn describe_source(rule: &validated::SourceNat, config: &Validated) -> String {
    let m = &rule.matching;
    let via = match rule.via {
        validated::Via::Interface => "interface".to_owned(),
        validated::Via::Pool(id) => config
            .pools
            .get(id.index())
            .map_or_else(String::new, |p| format!("pool:{}", p.label.name)),
        validated::Via::None => "none".to_owned(),
    };
    let ports = rule
        .ports
        .as_ref()
        .map_or_else(|| "-".to_owned(), ToString::to_string);
    format!(
        "in={} out={} src={} dst={} proto={} sport={} dport={} via={via} ports={ports}",
        m.in_, m.out, m.src, m.dst, m.proto, m.sport, m.dport
    )
}

fn describe_target(target: &validated::Target) -> String {
    match target.first_port {
        Some(port) => format!("{}:{port}", target.address),
        None => target.address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtraction_leaves_exactly_the_rest() {
        assert_eq!(
            subtract(vec![(0, 100)], vec![(10, 20), (90, 200)]),
            [(0, 9), (21, 89)]
        );
        assert_eq!(subtract(vec![(0, u32::MAX)], vec![(5, u32::MAX)]), [(0, 4)]);
        assert_eq!(subtract(vec![(3, 4)], vec![(0, 9)]), []);
        assert_eq!(subtract(vec![(3, 4), (8, 9)], vec![]), [(3, 4), (8, 9)]);
    }
}
