//! Ports, interfaces, routes, neighbours: how natgate is wired.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::UNTIL_A_LEASE;
use super::super::raw::{self, Raw};
use super::super::report::{Findings, hint};
use super::super::validated::{Device, Interface, Neighbour, Port, Route, System, Urpf};
use super::super::values;
use super::operands::{Names, element_path};
use super::{checked, choice, helpers, label, required};
use crate::base::{InterfaceId, PortId, RealmId, VlanId};
use crate::dataplane::device::{BondMode, MOST_MEMBERS};

/// Most ports and interfaces: what their identifiers and per-interface counters are laid out for.
const MOST_PORTS: usize = 64;
const MOST_INTERFACES: usize = 4096;

pub(super) fn ports(raw: &[raw::Port], system: &System, findings: &mut Findings) -> Vec<Port> {
    let mut devices: BTreeMap<String, String> = BTreeMap::new();
    if raw.is_empty() {
        findings.error(
            "port",
            "is missing (write at least one [[port]] with name and device)",
        );
    }
    if raw.len() > MOST_PORTS {
        findings.error(
            "port",
            format!("{} ports are more than {MOST_PORTS}", raw.len()),
        );
    }
    let one = |(index, port): (usize, &raw::Port)| {
        let path = format!("port[{index}]");
        let at = match port.bond {
            Some(_) => format!("{path}.bond.members"),
            None => format!("{path}.device"),
        };
        let device = device(&path, port, findings).unwrap_or(Device::IDLE);
        for part in device.parts() {
            let alone = !matches!(part, Device::Null { .. });
            if alone && let Some(first) = devices.insert(part.to_string(), findings.place(&path)) {
                findings.error(
                    &at,
                    format!(
                        "{part} is driven by the port at {first} already (one port per device)"
                    ),
                );
            }
        }
        let cards = device.parts().iter().any(|part| part.pci().is_some());
        let queues = port.queues.unwrap_or(match cards {
            true => u16::from(system.workers),
            false => 1,
        });
        check_queues(&path, queues, &device, system, findings);
        if !port.descriptors.is_power_of_two() {
            let near = port.descriptors.next_power_of_two();
            let message = format!("{} is no power of two (write {near})", port.descriptors);
            findings.error(&format!("{path}.descriptors"), message);
        }
        let mac = port
            .mac
            .as_deref()
            .and_then(|mac| checked(&format!("{path}.mac"), values::mac(mac), findings));
        Port {
            label: label(&port.label, &path, findings),
            device,
            queues,
            mtu: port.mtu,
            mac,
            promiscuous: port.promiscuous,
            descriptors: port.descriptors,
        }
    };
    raw.iter().enumerate().map(one).collect()
}

/// What a port drives: one device, or several bonded.
fn device(path: &str, port: &raw::Port, findings: &mut Findings) -> Option<Device> {
    let at = format!("{path}.device");
    let Some(bond) = &port.bond else {
        let what = "write pci:0000:3b:00.0, af_packet:eth1, …";
        let text = required(&at, port.device.as_deref(), what, findings)?;
        return checked(&at, values::device(text), findings);
    };
    if port.device.is_some() {
        findings.error(
            &at,
            "stands beside bond (a port has a device, or a bond of several)",
        );
    }
    let at = format!("{path}.bond");
    let mode = choice(&format!("{at}.mode"), &bond.mode, &BondMode::ALL, findings)?;
    let written = bond.members.as_ref().map_or(&[][..], |members| &members.0);
    let at = format!("{at}.members");
    if !(1..=MOST_MEMBERS).contains(&written.len()) {
        findings.error(
            &at,
            format!(
                "{} members (write 1 to {MOST_MEMBERS} devices, like members = [\"pci:0000:3b:00.0\", \"pci:0000:3b:00.1\"])",
                written.len()
            ),
        );
        return None;
    }
    let members: Vec<Device> = written
        .iter()
        .filter_map(|text| checked(&at, values::device(text), findings))
        .collect();
    let silent = members.iter().find(|m| m.kernel_interface().is_some());
    if let Some(member) = silent.filter(|_| mode != BondMode::ActiveBackup) {
        findings.warn(
            &at,
            format!("nothing tells {mode} when {member} loses its link: lacp leaves it out after 90 s, balance never (write mode = \"active-backup\", or use cards)"),
        );
    }
    Some(Device::Bond { mode, members })
}

