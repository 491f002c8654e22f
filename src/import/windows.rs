//! CNI configurations of Windows nodes: HNS endpoint policies in win-bridge, flannel and Azure files.
//!
//! Policies stand in `policies`, `delegate.policies`, `plugins[].policies` and `plugins[].AdditionalArgs`. Version 1 has its
//! settings beside the type, version 2 (`apiVersion: 2`) below `Settings`; what stands in the other version's place HNS
//! ignores, and so does the import, with a warning.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::emit::Table;
use super::{Input, Options, Report, acl};
use crate::config::document::{self, Node, Value};
use crate::config::exemptions::content;
use crate::config::nearest;

/// Policies that mean nothing to a gateway.
const IGNORED: &[(&str, &str)] = &[
    ("PA", "the node's address in an overlay"),
    ("ProviderAddress", "the node's address in an overlay"),
    ("QOS", "bandwidth limits are not the gateway's"),
    ("VLAN", "VLANs belong to [[interface]]"),
    ("VSID", "overlay networks are not the gateway's"),
    ("ELB", "load balancing on the node itself"),
    ("PROXY", "the node redirects its own traffic"),
    ("L4WFPPROXY", "the node redirects its own traffic"),
];

/// The other types, for the hint at a misspelt one.
const KNOWN: &[&str] = &[
    "OutBoundNAT",
    "NAT",
    "PortMapping",
    "ROUTE",
    "SDNRoute",
    "ACL",
];

/// Keys of a network that are no policies.
const OTHER_KEYS: &[&str] = &[
    "cniversion",
    "name",
    "type",
    "policies",
    "delegate",
    "plugins",
    "additionalargs",
    "apiversion",
    "loopbackdsr",
    "ipmasqnetwork",
];

/// What all policies of the files come to.
#[derive(Default)]
struct Found {
    exceptions: Vec<String>,
    destinations: Vec<String>,
    addresses: Vec<String>,
    outbound: bool,
    forwards: Vec<Table>,
    /// The address (none: any of its own), protocol and port of each.
    forwarded: Vec<(Option<String>, &'static str, u16)>,
    /// Filter rules by priority, the lowest first.
    rules: Vec<(u64, Table)>,
}

pub(super) fn import(
    inputs: &[Input],
    options: &Options,
    report: &mut Report,
) -> Result<Vec<Table>, String> {
    let mut found = Found::default();
    for input in inputs {
        match document::parse_json(&input.text) {
            Ok(root) if matches!(root.value, Value::Map(_)) => {
                let network = Network {
                    name: &input.name,
                    version: 1,
                    options,
                };
                network.walk("$", &root, &mut found, report);
            }
            Ok(root) => report.refuse(
                &input.name,
                format!("is {} (expected an object)", root.kind()),
            ),
            Err(error) => {
                let place = format!("{}:{}", input.name, error.line);
                report.refuse(
                    &place,
                    format!("column {}: {}", error.column, error.message),
                );
            }
        }
    }
    let origin = format!(
        "import:{}",
        inputs.first().map_or("", |input| input.name.as_str())
    );
    Ok(found.tables(&origin, options, report))
}

impl Found {
    fn tables(mut self, origin: &str, options: &Options, report: &mut Report) -> Vec<Table> {
        let mut tables = Vec::new();
        let inside = options.inside();
        let known = inside.as_deref().unwrap_or_default();
        let mut via = "interface";
        if !self.addresses.is_empty() {
            tables.push(
                Table::new("[[pool]]")
                    .text("name", "hns")
                    .list("addresses", &self.addresses)
                    .text("origin", origin),
            );
            via = "pool:hns";
        }
        if !self.exceptions.is_empty() || !self.destinations.is_empty() {
            let mut exempt = Table::new("[[exempt]]")
                .text("name", "OutBoundNAT")
                .values("in", known);
            if !self.exceptions.is_empty() {
                exempt = exempt.list("dst", &self.exceptions);
            }
            if !self.destinations.is_empty() {
                exempt = exempt.list("force", &self.destinations);
            }
            tables.push(exempt.text("origin", origin));
        }
        match inside {
            Ok(inside) if self.outbound => tables.push(
                Table::new("[[source-nat]]")
                    .values("in", &inside)
                    .text("via", via)
                    .text("origin", origin),
            ),
            Err(why) if self.outbound => report.warn(
                "",
                "",
                format!("no rule that translates the rest is written: {why}"),
            ),
            _ => {}
        }
        tables.extend(self.forwards);
        self.rules.sort_by_key(|(priority, _)| *priority);
        tables.extend(self.rules.into_iter().map(|(_, rule)| rule));
        tables
    }
}

/// A value of a map, whatever the case of its key.
pub(super) fn find<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    let found = node
        .entries()
        .iter()
        .rev()
        .find(|(k, _)| k.text.eq_ignore_ascii_case(key));
    found.map(|(_, value)| value)
}

#[derive(Clone, Copy)]
struct Network<'a> {
    name: &'a str,
    version: u8,
    options: &'a Options,
}

