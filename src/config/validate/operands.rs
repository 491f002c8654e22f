//! Names in conditions: sets, interfaces, wildcards, negation.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::super::exemptions;
use super::super::matching::{AddressList, InterfaceMatch, PortSet, PrefixSet, ProtocolSet};
use super::super::raw::Many;
use super::super::report::{Findings, hint};
use super::super::values;
use crate::base::InterfaceId;

/// Sets every configuration has, apart from `@self`.
const BUILT_IN: &[(&str, &[&str])] = &[
    ("rfc1918", exemptions::RFC1918),
    ("reserved", exemptions::RESERVED),
    (
        "link-local",
        &[exemptions::LINK_LOCAL.0, exemptions::LINK_LOCAL.1],
    ),
    ("multicast", &["224.0.0.0/4", "ff00::/8"]),
];

/// Sets within sets: deeper is a mistake, and unbounded nesting could multiply without end.
const DEEPEST: usize = 4;

/// Protocols whose headers begin with a source and a destination port.
pub(super) const WITH_PORTS: &[u8] = &[6, 17, 33, 132, 136];

/// What names in conditions can stand for.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Interface names, by id.
    pub interfaces: Vec<String>,
    /// `[sets]`, by name.
    pub sets: BTreeMap<String, Vec<String>>,
}

/// The two halves of a condition on addresses.
#[derive(Default)]
struct Halves {
    include: AddressList,
    exclude: AddressList,
    /// Something was included, even if it came out empty.
    included: bool,
}

impl Names {
    /// The interface of this name, or what is wrong with it.
    pub fn interface(&self, name: &str) -> Result<InterfaceId, String> {
        let found = self.interfaces.iter().position(|known| known == name);
        found.map(|index| InterfaceId(index as u16)).ok_or_else(|| {
            let known: Vec<&str> = self.interfaces.iter().map(String::as_str).collect();
            format!("there is no interface {name:?} ({})", hint(name, &known))
        })
    }

    fn set(&self, name: &str) -> Result<Vec<&str>, String> {
        if let Some(set) = self.sets.get(name) {
            return Ok(set.iter().map(String::as_str).collect());
        }
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
        built_in.map(|(_, list)| list.to_vec()).ok_or_else(|| {
            let known: Vec<&str> = self.set_names().collect();
            format!("there is no set @{name} ({})", hint(name, &known))
        })
    }

    fn set_names(&self) -> impl Iterator<Item = &str> {
        let built_in = BUILT_IN
            .iter()
            .map(|(name, _)| *name)
            .chain(std::iter::once("self"));
        self.sets.keys().map(String::as_str).chain(built_in)
    }

    /// Whether a set may be called so.
    pub fn is_built_in(name: &str) -> bool {
        name == "self" || BUILT_IN.iter().any(|(known, _)| *known == name)
    }

    /// Addresses: prefixes, ranges, sets, `interface:IF`, each possibly negated.
    pub fn prefixes(
        &self,
        path: &str,
        written: Option<&Many>,
        findings: &mut Findings,
    ) -> PrefixSet {
        let Some(Many(list)) = written else {
            return PrefixSet::default();
        };
        if list.is_empty() {
            findings.error(
                path,
                "is empty, so nothing would match (leave the key out for any address)",
            );
        }
        let mut halves = Halves::default();
        for (index, element) in list.iter().enumerate() {
            if let Err(message) = self.operand(element, false, &mut Vec::new(), &mut halves) {
                findings.error(&element_path(path, index, findings), message);
            }
        }
        PrefixSet {
            include: halves.included.then(|| tidy(halves.include)),
            exclude: tidy(halves.exclude),
            text: list.join(","),
        }
    }

    /// Adds one operand to the halves. `inside` is the chain of sets being expanded.
    fn operand(
        &self,
        text: &str,
        negated: bool,
        inside: &mut Vec<String>,
        halves: &mut Halves,
    ) -> Result<(), String> {
        let (negated, text) = match text.trim().strip_prefix('!') {
            Some(_) if negated => {
                return Err(format!(
                    "the set @{} has exclusions and cannot be negated",
                    inside.join(", @")
                ));
            }
            Some(rest) => (true, rest.trim()),
            None => (negated, text.trim()),
        };
        if let Some(name) = text.strip_prefix('@').filter(|name| *name != "self") {
            enter(name, inside)?;
            for element in self.set(name)? {
                self.operand(element, negated, inside, halves)?;
            }
            inside.pop();
            halves.included |= !negated;
            return Ok(());
        }
        halves.included |= !negated;
        let half = if negated {
            &mut halves.exclude
        } else {
            &mut halves.include
        };
        if text == "@self" {
            half.own = true;
        } else if let Some(name) = text.strip_prefix("interface:") {
            half.interfaces.push(self.interface(name)?);
        } else {
            half.prefixes.extend(values::networks(text)?);
        }
        Ok(())
    }

    /// Interfaces: names, wildcards with a trailing `*`, sets of names, each possibly negated.
    pub fn interfaces(
        &self,
        path: &str,
        written: Option<&Many>,
        findings: &mut Findings,
    ) -> InterfaceMatch {
        let Some(Many(list)) = written else {
            return InterfaceMatch::Any;
        };
        if list.is_empty() {
            findings.error(
                path,
                "is empty, so nothing would match (leave the key out for any interface)",
            );
        }
        let mut chosen =
            vec![list.iter().all(|element| element.trim().starts_with('!')); self.interfaces.len()];
        // Exclusions come last, so that their order in the list does not matter.
        for negative in [false, true] {
            for (index, element) in list.iter().enumerate() {
                let (is_negative, pattern) = match element.trim().strip_prefix('!') {
                    Some(rest) => (true, rest.trim()),
                    None => (false, element.trim()),
                };
                if is_negative != negative {
                    continue;
                }
                match self.pattern(pattern, &mut Vec::new()) {
                    Ok(ids) => {
                        if ids.is_empty() {
                            findings.warn(
                                &element_path(path, index, findings),
                                format!("{pattern:?} matches no interface"),
                            );
                        }
                        ids.iter().for_each(|id| chosen[id.index()] = !negative);
                    }
                    Err(message) => findings.error(&element_path(path, index, findings), message),
                }
            }
        }
        let ids = chosen
            .iter()
            .enumerate()
            .filter(|(_, is)| **is)
            .map(|(index, _)| InterfaceId(index as u16));
        InterfaceMatch::Only {
            ids: ids.collect(),
            text: list.join(","),
        }
    }

