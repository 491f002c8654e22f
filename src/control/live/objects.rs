//! Listings of what the management side can read without asking a worker: interfaces, routes, pools, blocks, rules.

use super::ask::{QueueHandle, WorkerHandle};
use super::leases::Views;
use super::tables::{Listed, Resolved, interface_name, realm_name};
use crate::base::{PortId, RuleId};
use crate::config::compile::exempt::{KIND, count_name, destinations};
use crate::config::validated::{self, ForwardSource, Label, Validated, Via};
use crate::control::api::{
    Block, Exempt, ExemptFileState, Filter, Interface, Item, Listing, Pool, PoolPorts, Queue,
    Route, Rule,
};
use crate::dataplane::accounts::RuleCount;
use crate::nat::behaviour::{Behaviour, Behaviours};
use crate::nat::policy::Policy;
use crate::nat::ports::{BlockIndex, External, PoolCounts, PortSpace, Select};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

/// Lists interfaces; `port_name` names the device beneath.
pub fn interfaces(
    out: &mut Listed<'_>,
    policy: &Policy,
    resolved: &Resolved,
    port_name: impl Fn(PortId) -> String,
    leases: &Views,
) {
    let filter = resolved.filter();
    for interface in policy.interfaces.iter() {
        let v4 = interface
            .v4
            .iter()
            .map(|net| (IpAddr::V4(net.addr()), net.to_string()));
        let v6 = interface
            .v6
            .iter()
            .map(|net| (IpAddr::V6(net.addr()), net.to_string()));
        let addresses: Vec<(IpAddr, String)> = v4.chain(v6).collect();
        let takes = Filter::matches_name(&filter.interface, Some(&interface.name))
            && resolved.takes_realm(interface.realm)
            && filter
                .ip
                .is_none_or(|net| addresses.iter().any(|(address, _)| net.contains(address)));
        if takes {
            out.add(Item::Interface(Interface {
                interface: interface.name.clone(),
                port: port_name(interface.port),
                vlan: interface.vlan.map(|vlan| vlan.0),
                up: interface.up,
                mac: interface.mac.to_string(),
                mtu_bytes: interface.mtu.into(),
                realm: realm_name(policy, interface.realm),
                addresses: addresses.into_iter().map(|(_, text)| text).collect(),
                lease: leases.get(&interface.name).cloned(),
            }));
        }
    }
}

/// Lists routes. An address matches the routes whose prefix holds it.
pub fn routes(out: &mut Listed<'_>, policy: &Policy, resolved: &Resolved, config: &Validated) {
    let statics = config.static_hops();
    let filter = resolved.filter();
    for route in policy.routes.entries() {
        let interface = interface_name(policy, route.interface);
        let takes = Filter::matches_name(&filter.interface, Some(&interface))
            && resolved.takes_realm(route.realm)
            && filter.ip.is_none_or(|net| route.prefix.contains(&net));
        if takes {
            out.add(Item::Route(Route {
                prefix: route.prefix.to_string(),
                via: route.via.map(|via| via.to_string()),
                interface,
                kind: match route.configured {
                    Some(at) if at < statics => "static",
                    Some(_) => "dhcp",
                    None => "connected",
                }
                .to_owned(),
                realm: realm_name(policy, route.realm),
                usable: route.active,
            }));
        }
    }
}

/// Queues, in the order of ports, receiving ones first.
pub fn queues(workers: &[WorkerHandle], port_name: impl Fn(PortId) -> String) -> Vec<Queue> {
    let mut queues: Vec<_> = workers
        .iter()
        .flat_map(|worker| worker.queues.iter().map(|queue| (worker.worker, queue)))
        .collect();
    queues.sort_by_key(|(worker, q)| (q.port, !q.receives, q.number, *worker));
    let view = |(worker, queue): (u8, &QueueHandle)| Queue {
        port: port_name(queue.port),
        direction: if queue.receives { "rx" } else { "tx" }.to_owned(),
        queue: queue.number,
        worker,
        packets: queue.numbers.packets.load(Ordering::Relaxed),
        bursts: queue.numbers.bursts.load(Ordering::Relaxed),
        refused: queue.numbers.refused.load(Ordering::Relaxed),
    };
    queues.into_iter().map(view).collect()
}

