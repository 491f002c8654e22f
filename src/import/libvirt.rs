//! The XML of a libvirt network: what libvirt makes of `<forward mode='nat'>`.
//!
//! Guests of the network leave with the address of the interface the route takes, or of `<nat><address>`; TCP and UDP with
//! ports of `<nat><port>`, everything else as it comes; what stays in the network is left alone.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use roxmltree::{Document, Node};

use super::emit::Table;
use super::{Input, Options, Report};
use crate::config::MOST_ADDRESSES;

/// Elements beside `<forward>`, `<ip>` and `<bridge>` that say nothing about translation.
const NOTHING: &str = "says nothing about translation; not read";

pub(super) fn import(inputs: &[Input], options: &Options, report: &mut Report) -> Vec<Table> {
    let mut tables = Vec::new();
    for input in inputs {
        let document = match Document::parse(&input.text) {
            Ok(document) => document,
            Err(error) => {
                let at = error.pos();
                report.refuse(
                    &format!("{}:{}", input.name, at.row),
                    format!("column {}: not XML: {error}", at.col),
                );
                continue;
            }
        };
        let root = document.root_element();
        if !root.has_tag_name("network") {
            report.refuse(
                &input.name,
                format!("the root is <{}>, not <network>", root.tag_name().name()),
            );
            continue;
        }
        let network = Network {
            file: &input.name,
            document: &document,
            options,
        };
        tables.extend(network.import(root, report));
    }
    tables
}

struct Network<'a> {
    file: &'a str,
    document: &'a Document<'a>,
    options: &'a Options,
}

/// What `<nat>` says.
struct Nat {
    ports: (u16, u16),
    addresses: Option<String>,
    v6: bool,
}

fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|c| c.has_tag_name(name))
}

impl<'a> Network<'a> {
    fn place(&self, node: Node<'_, '_>) -> String {
        format!(
            "{}:{}",
            self.file,
            self.document.text_pos_at(node.range().start).row
        )
    }

    fn import(&self, root: Node<'a, 'a>, report: &mut Report) -> Vec<Table> {
        for element in root.children().filter(Node::is_element) {
            let name = element.tag_name().name();
            if !["name", "forward", "ip", "bridge"].contains(&name) {
                report.note(&self.place(element), "", format!("<{name}> {NOTHING}"));
            }
        }
        let name = child(root, "name")
            .and_then(|n| n.text())
            .unwrap_or_default();
        let name = pool_name(name);
        let Some(forward) = child(root, "forward") else {
            report.note(
                self.file,
                "",
                "no <forward>: the network is isolated, nothing is translated",
            );
            return Vec::new();
        };
        let mode = forward.attribute("mode").unwrap_or("nat");
        if mode != "nat" {
            report.note(
                &self.place(forward),
                "",
                format!("mode='{mode}' translates nothing"),
            );
            return Vec::new();
        }
        let Some(nat) = self.nat(forward, report) else {
            return Vec::new();
        };
        let out = forward
            .attribute("dev")
            .map(|dev| self.interface(forward, dev, report));
        let mut filter = Vec::new();
        if let Some((bridge, dev)) =
            child(root, "bridge").and_then(|b| Some((b, b.attribute("name")?)))
        {
            let here = self.interface(bridge, dev, report);
            let text =
                format!("guests are behind {here}; filter rules isolate them as libvirt does");
            report.ok(&self.place(bridge), text);
            filter = self.filter(root, bridge, &here, out.as_deref(), nat.v6);
        }
        let mut tables = Vec::new();
        let mut via = "interface".to_owned();
        if let Some(addresses) = &nat.addresses {
            via = format!("pool:{name}");
            let origin = format!("import:{}", self.place(forward));
            tables.push(
                Table::new("[[pool]]")
                    .text("name", &name)
                    .list("addresses", &[addresses])
                    .text("origin", &origin),
            );
        }
        for ip in root.children().filter(|c| c.has_tag_name("ip")) {
            tables.extend(self.rules(ip, &nat, out.as_deref(), &via, report));
        }
        tables.extend(filter);
        report.note(
            &self.place(forward),
            "",
            "multicast and broadcast are never translated; no rules needed",
        );
        tables
    }

    /// The rules by which libvirt isolates a network: answers come in, guests go out and reach each other, nothing else does.
    fn filter(
        &self,
        root: Node<'a, 'a>,
        bridge: Node<'a, 'a>,
        guests: &str,
        out: Option<&str>,
        v6: bool,
    ) -> Vec<Table> {
        let rule = |node: Node<'_, '_>| {
            let table = Table::new("[[filter.rule]]");
            table.text("origin", &format!("import:{}", self.place(node)))
        };
        let mut rules = Vec::new();
        for ip in root.children().filter(|c| c.has_tag_name("ip")) {
            let Ok(net) = subnet(ip).map(|net| net.to_string()) else {
                continue;
            };
            let inwards = rule(ip)
                .maybe("in", out)
                .text("out", guests)
                .text("dst", &net);
            let answers = match net.contains(':') && !v6 {
                // IPv6 is routed unless it is to be translated: others may begin.
                true => inwards,
                false => inwards.list("state", &["established", "related"]),
            };
            rules.push(answers.text("action", "accept"));
            let outwards = rule(ip)
                .text("in", guests)
                .maybe("out", out)
                .text("src", &net);
            rules.push(outwards.text("action", "accept"));
        }
        let among = rule(bridge).text("in", guests).text("out", guests);
        rules.push(among.text("action", "accept"));
        for way in ["out", "in"] {
            let refused = rule(bridge).text(way, guests).text("action", "reject");
            rules.push(refused.text("reject_with", "icmp-port-unreachable"));
        }
        rules
    }