fn check_queues(
    path: &str,
    queues: u16,
    device: &Device,
    system: &System,
    findings: &mut Findings,
) {
    let message = if queues > u16::from(system.workers) {
        format!(
            "{queues} queues with workers = {} (at most one queue per worker)",
            system.workers
        )
    } else if queues > device.max_queues() {
        format!(
            "{queues} queues are more than {device} can have (at most {}; other workers are handed their packets)",
            device.max_queues()
        )
    } else {
        return;
    };
    findings.error(&format!("{path}.queues"), message);
}

/// `main`, then every other vrf in the order of first use by an interface.
pub(super) fn realms(raw: &Raw) -> Vec<String> {
    let mut realms = vec!["main".to_string()];
    for interface in &raw.interface {
        if !realms.contains(&interface.vrf) {
            realms.push(interface.vrf.clone());
        }
    }
    realms
}

pub(super) fn realm(path: &str, name: &str, realms: &[String], findings: &mut Findings) -> RealmId {
    match realms.iter().position(|known| known == name) {
        // Ids are bytes; more realms than that are reported once, where they are declared.
        Some(index) => RealmId(u8::try_from(index).unwrap_or(u8::MAX)),
        None => {
            let known: Vec<&str> = realms.iter().map(String::as_str).collect();
            findings.error(
                path,
                format!("no interface is in vrf {name:?} ({})", hint(name, &known)),
            );
            RealmId(0)
        }
    }
}

pub(super) fn interfaces(
    raw: &[raw::Interface],
    ports: &[Port],
    realms: &[String],
    findings: &mut Findings,
) -> Vec<Interface> {
    if raw.is_empty() {
        findings.error(
            "interface",
            "is missing (write at least one [[interface]] with name, port and address)",
        );
    }
    if raw.len() > MOST_INTERFACES {
        findings.error(
            "interface",
            format!("{} interfaces are more than {MOST_INTERFACES}", raw.len()),
        );
    }
    if realms.len() > 256 {
        findings.error(
            "interface",
            format!("{} vrfs are more than 256", realms.len()),
        );
    }
    let mut taken: BTreeMap<(PortId, Option<u16>), String> = BTreeMap::new();
    let mut all = Vec::new();
    for (index, interface) in raw.iter().enumerate() {
        let path = format!("interface[{index}]");
        let port = port_of(&path, interface, ports, findings);
        // A VLAN that was refused is not taken for untagged.
        if let Some(port) = port.filter(|_| !findings.is_broken(&format!("{path}.vlan"))) {
            let place = findings.place(&path);
            if let Some(first) = taken.insert((port, interface.vlan), place) {
                let (key, what) = match interface.vlan {
                    Some(vlan) => ("vlan", format!("VLAN {vlan}")),
                    None => ("port", "untagged traffic".to_string()),
                };
                let name = &ports[port.index()].label.name;
                let message =
                    format!("{what} of port {name:?} belongs to the interface at {first} already");
                findings.error(
                    &format!("{path}.{key}"),
                    format!("{message} (one interface per VLAN of a port)"),
                );
            }
        }
        all.push(interface_of(
            &path, interface, port, ports, realms, findings,
        ));
    }
    all
}

fn port_of(
    path: &str,
    interface: &raw::Interface,
    ports: &[Port],
    findings: &mut Findings,
) -> Option<PortId> {
    let at = format!("{path}.port");
    let name = required(
        &at,
        interface.port.as_deref(),
        "name the [[port]] below",
        findings,
    )?;
    let found = ports.iter().position(|port| port.label.name == name);
    if found.is_none() {
        let known: Vec<&str> = ports.iter().map(|port| port.label.name.as_str()).collect();
        findings.error(
            &at,
            format!("there is no port {name:?} ({})", hint(name, &known)),
        );
    }
    found.map(|index| PortId(index as u16))
}

