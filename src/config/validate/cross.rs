//! The objects against each other: overlaps, duplicates, what cannot be reached, what does not fit.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::super::capacity::{Capacity, bytes};
use super::super::report::Findings;
use super::super::validated::{Interface, InterfaceMatch, Pool, PortForward, Validated, Via};

/// Everything that concerns more than one object.
pub(super) fn check(config: &Validated, findings: &mut Findings) {
    interface_addresses(config, findings);
    pool_addresses(config, findings);
    for (index, pool) in config.pools.iter().enumerate() {
        reachable(index, pool, config, findings);
    }
    static_overlaps(config, findings);
    forwards(config, findings);
    masquerade(config, findings);
    fits_memory(config, findings);
}

/// Within a realm no address belongs to two interfaces and no subnets of different interfaces overlap.
fn interface_addresses(config: &Validated, findings: &mut Findings) {
    let nets = |interface: &Interface| -> Vec<IpNet> {
        let v4 = interface.nets_v4().map(IpNet::V4);
        v4.chain(interface.v6.iter().copied().map(IpNet::V6))
            .collect()
    };
    // Sorted by network a subnet can only overlap one before it that reaches as far, so one pass finds them all.
    let mut sorted: Vec<(u8, IpNet, usize)> = Vec::new();
    for (index, interface) in config.interfaces.iter().enumerate() {
        let mut own: Vec<IpAddr> = interface.addresses().collect();
        own.sort_unstable();
        if let Some(pair) = own.windows(2).find(|pair| pair[0] == pair[1]) {
            findings.error(
                &format!("interface[{index}].address"),
                format!("{} is listed twice", pair[0]),
            );
        }
        sorted.extend(
            nets(interface)
                .into_iter()
                .map(|net| (interface.realm.0, net, index)),
        );
    }
    sorted.sort_by_key(|(realm, net, index)| (*realm, net.network(), net.prefix_len(), *index));
    let mut widest: Option<(u8, IpNet, usize)> = None;
    for (realm, net, index) in sorted {
        if let Some((other_realm, other, other_index)) = widest
            && other_realm == realm
            && other.contains(&net.network())
        {
            if other_index != index {
                overlap_of_interfaces(config, (index, net), (other_index, other), findings);
            }
            continue;
        }
        widest = Some((realm, net, index));
    }
}

fn overlap_of_interfaces(
    config: &Validated,
    one: (usize, IpNet),
    two: (usize, IpNet),
    findings: &mut Findings,
) {
    // The later interface is reported, as the one to change.
    let (later, earlier) = if one.0 > two.0 {
        (one, two)
    } else {
        (two, one)
    };
    let other = &config.interfaces[earlier.0].label;
    findings.error(
        &format!("interface[{}].address", later.0),
        format!(
            "{} overlaps {} of interface {:?} ({}); put them into different vrfs, or shrink one",
            later.1, earlier.1, other.name, other.origin
        ),
    );
}

/// No address is in two pools: neither could know which ports the other gave out.
fn pool_addresses(config: &Validated, findings: &mut Findings) {
    let mut owner: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (index, pool) in config.pools.iter().enumerate() {
        let at = format!("pool[{index}].addresses");
        let mut clash: Option<(IpAddr, usize)> = None;
        for &address in &pool.addresses {
            match owner.get(&address) {
                Some(&other) => clash = clash.or(Some((address, other))),
                None => drop(owner.insert(address, index)),
            }
        }
        if let Some((address, other)) = clash {
            let other = &config.pools[other].label;
            let message = format!(
                "{address} is in pool {:?} too ({}); an address belongs to one pool",
                other.name, other.origin
            );
            findings.error(&at, message);
        }
        if let Some((address, interface)) = own_address(config, &pool.addresses) {
            let name = &interface.label.name;
            let message = format!(
                "{address} is the address of interface {name:?} (write \"interface:{name}\")"
            );
            findings.error(&at, message);
        }
        if let Some((address, net)) =
            useless_on_link(config, &pool.addresses).filter(|_| pool.answer_arp)
        {
            findings.error(
                &at,
                format!(
                    "{address} is the network or broadcast address of the connected subnet {net}"
                ),
            );
        }
        for id in &pool.interfaces {
            let interface = &config.interfaces[id.index()];
            if interface.address_count() == 0 {
                let name = &interface.label.name;
                findings.warn(
                    &at,
                    format!("interface {name:?} has no address, so it gives the pool none"),
                );
            }
            let earlier = config.pools[..index]
                .iter()
                .find(|pool| pool.interfaces.contains(id));
            if let Some(other) = earlier {
                let message = format!(
                    "interface {:?} is in pool {:?} too",
                    interface.label.name, other.label.name
                );
                findings.error(&at, format!("{message}; an address belongs to one pool"));
            }
        }
    }
}