    fn interface(&self, node: Node<'_, '_>, name: &str, report: &mut Report) -> String {
        let (here, known) = self.options.interface(name);
        if !known {
            report.warn(
                &self.place(node),
                "W-IFMAP",
                format!("{here} must exist as [[interface]]"),
            );
        }
        here
    }

    fn nat(&self, forward: Node<'a, 'a>, report: &mut Report) -> Option<Nat> {
        let mut nat = Nat {
            ports: (1024, u16::MAX),
            addresses: None,
            v6: false,
        };
        let Some(node) = child(forward, "nat") else {
            return Some(nat);
        };
        nat.v6 = node.attribute("ipv6") == Some("yes");
        if let Some(port) = child(node, "port") {
            let number = |key: &str| {
                port.attribute(key)
                    .and_then(|text| text.parse::<u16>().ok())
                    .filter(|n| *n > 0)
            };
            match (number("start"), number("end")) {
                (Some(start), Some(end)) if start < end => nat.ports = (start, end),
                _ => {
                    report.refuse(
                        &self.place(port),
                        "<port>: start must lie below end, both 1–65535",
                    );
                    return None;
                }
            }
        }
        if let Some(address) = child(node, "address") {
            let read = |key: &str| {
                address
                    .attribute(key)
                    .and_then(|text| text.parse::<Ipv4Addr>().ok())
            };
            match (read("start"), read("end").or(read("start"))) {
                (Some(start), Some(end))
                    if u128::from(u32::from(end).saturating_sub(start.into()))
                        >= MOST_ADDRESSES =>
                {
                    let text =
                        format!("<address>: more than {MOST_ADDRESSES} addresses for one pool");
                    report.reject(&self.place(address), "E-MATCH", text);
                    return None;
                }
                (Some(start), Some(end)) if start <= end => {
                    nat.addresses = Some(match start == end {
                        true => start.to_string(),
                        false => format!("{start}-{end}"),
                    })
                }
                (Some(_), Some(_)) => {
                    report.reject(
                        &self.place(address),
                        "E-RANGE-REVERSED",
                        "<address>: the end lies below the start",
                    );
                    return None;
                }
                _ => {
                    report.refuse(
                        &self.place(address),
                        "<address>: start and end must be IPv4 addresses",
                    );
                    return None;
                }
            }
        }
        Some(nat)
    }

    /// The rules of one subnet.
    fn rules(
        &self,
        ip: Node<'a, 'a>,
        nat: &Nat,
        out: Option<&str>,
        via: &str,
        report: &mut Report,
    ) -> Vec<Table> {
        let place = self.place(ip);
        let net = match subnet(ip) {
            Ok(IpNet::V6(net)) if !nat.v6 => {
                let text = format!("{net}: IPv6 is routed, not translated (no ipv6='yes')");
                report.note(&place, "", text);
                return Vec::new();
            }
            Ok(net) => net,
            Err((code, why)) => {
                report.reject(&place, code, why);
                return Vec::new();
            }
        };
        // The addresses of <nat> are IPv4 ones.
        let via = match net {
            IpNet::V4(_) => via,
            IpNet::V6(_) => "interface",
        };
        let ports = format!("{}-{}", nat.ports.0, nat.ports.1);
        let rule = |proto: Option<&str>| {
            Table::new("[[source-nat]]")
                .maybe("out", out)
                .text("src", &net.to_string())
                .text("dst", &format!("!{net}"))
                .maybe("proto", proto)
                .text("via", via)
                .maybe("ports", proto.map(|_| ports.as_str()))
                .text("origin", &format!("import:{place}"))
        };
        report.ok(
            &place,
            format!("source-nat {net} via {via}, tcp and udp with ports {ports}"),
        );
        vec![rule(Some("tcp")), rule(Some("udp")), rule(None)]
    }
}

/// A name for a pool, made of the network's.
fn pool_name(network: &str) -> String {
    let fit = |c: char| {
        if c.is_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    match network.trim() {
        "" => "libvirt".to_owned(),
        name => name.chars().map(fit).collect(),
    }
}

/// The subnet of an `<ip>`; without a mask that of its address class, as libvirt takes it.
fn subnet(ip: Node<'_, '_>) -> Result<IpNet, (&'static str, String)> {
    let text = ip.attribute("address").unwrap_or_default();
    let address: IpAddr = text
        .parse()
        .map_err(|_| ("E-SYNTAX", format!("{text:?} is no address")))?;
    let length = match (ip.attribute("prefix"), ip.attribute("netmask"), address) {
        (Some(text), _, _) => text
            .parse()
            .map_err(|_| ("E-SYNTAX", format!("{text:?} is no prefix length")))?,
        (None, Some(mask), IpAddr::V4(v4)) => {
            let mask: Ipv4Addr = mask
                .parse()
                .map_err(|_| ("E-SYNTAX", format!("{mask:?} is no mask")))?;
            Ipv4Net::with_netmask(v4, mask)
                .map_err(|_| ("E-MASK", format!("{mask} is not contiguous")))?
                .prefix_len()
        }
        (None, Some(_), IpAddr::V6(_)) => {
            return Err((
                "E-SYNTAX",
                "an IPv6 address takes prefix, not netmask".to_owned(),
            ));
        }
        (None, None, IpAddr::V6(_)) => 64,
        (None, None, IpAddr::V4(v4)) => match v4.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        },
    };
    let net = IpNet::new(address, length)
        .map_err(|_| ("E-SYNTAX", format!("{length} is no prefix length")))?;
    Ok(net.trunc())
}