fn interface_of(
    path: &str,
    raw: &raw::Interface,
    port: Option<PortId>,
    ports: &[Port],
    realms: &[String],
    findings: &mut Findings,
) -> Interface {
    let port_mtu = port
        .and_then(|port| ports.get(port.index()))
        .map_or(u16::MAX, |port| port.mtu);
    let mtu = raw.mtu.unwrap_or(port_mtu.min(9600));
    if mtu > port_mtu {
        findings.error(
            &format!("{path}.mtu"),
            format!("{mtu} is above the port's mtu = {port_mtu} (raise that too)"),
        );
    }
    if raw.clamp_mss > 0 && (raw.clamp_mss < 536 || raw.clamp_mss > mtu.saturating_sub(40)) {
        let message = format!(
            "{} is no useful MSS (0 for off, or 536–{})",
            raw.clamp_mss,
            mtu.saturating_sub(40)
        );
        findings.error(&format!("{path}.clamp_mss"), message);
    }
    let (mut v4, mut v6): (Vec<Ipv4Net>, Vec<Ipv6Net>) = (Vec::new(), Vec::new());
    let mut dhcp = false;
    for (index, text) in raw.address.0.iter().enumerate() {
        let at = element_path(&format!("{path}.address"), index, findings);
        if text == DHCP {
            dhcp = true;
            continue;
        }
        match checked(&at, interface_address(text), findings) {
            Some(IpNet::V4(net)) => v4.push(net),
            Some(IpNet::V6(net)) => v6.push(net),
            None => {}
        }
    }
    let label = label(&raw.label, path, findings);
    if dhcp {
        leased(&format!("{path}.address"), &label.name, &v4, findings);
    }
    if !v6.is_empty() && mtu < 1280 {
        findings.error(
            &format!("{path}.mtu"),
            format!("{mtu} is below the 1280 that IPv6 needs (RFC 8200 section 5)"),
        );
    }
    let words = [
        ("off", Urpf::Off),
        ("strict", Urpf::Strict),
        ("loose", Urpf::Loose),
    ];
    Interface {
        label,
        port: port.unwrap_or_default(),
        vlan: raw.vlan.map(VlanId),
        v4,
        dhcp,
        grant: None,
        v6,
        realm: realm(&format!("{path}.vrf"), &raw.vrf, realms, findings),
        forward: raw.forward,
        urpf: choice(&format!("{path}.urpf"), &raw.urpf, &words, findings).unwrap_or(Urpf::Off),
        clamp_mss: raw.clamp_mss,
        helpers: helpers(&format!("{path}.helpers"), &raw.helpers, findings),
        mtu,
    }
}

/// Where an address is written, one that a DHCP server gives.
const DHCP: &str = "dhcp";

/// An interface whose IPv4 address a DHCP server gives.
fn leased(at: &str, name: &str, v4: &[Ipv4Net], findings: &mut Findings) {
    match v4.first() {
        Some(own) => findings.error(
            at,
            format!("has {own} beside \"dhcp\", which gives the IPv4 address (write one of them)"),
        ),
        None => findings.warn(
            at,
            format!("the address of interface {name}{UNTIL_A_LEASE}"),
        ),
    }
}

/// An interface's own address with its subnet: a host of that subnet.
fn interface_address(text: &str) -> Result<IpNet, String> {
    if values::address(text).is_ok() {
        return Err(format!(
            "{text:?} has no prefix length (write {text}/24, the address with the length of its subnet)"
        ));
    }
    let net: IpNet = text
        .parse()
        .map_err(|_| format!("{text:?} is no address with prefix length (write 192.0.2.1/24)"))?;
    let useless = match net.addr() {
        IpAddr::V4(a) => {
            a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_broadcast()
        }
        IpAddr::V6(a) => a.is_unspecified() || a.is_loopback() || a.is_multicast(),
    };
    if useless {
        return Err(format!("{} cannot be an interface's address", net.addr()));
    }
    if let IpNet::V4(v4) = net {
        // /31 and /32 have neither network nor broadcast address (RFC 3021).
        if v4.prefix_len() < 31 && v4.addr() == v4.network() {
            return Err(format!(
                "{} is the network address of {}",
                v4.addr(),
                v4.trunc()
            ));
        }
        if v4.prefix_len() < 31 && v4.addr() == v4.broadcast() {
            return Err(format!(
                "{} is the broadcast address of {}",
                v4.addr(),
                v4.trunc()
            ));
        }
    }
    Ok(net)
}

pub(super) fn routes(
    raw: &[raw::Route],
    names: &Names,
    interfaces: &[Interface],
    realms: &[String],
    findings: &mut Findings,
) -> Vec<Route> {
    let mut routes = Vec::new();
    for (index, route) in raw.iter().enumerate() {
        let path = format!("route[{index}]");
        let at = format!("{path}.prefix");
        let prefix = required(
            &at,
            route.prefix.as_deref(),
            "write the destination, like 0.0.0.0/0",
            findings,
        )
        .and_then(|text| checked(&at, values::network(text), findings));
        let interface = route.interface.as_deref().and_then(|name| {
            checked(
                &format!("{path}.interface"),
                names.interface(name),
                findings,
            )
        });
        let vrf_path = format!("{path}.vrf");
        let realm = match (&route.vrf, interface.map(|id| interfaces[id.index()].realm)) {
            // Also another than the interface's: how packets get out of their realm.
            (Some(name), _) => realm(&vrf_path, name, realms, findings),
            (None, of_interface) => of_interface.unwrap_or_default(),
        };
        let via = next_hops(&path, route, interfaces, interface, realm, prefix, findings);
        if route.via.0.is_empty() && route.interface.is_none() {
            findings.error(
                &path,
                "has neither via nor interface (write via = \"192.0.2.1\")",
            );
        }
        if let Some(prefix) = prefix {
            routes.push(Route {
                label: label(&route.label, &path, findings),
                prefix,
                via,
                interface,
                realm,
            });
        }
    }
    routes
}