impl Network<'_> {
    fn place(&self, path: &str) -> String {
        format!("{}:{path}", self.name)
    }

    /// A network with its policies, and what is nested in it.
    fn walk(mut self, path: &str, node: &Node, found: &mut Found, report: &mut Report) {
        match find(node, "apiVersion").map(|v| &v.value) {
            None => {}
            Some(Value::Number(number)) if number == "1" || number == "2" => {
                self.version = if number == "2" { 2 } else { 1 };
            }
            Some(_) => report.reject(
                &self.place(&format!("{path}.apiVersion")),
                "E-UNKNOWN",
                "apiVersion must be 1 or 2",
            ),
        }
        for (key, value) in node.entries() {
            let at = format!("{path}.{}", key.text);
            match key.text.to_ascii_lowercase().as_str() {
                "policies" | "additionalargs" => self.policies(&at, value, found, report),
                "delegate" => self.walk(&at, value, found, report),
                "plugins" => {
                    for (index, plugin) in value.elements().iter().enumerate() {
                        self.walk(&format!("{at}[{index}]"), plugin, found, report);
                    }
                }
                "loopbackdsr" => report.note(
                    &self.place(&at),
                    "",
                    "loopbackDSR: hairpin is on by default here",
                ),
                "ipmasqnetwork" => self.net(&at, value, &mut found.exceptions, "exempt", report),
                other if OTHER_KEYS.contains(&other) => {}
                _ => report.note(&self.place(&at), "", "no policy; not read"),
            }
        }
    }

    fn policies(&self, path: &str, list: &Node, found: &mut Found, report: &mut Report) {
        if !matches!(list.value, Value::List(_) | Value::Null) {
            return report.reject(
                &self.place(path),
                "E-SYNTAX",
                format!("is {} (expected a list)", list.kind()),
            );
        }
        for (index, policy) in list.elements().iter().enumerate() {
            let at = format!("{path}[{index}]");
            let name = find(policy, "name")
                .and_then(Node::text)
                .unwrap_or_default();
            match find(policy, "value") {
                _ if !name.eq_ignore_ascii_case("EndpointPolicy") => {
                    report.note(
                        &self.place(&at),
                        "",
                        format!("{name:?} is no EndpointPolicy; not read"),
                    );
                }
                Some(value) => self.policy(&at, value, found, report),
                None => report.reject(
                    &self.place(&at),
                    "E-SYNTAX",
                    "an EndpointPolicy without a value",
                ),
            }
        }
    }

    fn policy(&self, path: &str, value: &Node, found: &mut Found, report: &mut Report) {
        let place = self.place(path);
        let kind = find(value, "Type").and_then(Node::text).unwrap_or_default();
        let nested = find(value, "Settings");
        // Only where a version looks does a setting count.
        let settings = match (self.version, nested) {
            (2, Some(settings)) => settings,
            (2, None) if value.entries().len() > 1 => {
                return report.warn(&place, "", format!("{kind}: apiVersion 2 keeps its settings below Settings; HNS would ignore these, and so does the import"));
            }
            (1, Some(_)) => {
                return report.warn(&place, "", format!("{kind}: Settings belong to apiVersion 2; HNS would ignore them, and so does the import"));
            }
            _ => value,
        };
        let inner = match self.version {
            2 => format!("{path}.value.Settings"),
            _ => format!("{path}.value"),
        };
        match kind {
            "OutBoundNAT" => self.outbound(&inner, settings, found, report),
            "NAT" | "PortMapping" => self.forward(path, settings, found, report),
            "ROUTE" | "SDNRoute" => report.warn(
                &place,
                "W-HNS-ROUTE",
                format!("{kind}: encapsulation is the overlay's work; ignored"),
            ),
            "ACL" => match acl::rule(settings) {
                Ok((priority, rule)) => {
                    let inside = self.options.inside().unwrap_or_default();
                    let rule = rule.values("in", &inside);
                    report.ok(&place, format!("filter.rule, priority {priority}"));
                    let rule = rule.text("origin", &format!("import:{place}"));
                    found.rules.push((priority, rule));
                }
                Err(why) => report.reject(&place, "E-MATCH", format!("ACL: {why}")),
            },
            _ => match IGNORED.iter().find(|(name, _)| *name == kind) {
                Some((_, why)) => report.note(&place, "", format!("{kind}: {why}; ignored")),
                None => {
                    let known = KNOWN
                        .iter()
                        .copied()
                        .chain(IGNORED.iter().map(|(name, _)| *name));
                    let hint = nearest(kind, known)
                        .map_or_else(String::new, |best| format!(" (did you mean {best:?}?)"));
                    report.reject(
                        &place,
                        "E-UNKNOWN",
                        format!("HNS knows no policy {kind:?}{hint}"),
                    );
                }
            },
        }
    }

    fn outbound(&self, path: &str, settings: &Node, found: &mut Found, report: &mut Report) {
        found.outbound = true;
        let (exceptions, vip) = match self.version {
            2 => ("Exceptions", "VirtualIP"),
            _ => ("ExceptionList", "VIP"),
        };
        for (key, value) in settings.entries() {
            let at = format!("{path}.{}", key.text);
            let is = |name: &str| key.text.eq_ignore_ascii_case(name);
            if is(exceptions) {
                for (index, element) in value.elements().iter().enumerate() {
                    self.net(
                        &format!("{at}[{index}]"),
                        element,
                        &mut found.exceptions,
                        "exempt",
                        report,
                    );
                }
            } else if is("Destinations") {
                for (index, element) in value.elements().iter().enumerate() {
                    self.net(
                        &format!("{at}[{index}]"),
                        element,
                        &mut found.destinations,
                        "force",
                        report,
                    );
                }
                report.warn(&self.place(&at), "", "Destinations: HNS translates only these when the list is present; here they are translated besides all that is not excepted");
            } else if is(vip) {
                match value.text().and_then(|text| text.parse::<Ipv4Addr>().ok()) {
                    Some(address) => {
                        let address = address.to_string();
                        report.ok(&self.place(&at), format!("pool hns = {address}"));
                        if !found.addresses.contains(&address) {
                            found.addresses.push(address);
                        }
                    }
                    None => report.reject(&self.place(&at), "E-SYNTAX", "is no IPv4 address"),
                }
            } else if is("MaxPortPoolUsage") {
                report.note(
                    &self.place(&at),
                    "",
                    "MaxPortPoolUsage: every port of an address can be used here",
                );
            } else if !is("Type") {
                let text = format!("{}: HNS reads no such setting here; ignored", key.text);
                report.warn(&self.place(&at), "", text);
            }
        }
    }

    /// A prefix or an address into a list.
    fn net(
        &self,
        path: &str,
        value: &Node,
        into: &mut Vec<String>,
        what: &str,
        report: &mut Report,
    ) {
        let place = self.place(path);
        let text = value.text().unwrap_or_default();
        let Some((net, bare)) = net_of(text) else {
            let shown = if text.is_empty() { value.kind() } else { text };
            return report.reject(
                &place,
                "E-SYNTAX",
                format!("{shown} is no prefix such as \"10.0.0.0/8\""),
            );
        };
        report.ok(&place, format!("{what} {net}"));
        if bare {
            report.note(
                &place,
                "",
                format!("{text} is a bare address, taken as {net}"),
            );
        }
        let net = net.to_string();
        if !into.contains(&net) {
            into.push(net);
        }
    }

    fn forward(&self, path: &str, settings: &Node, found: &mut Found, report: &mut Report) {
        let place = self.place(path);
        let port = |key: &str| match find(settings, key).map(|v| &v.value) {
            Some(Value::Number(digits)) => digits.parse::<u16>().ok().filter(|p| *p > 0),
            _ => None,
        };
        let (Some(internal), Some(external)) = (port("InternalPort"), port("ExternalPort")) else {
            return report.reject(
                &place,
                "E-PORTS",
                "InternalPort and ExternalPort must be 1–65535",
            );
        };
        let Some(proto) = find(settings, "Protocol").and_then(protocol) else {
            return report.reject(
                &place,
                "E-MATCH",
                "Protocol must be TCP or UDP (6 or 17): nothing else has ports",
            );
        };
        let Some(target) = self.options.target else {
            let text = format!(
                "{external}->{internal}/{proto}: HNS takes the endpoint's own address as target (give --target IP)"
            );
            return report.reject(&place, "E-MATCH", text);
        };
        let vip =
            match find(settings, "VIP").map(|v| v.text().and_then(|t| t.parse::<IpAddr>().ok())) {
                None => None,
                Some(Some(IpAddr::V4(address))) => Some(address.to_string()),
                Some(_) => return report.reject(&place, "E-SYNTAX", "VIP is no IPv4 address"),
            };
        let same = |(address, p, port): &(Option<String>, &str, u16)| {
            let meets = address.is_none() || vip.is_none() || *address == vip;
            meets && (*p, *port) == (proto, external)
        };
        if found.forwarded.iter().any(same) {
            let text = format!("{external}/{proto} is mapped by an earlier policy already");
            return report.reject(&place, "E-MATCH", text);
        }
        found.forwarded.push((vip.clone(), proto, external));
        report.ok(
            &place,
            format!("port-forward {external}/{proto} to {target}:{internal}"),
        );
        let forward = Table::new("[[port-forward]]")
            .text("dst", vip.as_deref().unwrap_or("@self"))
            .text("proto", proto)
            .text("dport", &external.to_string())
            .text("to", &format!("{target}:{internal}"))
            .text("origin", &format!("import:{place}"));
        found.forwards.push(forward);
    }
}

/// A protocol with ports, by number or name.
fn protocol(value: &Node) -> Option<&'static str> {
    let written = match &value.value {
        Value::Number(text) | Value::Text(text) => text.to_ascii_lowercase(),
        _ => return None,
    };
    match written.as_str() {
        "6" | "tcp" => Some("tcp"),
        "17" | "udp" => Some("udp"),
        _ => None,
    }
}

/// An address or a prefix as these formats write them.
pub(super) fn net_of(text: &str) -> Option<(IpNet, bool)> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some((address.into(), true)),
        Err(_) => content::prefix(text)
            .filter(|(_, host)| !host)
            .map(|(net, _)| (net, false)),
    }
}