/// Ports on addresses that are in no pool any more, by protocol.
pub fn draining(policy: &Policy) -> Vec<PoolPorts> {
    let nat = &policy.nat;
    let left = || {
        let externals = nat.externals.iter();
        let left = externals.filter(|(index, _)| nat.pool_of(*index).is_none());
        left.map(|(_, external)| external.as_ref())
    };
    let of = |space: &PortSpace| ports(left(), *space, None);
    PortSpace::ALL.iter().map(of).collect()
}

/// Every pool with its ports, those of masquerading interfaces included. An interface that masquerades with several
/// addresses is one pool here.
pub fn pools(policy: &Policy) -> Vec<Pool> {
    let quarantined = |address| match address {
        IpAddr::V4(v4) => policy.nat.v4.quarantined.contains(&u32::from(v4)),
        IpAddr::V6(v6) => policy.nat.v6.quarantined.contains(&u128::from(v6)),
    };
    let mut pools: Vec<Pool> = Vec::new();
    for next in policy
        .nat
        .pools
        .iter()
        .map(|listed| pool(listed, quarantined))
    {
        match pools.iter_mut().find(|pool| pool.pool == next.pool) {
            Some(known) => known.join(next),
            None => pools.push(next),
        }
    }
    pools
}

fn pool(pool: &crate::nat::ports::Pool, quarantined: impl Fn(IpAddr) -> bool) -> Pool {
    let policy = pool.policy();
    let closed = || pool.externals().iter().filter(|e| e.draining);
    let closed_if = |idle: bool| {
        let some = closed().filter(|e| e.external.is_idle() == idle);
        addresses(some.map(|e| e.external.address()))
    };
    let in_quarantine = closed().filter(|e| quarantined(e.external.address()));
    let in_quarantine = in_quarantine.count() as u64;
    let externals = || pool.externals().iter().map(|e| e.external.as_ref());
    let blocks = externals().map(External::block_usage);
    let (used, total, peak) = blocks.fold((0, 0, 0), |(used, total, peak), usage| {
        (
            used + u64::from(usage.used),
            total + u64::from(usage.used + usage.free),
            peak + u64::from(usage.high_water),
        )
    });
    Pool {
        pool: policy.name.clone(),
        addresses: addresses(externals().map(External::address)),
        draining: closed_if(false),
        drained: closed_if(true),
        addresses_active: pool.active_count() as u64,
        addresses_draining: closed().count() as u64 - in_quarantine,
        addresses_quarantined: in_quarantine,
        select: match policy.select {
            Select::Preserve => "preserve",
            Select::Random => "random",
            Select::Sequential => "sequential",
        }
        .to_owned(),
        mapping: behaviour(pool, |behaviours| behaviours.mapping),
        filtering: behaviour(pool, |behaviours| behaviours.filtering),
        alarm: false,
        alarms: 0,
        block_size: policy.block.map(|block| block.size.into()),
        blocks_total: total,
        blocks_in_use: used,
        blocks_high_water: peak,
        ports: PortSpace::ALL
            .iter()
            .map(|&space| ports(externals(), space, Some(pool.counts())))
            .collect(),
    }
}

/// A behaviour as the configuration writes it: one word, or one for each protocol.
fn behaviour(pool: &crate::nat::ports::Pool, of: impl Fn(Behaviours) -> Behaviour) -> String {
    let each = PortSpace::ALL.map(|space| (space.name(), of(pool.behaviours(space)).name()));
    if each.iter().all(|(_, name)| *name == each[0].1) {
        return each[0].1.to_owned();
    }
    let each = each.map(|(protocol, name)| format!("{protocol}={name}"));
    each.join(",")
}