/// The next hops, each of the prefix's family, on a connected subnet, and not the gateway itself.
fn next_hops(
    path: &str,
    route: &raw::Route,
    interfaces: &[Interface],
    only: Option<InterfaceId>,
    realm: RealmId,
    prefix: Option<IpNet>,
    findings: &mut Findings,
) -> Vec<IpAddr> {
    let mut hops = Vec::new();
    for (index, text) in route.via.0.iter().enumerate() {
        let at = element_path(&format!("{path}.via"), index, findings);
        let Some(hop) = checked(&at, values::address(text), findings) else {
            continue;
        };
        if prefix.is_some_and(|prefix| prefix.addr().is_ipv4() != hop.is_ipv4()) {
            findings.error(&at, format!("{hop} is not of the prefix's address family"));
            continue;
        }
        let candidates: Vec<&Interface> = match only {
            Some(id) => vec![&interfaces[id.index()]],
            None => interfaces
                .iter()
                .filter(|interface| interface.realm == realm)
                .collect(),
        };
        // A link-local next hop is on the link of whatever interface is named.
        let link_local =
            matches!(hop, IpAddr::V6(v6) if v6.is_unicast_link_local()) && only.is_some();
        if !link_local
            && !candidates
                .iter()
                .any(|interface| interface.is_connected(hop))
        {
            findings.error(
                &at,
                format!(
                    "{hop} is on no connected subnet ({})",
                    subnets(&candidates, hop)
                ),
            );
        } else if candidates
            .iter()
            .any(|interface| interface.addresses().any(|own| own == hop))
        {
            findings.error(
                &at,
                format!("{hop} is the gateway's own address (write the next router's)"),
            );
        }
        if hops.contains(&hop) {
            findings.error(&at, format!("{hop} is listed twice"));
        }
        hops.push(hop);
    }
    hops
}

fn subnets(interfaces: &[&Interface], like: IpAddr) -> String {
    let of = |interface: &&Interface| -> Vec<String> {
        match like {
            IpAddr::V4(_) => interface
                .v4
                .iter()
                .map(|net| net.trunc().to_string())
                .collect(),
            IpAddr::V6(_) => interface
                .v6
                .iter()
                .map(|net| net.trunc().to_string())
                .collect(),
        }
    };
    let all: Vec<String> = interfaces.iter().flat_map(of).collect();
    match all.is_empty() {
        true => "there is none of its family".to_string(),
        false => format!("connected are {}", all.join(", ")),
    }
}

pub(super) fn neighbours(
    raw: &[raw::Neighbour],
    names: &Names,
    interfaces: &[Interface],
    findings: &mut Findings,
) -> Vec<Neighbour> {
    let mut all: Vec<Neighbour> = Vec::new();
    for (index, neighbour) in raw.iter().enumerate() {
        let path = format!("neighbour[{index}]");
        let (at_interface, at_address, at_mac) = (
            format!("{path}.interface"),
            format!("{path}.address"),
            format!("{path}.mac"),
        );
        let interface = required(
            &at_interface,
            neighbour.interface.as_deref(),
            "name its interface",
            findings,
        )
        .and_then(|name| checked(&at_interface, names.interface(name), findings));
        let address = required(
            &at_address,
            neighbour.address.as_deref(),
            "write its IP address",
            findings,
        )
        .and_then(|text| checked(&at_address, values::address(text), findings));
        let mac = required(
            &at_mac,
            neighbour.mac.as_deref(),
            "write its MAC address",
            findings,
        )
        .and_then(|text| checked(&at_mac, values::mac(text), findings));
        let (Some(interface), Some(address), Some(mac)) = (interface, address, mac) else {
            continue;
        };
        let link = &interfaces[interface.index()];
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !link.is_connected(address) && !link_local {
            let message = format!(
                "{address} is on no subnet of the interface ({})",
                subnets(&[link], address)
            );
            findings.error(&at_address, message);
        } else if link.addresses().any(|own| own == address) {
            findings.error(
                &at_address,
                format!("{address} is the gateway's own address"),
            );
        }
        if all
            .iter()
            .any(|other| other.interface == interface && other.address == address)
        {
            findings.error(
                &at_address,
                format!("{address} has a static neighbour already"),
            );
        }
        all.push(Neighbour {
            label: label(&neighbour.label, &path, findings),
            interface,
            address,
            mac,
        });
    }
    all
}