fn own_address<'a>(config: &'a Validated, addresses: &[IpAddr]) -> Option<(IpAddr, &'a Interface)> {
    let own = config.interfaces.iter().flat_map(|interface| {
        interface
            .addresses()
            .map(move |address| (address, interface))
    });
    own.filter(|(address, _)| addresses.contains(address))
        .min_by_key(|(address, _)| *address)
}

fn useless_on_link(config: &Validated, addresses: &[IpAddr]) -> Option<(Ipv4Addr, ipnet::Ipv4Net)> {
    let nets = config
        .interfaces
        .iter()
        .flat_map(Interface::nets_v4)
        .filter(|net| net.prefix_len() < 31);
    let mut useless =
        nets.flat_map(|net| [(net.network(), net.trunc()), (net.broadcast(), net.trunc())]);
    useless.find(|(address, _)| addresses.contains(&IpAddr::V4(*address)))
}

/// Pool addresses on no connected subnet need a route at the neighbour; ARP cannot bring their replies here.
fn reachable(index: usize, pool: &Pool, config: &Validated, findings: &mut Findings) {
    let connected = |address: &IpAddr| config.interfaces.iter().any(|i| i.is_connected(*address));
    let stray: Vec<IpNet> = pool
        .addresses
        .iter()
        .filter(|address| !connected(address))
        .map(|a| IpNet::from(*a))
        .collect();
    if stray.is_empty() || !pool.answer_arp {
        return;
    }
    let nets: Vec<String> = IpNet::aggregate(&stray)
        .iter()
        .map(ToString::to_string)
        .collect();
    let v4 = stray.iter().any(|net| net.addr().is_ipv4());
    let next_hop = uplink_address(config).filter(|_| v4).map_or_else(
        || "natgate's outside address".to_string(),
        |a| a.to_string(),
    );
    findings.warn(
        &format!("pool[{index}].addresses"),
        format!(
            "W-POOL-UNROUTED: pool {:?}: {} on no connected subnet; the upstream router needs the route {} via {next_hop} \
             (set answer_arp = false once it has)",
            pool.label.name,
            if stray.len() == 1 { "an address is" } else { "addresses are" },
            nets.join(", ")
        ),
    );
}

/// Our address towards the default route's next hop: what an upstream router would route to.
fn uplink_address(config: &Validated) -> Option<Ipv4Addr> {
    let default = config
        .routes
        .iter()
        .find(|route| route.prefix.prefix_len() == 0 && route.prefix.addr().is_ipv4())?;
    let IpAddr::V4(hop) = *default.via.first()? else {
        return None;
    };
    let nets = config.interfaces.iter().flat_map(Interface::nets_v4);
    nets.filter(|net| net.contains(&hop))
        .map(|net| net.addr())
        .next()
}

/// A static-nat's external addresses belong to it alone.
fn static_overlaps(config: &Validated, findings: &mut Findings) {
    for (index, rule) in config.static_nat.iter().enumerate() {
        let at = format!("static-nat[{index}].external");
        for pool in &config.pools {
            if let Some(address) = pool
                .addresses
                .iter()
                .find(|address| rule.external.contains(*address))
            {
                let name = &pool.label.name;
                let message = format!("{address} is in pool {name:?} ({})", pool.label.origin);
                findings.error(&at, format!("{message}; list it there under exclude"));
            }
        }
        let own = config
            .interfaces
            .iter()
            .find(|i| i.addresses().any(|own| rule.external.contains(&own)));
        if let Some(interface) = own {
            let name = &interface.label.name;
            findings.error(
                &at,
                format!(
                    "{} holds the gateway's own address on interface {name:?}",
                    rule.external
                ),
            );
        }
        for earlier in &config.static_nat[..index] {
            let overlap = |a: IpNet, b: IpNet| a.contains(&b) || b.contains(&a);
            let same_side = match (earlier.interface, rule.interface) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            };
            if same_side && overlap(earlier.external, rule.external) {
                let message = format!(
                    "{} overlaps {} of {}",
                    rule.external, earlier.external, earlier.label.origin
                );
                findings.error(
                    &at,
                    format!("{message} (an external address has one meaning)"),
                );
            }
            let same_host = earlier.realm == rule.realm && overlap(earlier.internal, rule.internal);
            if same_side && same_host {
                let message = format!(
                    "{} overlaps {} of {}",
                    rule.internal, earlier.internal, earlier.label.origin
                );
                findings.error(
                    &format!("static-nat[{index}].internal"),
                    format!("{message} (a host has one static address)"),
                );
            }
        }
    }
}