fn ports<'a>(
    externals: impl Iterator<Item = &'a External>,
    space: PortSpace,
    counts: Option<&PoolCounts>,
) -> PoolPorts {
    let mut sum = PoolPorts {
        protocol: space.name().to_owned(),
        created: counts.map_or(0, |counts| counts.created(space)),
        refused: counts
            .into_iter()
            .flat_map(|counts| counts.refused(space))
            .map(|(reason, n)| (reason.name().to_owned(), n))
            .collect(),
        ..PoolPorts::default()
    };
    for usage in externals.map(|external| external.usage(space)) {
        sum.total += u64::from(usage.in_use) + u64::from(usage.held) + u64::from(usage.free);
        sum.in_use += u64::from(usage.in_use);
        sum.hold += u64::from(usage.held);
        sum.high_water += u64::from(usage.high_water);
    }
    sum
}

/// Addresses in a row as ranges, `a-b`.
fn addresses(list: impl Iterator<Item = IpAddr>) -> Vec<String> {
    let mut ranges: Vec<(IpAddr, IpAddr)> = Vec::new();
    for address in list {
        match ranges.last_mut() {
            Some((_, last)) if follows(*last, address) => *last = address,
            _ => ranges.push((address, address)),
        }
    }
    let text = |(first, last): &(IpAddr, IpAddr)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    ranges.iter().map(text).collect()
}

fn follows(before: IpAddr, after: IpAddr) -> bool {
    match (before, after) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u32::from(a).checked_add(1) == Some(u32::from(b)),
        (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(a).checked_add(1) == Some(u128::from(b)),
        _ => false,
    }
}

/// Lists port blocks that subscribers hold.
pub fn blocks(out: &mut Listed<'_>, policy: &Policy, resolved: &Resolved) {
    let filter = resolved.filter();
    for pool in policy.nat.pools.iter() {
        if !Filter::matches_name(&filter.pool, Some(&pool.policy().name)) {
            continue;
        }
        for external in pool.externals().iter().map(|e| e.external.as_ref()) {
            let Some(blocks) = external.blocks() else {
                continue;
            };
            for index in (0..blocks.count()).map(|i| BlockIndex(i as u16)) {
                let (Some(worker), Some(ports)) =
                    (blocks.block_owner(index), blocks.ports_of(index))
                else {
                    continue;
                };
                let subscriber = blocks
                    .subscriber(index)
                    .map(|address| match external.address() {
                        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(address as u32)),
                        IpAddr::V6(_) => IpAddr::V6(address.into()),
                    });
                let addresses = [Some(external.address()), subscriber];
                let takes = filter.worker.is_none_or(|w| w == worker.0)
                    && filter
                        .port
                        .is_none_or(|port| (ports.first..=ports.last).contains(&port))
                    && filter
                        .ip
                        .is_none_or(|net| addresses.iter().flatten().any(|a| net.contains(a)));
                if takes {
                    let in_use = PortSpace::ALL
                        .iter()
                        .map(|&space| u32::from(blocks.in_use(index, space)));
                    out.add(Item::Block(Block {
                        pool: pool.policy().name.clone(),
                        address: external.address().to_string(),
                        first_port: ports.first,
                        last_port: ports.last,
                        subscriber: subscriber.map(|address| address.to_string()),
                        worker: worker.0,
                        ports_in_use: in_use.sum(),
                    }));
                }
            }
        }
    }
}

/// The counted rules of a listing other than exemptions, in order, with what `counts` holds for them.
pub fn rules(
    listing: Listing,
    config: &Validated,
    policy: &Policy,
    counts: &[RuleCount],
) -> Vec<Rule> {
    let count = |kind: &str, label: &Label| count_of(policy, counts, kind, &label.name);
    let mut rules = match listing {
        Listing::SourceNat => each(&config.source_nat, |rule| {
            source_nat(rule, config, count("source-nat", &rule.label))
        }),
        Listing::StaticNat => each(&config.static_nat, |rule| {
            static_nat(rule, config, count("static-nat", &rule.label))
        }),
        Listing::PortForwards => each(&config.port_forwards, |rule| {
            forward(rule, count("port-forward", &rule.label))
        }),
        _ => Vec::new(),
    };
    for (index, rule) in (1..).zip(&mut rules) {
        rule.index = index;
    }
    rules
}