    fn pattern(&self, pattern: &str, inside: &mut Vec<String>) -> Result<Vec<InterfaceId>, String> {
        if let Some(stem) = pattern.strip_suffix('*') {
            let matching = self
                .interfaces
                .iter()
                .enumerate()
                .filter(|(_, name)| name.starts_with(stem));
            return Ok(matching
                .map(|(index, _)| InterfaceId(index as u16))
                .collect());
        }
        let Some(name) = pattern.strip_prefix('@') else {
            return self.interface(pattern).map(|id| vec![id]);
        };
        enter(name, inside)?;
        let mut ids = Vec::new();
        for element in self.set(name)? {
            if element.starts_with('!') {
                return Err(format!(
                    "the set @{name} has exclusions, which a set of interfaces cannot"
                ));
            }
            ids.extend(self.pattern(element, inside)?);
        }
        inside.pop();
        Ok(ids)
    }

    /// Reports sets that are neither prefixes nor interface names, whether used or not.
    pub fn check_sets(&self, findings: &mut Findings) {
        for (name, elements) in &self.sets {
            let path = format!("sets.{name}");
            if Names::is_built_in(name) {
                findings.error(&path, format!("@{name} is built in (choose another name)"));
            }
            for (index, element) in elements.iter().enumerate() {
                let mut inside = vec![name.clone()];
                let as_address = self.operand(element, false, &mut inside, &mut Halves::default());
                if as_address.is_ok() {
                    continue;
                }
                let as_interface =
                    self.pattern(element.trim_start_matches('!'), &mut vec![name.clone()]);
                let looks_like_name = !element.contains(['.', ':', '/', '@']);
                match (as_address, as_interface) {
                    (Err(_), Err(message)) if looks_like_name => {
                        let message = format!("{message}, and it is no prefix");
                        findings.error(&element_path(&path, index, findings), message);
                    }
                    (Err(message), Err(_)) => {
                        findings.error(&element_path(&path, index, findings), message)
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Goes into a set, unless that would never end.
fn enter(name: &str, inside: &mut Vec<String>) -> Result<(), String> {
    if inside.iter().any(|outer| outer == name) {
        return Err(format!("the set @{name} contains itself"));
    }
    if inside.len() >= DEEPEST {
        return Err(format!(
            "the set @{name} is nested more than {DEEPEST} deep (write its prefixes out)"
        ));
    }
    inside.push(name.to_string());
    Ok(())
}

/// Where element `index` of the list at `path` was written; a single value has the path of its key.
pub(super) fn element_path(path: &str, index: usize, findings: &Findings) -> String {
    let element = format!("{path}[{index}]");
    match findings.is_written(&element) {
        true => element,
        false => path.to_string(),
    }
}

fn tidy(mut list: AddressList) -> AddressList {
    list.prefixes = IpNet::aggregate(&list.prefixes);
    list.prefixes.sort();
    list.interfaces.sort();
    list.interfaces.dedup();
    list
}

/// Ports, any when absent.
pub(super) fn ports(path: &str, written: Option<&Many>, findings: &mut Findings) -> PortSet {
    let Some(Many(list)) = written else {
        return PortSet::any();
    };
    values::ports(list).unwrap_or_else(|message| {
        findings.error(path, message);
        PortSet::any()
    })
}

/// Protocols, any when absent.
pub(super) fn protocols(
    path: &str,
    written: Option<&Many>,
    findings: &mut Findings,
) -> ProtocolSet {
    let Some(Many(list)) = written else {
        return ProtocolSet::ANY;
    };
    values::protocols(list).unwrap_or_else(|message| {
        findings.error(path, message);
        ProtocolSet::ANY
    })
}

/// Reports a condition on ports of protocols that have none.
pub(super) fn check_ports_fit(
    path: &str,
    key: &str,
    proto: &ProtocolSet,
    ports: &PortSet,
    findings: &mut Findings,
) {
    if proto.is_any() || ports.is_any() {
        return;
    }
    if let Some(without) = proto.iter().find(|p| !WITH_PORTS.contains(p)) {
        let name = ProtocolSet::name(without);
        findings.error(
            &format!("{path}.{key}"),
            format!("{name} has no ports (allowed with ports: tcp, udp, sctp, dccp, udplite)"),
        );
    }
}

/// Reports a rule whose source and destination can never be of one family.
pub(super) fn check_families(
    path: &str,
    src: &PrefixSet,
    dst: &PrefixSet,
    findings: &mut Findings,
) {
    let families = |set: &PrefixSet| match &set.include {
        Some(list) if list.interfaces.is_empty() && !list.own && !list.prefixes.is_empty() => {
            let has = |v4: bool| list.prefixes.iter().any(|net| net.addr().is_ipv4() == v4);
            (has(true), has(false))
        }
        _ => (true, true),
    };
    let (src, dst) = (families(src), families(dst));
    if !(src.0 && dst.0 || src.1 && dst.1) {
        findings.error(
            path,
            "src and dst are of different address families, so nothing can match (use one family in a rule)",
        );
    }
}