/// A port-forward that another, earlier one answers completely for the same clients.
fn forwards(config: &Validated, findings: &mut Findings) {
    for (index, rule) in config.port_forwards.iter().enumerate() {
        let duplicate = config.port_forwards[..index]
            .iter()
            .find(|earlier| same_service(earlier, rule, config));
        if let Some(earlier) = duplicate {
            let message = format!(
                "{} {} of the same address is forwarded by {} already (one rule per address, protocol and port)",
                rule.proto, rule.dport, earlier.label.origin
            );
            findings.error(&format!("port-forward[{index}]"), message);
        }
        let own = |address: IpAddr| {
            config
                .interfaces
                .iter()
                .any(|i| i.addresses().any(|own| own == address))
        };
        if let Some(target) = rule.to.iter().find(|target| own(target.address)) {
            let message = format!(
                "{} is the gateway's own address, which has no server",
                target.address
            );
            findings.error(&format!("port-forward[{index}].to"), message);
        }
    }
}

fn same_service(one: &PortForward, two: &PortForward, config: &Validated) -> bool {
    let interfaces_meet = match (&one.in_, &two.in_) {
        (InterfaceMatch::Only { ids: a, .. }, InterfaceMatch::Only { ids: b, .. }) => {
            a.iter().any(|id| b.contains(id))
        }
        _ => true,
    };
    let protocols_meet = one
        .proto
        .iter()
        .any(|protocol| two.proto.contains(protocol));
    let addresses_meet = {
        let (a, b) = (
            one.dst.resolve(&config.interfaces),
            two.dst.resolve(&config.interfaces),
        );
        one.dst.is_empty() && two.dst.is_empty()
            || a.iter().any(|x| {
                b.iter()
                    .any(|y| x.contains(&y.network()) || y.contains(&x.network()))
            })
    };
    // Rules for some clients before one for all are the use of order, not a mistake.
    one.src == two.src
        && interfaces_meet
        && protocols_meet
        && addresses_meet
        && one.dport.intersects(&two.dport)
}

/// Masquerade through an interface without an address can only drop.
fn masquerade(config: &Validated, findings: &mut Findings) {
    for (index, rule) in config.source_nat.iter().enumerate() {
        let InterfaceMatch::Only { ids, .. } = &rule.matching.out else {
            continue;
        };
        let bare: Vec<&str> = ids
            .iter()
            .map(|id| &config.interfaces[id.index()])
            .filter(|interface| interface.address_count() == 0)
            .map(|interface| interface.label.name.as_str())
            .collect();
        if rule.via == Via::Interface && !bare.is_empty() {
            let names = bare.join(", ");
            let message = format!(
                "out through {names}: no address to masquerade with, so its flows are dropped"
            );
            findings.warn(
                &format!("source-nat[{index}].via"),
                format!("{message} (counted no_address)"),
            );
        }
    }
}

fn fits_memory(config: &Validated, findings: &mut Findings) {
    let capacity = Capacity::of(config);
    if capacity.needed_bytes > capacity.memory_bytes {
        // Rounded up to a whole MiB, so that following the advice is enough.
        let enough = capacity.needed_bytes.div_ceil(1 << 20);
        findings.error(
            "system.memory",
            format!(
                "{} is too little: {} sessions need {}, packet buffers {}, all together {} (write memory = \"{enough}MiB\", or fewer sessions)",
                bytes(capacity.memory_bytes),
                capacity.sessions,
                bytes(capacity.session_bytes),
                bytes(capacity.buffer_bytes),
                bytes(capacity.needed_bytes)
            ),
        );
    }
}