/// What is counted under a name.
fn count_of(policy: &Policy, counts: &[RuleCount], kind: &str, name: &str) -> RuleCount {
    let mut rules = policy.rules.iter();
    let info = rules.find(|r| r.kind == kind && r.name == name);
    let id = info.map_or(RuleId::NONE, |info| info.id);
    counts.get(id.index()).copied().unwrap_or_default()
}

/// The exemptions: for each rule its prefixes, and the file it takes some of them from.
pub fn exempts(
    config: &Validated,
    policy: &Policy,
    counts: &[RuleCount],
    files: &[ExemptFileState],
) -> Vec<Exempt> {
    let mut rows = Vec::new();
    for (index, rule) in (1..).zip(&config.exempts) {
        let whole = count_of(policy, counts, "exempt", &rule.label.name);
        let row = |dst: String, via: &str, count: RuleCount| Exempt {
            index,
            name: rule.label.name.clone(),
            ingress: rule.in_.to_string(),
            src: rule.src.to_string(),
            dst,
            via: via.to_owned(),
            hits: count.hits,
            packets: count.packets,
            bytes: count.bytes,
            ..Exempt::default()
        };
        let file = files.iter().find(|f| f.exempt == rule.label.name);
        rows.extend(file.map(|file| Exempt {
            origin: format!("file {}", file.path),
            state: file.words(),
            ..row(String::new(), "none", whole)
        }));
        for destination in destinations(config, rule) {
            let name = count_name(&rule.label, &destination.net);
            let counted = policy
                .rules
                .iter()
                .any(|r| r.kind == KIND && r.name == name);
            let (via, count) = match (destination.force, counted) {
                (true, _) => ("force", RuleCount::default()),
                (false, true) => ("none", count_of(policy, counts, KIND, &name)),
                (false, false) => ("none", whole),
            };
            rows.push(Exempt {
                origin: destination.origin,
                ..row(destination.net.to_string(), via, count)
            });
        }
    }
    rows
}

fn each<T>(list: &[T], view: impl Fn(&T) -> Rule) -> Vec<Rule> {
    list.iter().map(view).collect()
}

/// A rule without conditions.
fn blank(label: &Label, count: RuleCount) -> Rule {
    let any = || "any".to_owned();
    Rule {
        index: 0,
        name: label.name.clone(),
        ingress: any(),
        egress: any(),
        src: any(),
        dst: any(),
        proto: any(),
        via: String::new(),
        ports: String::new(),
        origin: label.origin.clone(),
        hits: count.hits,
        packets: count.packets,
        bytes: count.bytes,
    }
}

fn source_nat(rule: &validated::SourceNat, config: &Validated, count: RuleCount) -> Rule {
    let m = &rule.matching;
    let with_port = |set: &validated::PrefixSet, ports: &validated::PortSet| {
        if ports.is_any() {
            set.to_string()
        } else {
            format!("{set}:{ports}")
        }
    };
    Rule {
        ingress: m.in_.to_string(),
        egress: m.out.to_string(),
        src: with_port(&m.src, &m.sport),
        dst: with_port(&m.dst, &m.dport),
        proto: m.proto.to_string(),
        via: match rule.via {
            Via::Interface => "interface".to_owned(),
            Via::Pool(id) => config
                .pools
                .get(id.index())
                .map_or_else(String::new, |p| format!("pool:{}", p.label.name)),
            Via::None => "none".to_owned(),
        },
        ports: rule
            .ports
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        ..blank(&rule.label, count)
    }
}

fn static_nat(rule: &validated::StaticNat, config: &Validated, count: RuleCount) -> Rule {
    let interface = rule
        .interface
        .and_then(|id| config.interfaces.get(id.index()));
    let interface = interface.map_or_else(|| "any".to_owned(), |i| i.label.name.clone());
    let inbound = rule.direction != validated::Direction::Out;
    Rule {
        // The rule works both ways; the interface is the outside one.
        ingress: if inbound {
            interface.clone()
        } else {
            "-".to_owned()
        },
        egress: interface,
        src: rule.internal.to_string(),
        dst: rule.external.to_string(),
        via: match rule.direction {
            validated::Direction::Both => "both",
            validated::Direction::In => "in",
            validated::Direction::Out => "out",
        }
        .to_owned(),
        ..blank(&rule.label, count)
    }
}

fn forward(rule: &validated::PortForward, count: RuleCount) -> Rule {
    let target = |t: &validated::Target| match t.first_port {
        Some(port) => format!("{}:{port}", t.address),
        None => t.address.to_string(),
    };
    let targets: Vec<String> = rule.to.iter().map(target).collect();
    let source = match rule.source {
        ForwardSource::Auto => String::new(),
        ForwardSource::Keep => ",source:keep".to_owned(),
        ForwardSource::Address(address) => format!(",source:{address}"),
    };
    let prefixes: Vec<String> = rule.dst.prefixes.iter().map(ToString::to_string).collect();
    Rule {
        ingress: rule.in_.to_string(),
        src: rule.src.to_string(),
        dst: if prefixes.is_empty() {
            "interface".to_owned()
        } else {
            prefixes.join(",")
        },
        proto: rule.proto.to_string(),
        via: targets.join(",") + &source,
        ports: rule.dport.to_string(),
        ..blank(&rule.label, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_a_row_become_a_range() {
        let list = [
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "192.0.2.9",
            "2001:db8::1",
            "255.255.255.255",
        ];
        let ranges = addresses(list.iter().map(|a| a.parse().unwrap()));
        assert_eq!(
            ranges,
            [
                "192.0.2.1-192.0.2.3",
                "192.0.2.9",
                "2001:db8::1",
                "255.255.255.255"
            ]
        );
    }

    #[test]
    fn rules_show_what_was_configured() {
        let text = r#"
schema = 1
[[port]]
name = "a"
device = "null:"
[[port]]
name = "b"
device = "null:"
[[interface]]
name = "lan"
port = "a"
address = ["10.0.0.1/24"]
[[interface]]
name = "wan"
port = "b"
address = ["203.0.113.1/24"]
[[source-nat]]
in = "lan"
out = "wan"
src = "10.0.0.0/8"
via = "interface"
[[port-forward]]
in = "wan"
dst = "203.0.113.1"
proto = "tcp"
dport = "8080"
to = "10.0.0.2:80"
"#;
        let loaded = crate::config::parse_str("test", text).unwrap();
        let policy = crate::control::runtime::preview(&loaded.validated).unwrap();
        let counts = vec![
            RuleCount {
                hits: 1,
                packets: 10,
                bytes: 420
            };
            2
        ];
        let rules_of = |listing| rules(listing, &loaded.validated, &policy, &counts);
        let source = &rules_of(Listing::SourceNat)[0];
        assert_eq!(
            (
                source.index,
                source.ingress.as_str(),
                source.egress.as_str()
            ),
            (1, "lan", "wan")
        );
        assert_eq!(
            (source.src.as_str(), source.via.as_str()),
            ("10.0.0.0/8", "interface")
        );
        assert_eq!((source.hits, source.packets, source.bytes), (1, 10, 420));
        let forward = &rules_of(Listing::PortForwards)[0];
        assert_eq!(
            (forward.via.as_str(), forward.ports.as_str()),
            ("10.0.0.2:80", "8080")
        );
        assert_eq!(forward.dst, "203.0.113.1/32");
        assert_eq!(rules_of(Listing::Exempt), []);
        let pools = pools(&policy);
        let names: Vec<_> = pools.iter().map(|p| p.pool.as_str()).collect();
        assert_eq!(names, ["interface:lan", "interface:wan"]);
        assert_eq!(pools[1].ports.len(), 4);
    }
}
