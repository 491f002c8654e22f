//! The rules: exempt, source-nat, static-nat, port-forward.

use std::net::IpAddr;
use std::path::PathBuf;

use super::super::exemptions::{Format, Missing};
use super::super::matching::{AddressList, Match, PortSet, PrefixSet, ProtocolSet};
use super::super::raw;
use super::super::report::{Findings, hint};
use super::super::validated::{
    Direction, Exempt, ExemptFile, ForwardSource, PortForward, SourceNat, StaticNat, Target, Via,
};
use super::super::values;
use super::links::realm;
use super::operands::{self, Names, check_families, check_ports_fit, element_path};
use super::pools::{SELECT, is_host};
use super::{checked, choice, label, required};
use crate::base::PoolId;
use crate::wire::{ICMP, ICMPV6};

pub(super) fn exempts(raw: &[raw::Exempt], names: &Names, findings: &mut Findings) -> Vec<Exempt> {
    let one = |(index, raw): (usize, &raw::Exempt)| {
        let path = format!("exempt[{index}]");
        let at_force = format!("{path}.force");
        if raw.dst.is_none() && raw.force.0.is_empty() && raw.file.is_none() {
            findings.error(
                &format!("{path}.dst"),
                "is missing (write the destinations to leave untranslated)",
            );
        }
        let force = match raw.force.0.is_empty() {
            true => PrefixSet::default(),
            false => names.prefixes(&at_force, Some(&raw.force), findings),
        };
        if !force.exclude.is_empty() {
            findings.error(
                &at_force,
                "cannot be negated (list the destinations to translate after all)",
            );
        }
        let list = force.include.unwrap_or_default();
        if list.own || !list.interfaces.is_empty() {
            findings.error(
                &at_force,
                "takes prefixes only (the gateway's own addresses are never translated)",
            );
        }
        let dst = match &raw.dst {
            Some(_) => names.prefixes(&format!("{path}.dst"), raw.dst.as_ref(), findings),
            // Without destinations of its own the rule only forces: nothing is left untranslated by it.
            None => PrefixSet {
                include: Some(AddressList::default()),
                ..PrefixSet::default()
            },
        };
        Exempt {
            label: label(&raw.label, &path, findings),
            in_: names.interfaces(&format!("{path}.in"), raw.in_.as_ref(), findings),
            src: names.prefixes(&format!("{path}.src"), raw.src.as_ref(), findings),
            dst,
            force: list.prefixes,
            file: raw
                .file
                .as_ref()
                .map(|raw| exempt_file(&format!("{path}.file"), raw, findings)),
        }
    };
    raw.iter().enumerate().map(one).collect()
}

const FORMATS: &[(&str, Format)] = &[
    (Format::IpMasqAgent.name(), Format::IpMasqAgent),
    (Format::Azure.name(), Format::Azure),
    (Format::Cilium.name(), Format::Cilium),
];

const MISSING: &[(&str, Missing)] = &[
    ("rfc1918", Missing::Rfc1918),
    ("reserved", Missing::Reserved),
    ("empty", Missing::Empty),
    ("error", Missing::Error),
];

/// The file itself is read when everything is known to be right.
fn exempt_file(path: &str, raw: &raw::ExemptFile, findings: &mut Findings) -> ExemptFile {
    let at = |key: &str| format!("{path}.{key}");
    let format =
        choice(&at("format"), &raw.format, FORMATS, findings).unwrap_or(Format::IpMasqAgent);
    let file = PathBuf::from(raw.path.as_deref().unwrap_or(format.default_path()));
    if !file.is_absolute() {
        let message = format!(
            "{:?} is no absolute path (begin it with \"/\")",
            file.display().to_string()
        );
        findings.error(&at("path"), message);
    }
    let resync =
        checked(&at("resync"), values::duration(&raw.resync), findings).unwrap_or_default();
    if resync.is_zero() {
        findings.error(
            &at("resync"),
            "\"0s\" would never rest (write at least \"1s\")",
        );
    }
    let missing = raw
        .missing
        .as_deref()
        .and_then(|word| choice(&at("missing"), word, MISSING, findings));
    ExemptFile {
        path: file,
        format,
        resync,
        limit: raw.limit,
        missing: missing.unwrap_or(match format {
            Format::Cilium => Missing::Reserved,
            Format::IpMasqAgent | Format::Azure => Missing::Rfc1918,
        }),
        list: Vec::new(),
    }
}

pub(super) fn source_nat(
    raw: &[raw::SourceNat],
    names: &Names,
    pools: &[&str],
    findings: &mut Findings,
) -> Vec<SourceNat> {
    let one = |(index, raw): (usize, &raw::SourceNat)| {
        let path = format!("source-nat[{index}]");
        let at = |key: &str| format!("{path}.{key}");
        let matching = Match {
            in_: names.interfaces(&at("in"), raw.in_.as_ref(), findings),
            out: names.interfaces(&at("out"), raw.out.as_ref(), findings),
            src: names.prefixes(&at("src"), raw.src.as_ref(), findings),
            dst: names.prefixes(&at("dst"), raw.dst.as_ref(), findings),
            proto: operands::protocols(&at("proto"), raw.proto.as_ref(), findings),
            sport: operands::ports(&at("sport"), raw.sport.as_ref(), findings),
            dport: operands::ports(&at("dport"), raw.dport.as_ref(), findings),
        };
        check_ports_fit(&path, "sport", &matching.proto, &matching.sport, findings);
        check_ports_fit(&path, "dport", &matching.proto, &matching.dport, findings);
        check_families(&at("dst"), &matching.src, &matching.dst, findings);
        let via = via(&at("via"), raw.via.as_deref(), pools, findings);
        let ports = raw
            .ports
            .as_ref()
            .map(|_| operands::ports(&at("ports"), raw.ports.as_ref(), findings));
        check_nat_ports(&at("ports"), &matching.proto, ports.as_ref(), via, findings);
        if raw.select.is_some() && via == Some(Via::None) {
            findings.error(
                &at("select"),
                "means nothing with via = \"none\" (leave it out)",
            );
        }
        SourceNat {
            label: label(&raw.label, &path, findings),
            matching,
            via: via.unwrap_or(Via::None),
            ports,
            select: raw
                .select
                .as_deref()
                .and_then(|word| choice(&at("select"), word, SELECT, findings)),
        }
    };
    raw.iter().enumerate().map(one).collect()
}

fn via(path: &str, written: Option<&str>, pools: &[&str], findings: &mut Findings) -> Option<Via> {
    let what = "write \"interface\", \"pool:NAME\" or \"none\"";
    let text = required(path, written, what, findings)?;
    match text {
        "none" => return Some(Via::None),
        "interface" => return Some(Via::Interface),
        _ => {}
    }
    let name = text.strip_prefix("pool:");
    let found = name.and_then(|name| pools.iter().position(|pool| *pool == name));
    if let Some(index) = found {
        return Some(Via::Pool(PoolId(index as u16)));
    }
    let message = match name {
        Some(name) => format!("there is no pool {name:?} ({})", hint(name, pools)),
        None if pools.contains(&text) => {
            format!("{text:?} is a pool's name (write \"pool:{text}\")")
        }
        None => format!("{text:?} is not possible here ({what})"),
    };
    findings.error(path, message);
    None
}

/// External ports of a rule: of protocols that have ports, or ids of ICMP queries.
fn check_nat_ports(
    path: &str,
    proto: &ProtocolSet,
    ports: Option<&PortSet>,
    via: Option<Via>,
    findings: &mut Findings,
) {
    let Some(ports) = ports else {
        return;
    };
    if via == Some(Via::None) {
        findings.error(path, "means nothing with via = \"none\" (leave it out)");
    }
    if ports.contains(0) {
        findings.error(
            path,
            "port 0 cannot be given out (start at 1, better at 1024)",
        );
    }
    let binds = |protocol: u8| {
        protocol == ICMP || protocol == ICMPV6 || operands::WITH_PORTS.contains(&protocol)
    };
    if let Some(without) = proto
        .iter()
        .find(|p| !binds(*p))
        .filter(|_| !proto.is_any())
    {
        let name = ProtocolSet::name(without);
        findings.error(
            path,
            format!(
                "{name} has no ports (allowed with ports: tcp, udp, sctp, dccp, udplite, icmp, icmp6)"
            ),
        );
    }
}

pub(super) fn static_nat(
    raw: &[raw::StaticNat],
    names: &Names,
    realms: &[String],
    findings: &mut Findings,
) -> Vec<StaticNat> {
    let mut all = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let path = format!("static-nat[{index}]");
        let at = |key: &str| format!("{path}.{key}");
        let mut side = |key: &str, written: Option<&str>| {
            required(&at(key), written, "write an address or a prefix", findings)
                .and_then(|text| checked(&at(key), values::network(text), findings))
        };
        let (external, internal) = (
            side("external", raw.external.as_deref()),
            side("internal", raw.internal.as_deref()),
        );
        let interface = raw
            .interface
            .as_deref()
            .and_then(|name| checked(&at("interface"), names.interface(name), findings));
        let words = [
            ("both", Direction::Both),
            ("in", Direction::In),
            ("out", Direction::Out),
        ];
        let direction =
            choice(&at("direction"), &raw.direction, &words, findings).unwrap_or(Direction::Both);
        let (Some(external), Some(internal)) = (external, internal) else {
            continue;
        };
        if external.addr().is_ipv4() != internal.addr().is_ipv4() {
            let message = format!("{internal} and external = {external} are of different families");
            findings.error(&at("internal"), message);
        } else if external.prefix_len() != internal.prefix_len() {
            let message = format!(
                "{internal} and external = {external} differ in length (one address for one address)"
            );
            findings.error(&at("internal"), message);
        }
        let label = label(&raw.label, &path, findings);
        all.push(StaticNat {
            label,
            external,
            internal,
            realm: realm(&at("vrf"), &raw.vrf, realms, findings),
            interface,
            direction,
        });
    }
    all
}

pub(super) fn port_forwards(
    raw: &[raw::PortForward],
    names: &Names,
    realms: &[String],
    findings: &mut Findings,
) -> Vec<PortForward> {
    let one = |(index, raw): (usize, &raw::PortForward)| {
        let path = format!("port-forward[{index}]");
        let at = |key: &str| format!("{path}.{key}");
        let proto = operands::protocols(&at("proto"), Some(&raw.proto), findings);
        let dport = operands::ports(&at("dport"), raw.dport.as_ref(), findings);
        check_ports_fit(&path, "dport", &proto, &dport, findings);
        if proto.is_any() && !dport.is_any() {
            findings.error(
                &at("proto"),
                "\"any\" includes protocols without ports (name tcp, udp or sctp with dport)",
            );
        }
        let in_ = names.interfaces(&at("in"), raw.in_.as_ref(), findings);
        if raw.in_.is_none() && raw.dst.is_none() {
            findings.error(
                &path,
                "has neither in nor dst (say where clients arrive, or which address they call)",
            );
        }
        if raw.spread != "hash-source" {
            choice(&at("spread"), &raw.spread, &[("hash-source", ())], findings);
        }
        let rule = PortForward {
            label: label(&raw.label, &path, findings),
            in_,
            src: names.prefixes(&at("src"), raw.src.as_ref(), findings),
            dst: forwarded(&at("dst"), raw.dst.as_ref(), names, findings),
            to: targets(&at("to"), raw, &dport, findings),
            realm: realm(&at("vrf"), &raw.vrf, realms, findings),
            proto,
            dport,
            hairpin: raw.hairpin,
            allow: raw.allow,
            source: forward_source(&at("source"), &raw.source, findings),
        };
        check_forward_families(&path, &rule, findings);
        rule
    };
    raw.iter().enumerate().map(one).collect()
}

/// The addresses forwarded, written out, because each stands for a service of its own.
fn forwarded(
    path: &str,
    written: Option<&raw::Many>,
    names: &Names,
    findings: &mut Findings,
) -> AddressList {
    let set = names.prefixes(path, written, findings);
    if !set.exclude.is_empty() {
        findings.error(path, "cannot be negated (write the addresses clients call)");
    }
    set.include.unwrap_or_default()
}

/// Servers and clients speak one protocol: everything a rule names is of one family.
fn check_forward_families(path: &str, rule: &PortForward, findings: &mut Findings) {
    let Some(v4) = rule.to.first().map(|target| target.address.is_ipv4()) else {
        return;
    };
    let other = |address: IpAddr| address.is_ipv4() != v4;
    let family = if v4 { "IPv4" } else { "IPv6" };
    if let Some(target) = rule.to.iter().find(|target| other(target.address)) {
        let message = format!("{} is not {family} like the first server", target.address);
        findings.error(&format!("{path}.to"), message);
    }
    if let Some(net) = rule.dst.prefixes.iter().find(|net| other(net.addr())) {
        let message = format!("{} is not {family} like the server", net.addr());
        findings.error(&format!("{path}.dst"), message);
    }
    match rule.source {
        ForwardSource::Address(address) if other(address) => {
            let message = format!("{address} is not {family} like the server");
            findings.error(&format!("{path}.source"), message);
        }
        _ => {}
    }
}

fn targets(
    path: &str,
    raw: &raw::PortForward,
    dport: &PortSet,
    findings: &mut Findings,
) -> Vec<Target> {
    let Some(written) = &raw.to else {
        findings.error(path, "is missing (write the server, like \"10.0.0.2:22\")");
        return Vec::new();
    };
    if written.0.is_empty() {
        findings.error(path, "is empty (write the server, like \"10.0.0.2:22\")");
    }
    let mut targets = Vec::new();
    for (index, text) in written.0.iter().enumerate() {
        let at = element_path(path, index, findings);
        let Some((address, ports)) = checked(&at, values::target(text), findings) else {
            continue;
        };
        if !is_host(address) {
            findings.error(&at, format!("{address} cannot be a server's address"));
        }
        if let Some((low, high)) = ports {
            check_shift(&at, (low, high), raw.dport.is_some(), dport, findings);
        }
        targets.push(Target {
            address,
            first_port: ports.map(|(low, _)| low),
        });
    }
    targets
}

/// Target ports correspond one to one to the forwarded ones, which must then be one range.
fn check_shift(
    path: &str,
    (low, high): (u16, u16),
    given: bool,
    dport: &PortSet,
    findings: &mut Findings,
) {
    if !given {
        findings.error(
            path,
            "names ports although dport is missing (write dport, or leave the ports out)",
        );
        return;
    }
    let count = u32::from(high - low) + 1;
    if count != dport.count() {
        let message = format!(
            "{count} target {} for {} forwarded (dport = {dport}): the numbers must be equal, port by port",
            if count == 1 { "port" } else { "ports" },
            dport.count()
        );
        findings.error(path, message);
    } else if dport.ranges().len() != 1 {
        let message = format!(
            "dport = {dport} is not one range, so it cannot be shifted (leave the target's ports out)"
        );
        findings.error(path, message);
    }
    if low == 0 {
        findings.error(path, "port 0 cannot be a server's port");
    }
}

fn forward_source(path: &str, written: &str, findings: &mut Findings) -> ForwardSource {
    match (written, written.parse::<IpAddr>()) {
        ("auto", _) => ForwardSource::Auto,
        ("keep", _) => ForwardSource::Keep,
        (_, Ok(address)) => ForwardSource::Address(address),
        (text, Err(_)) => {
            findings.error(
                path,
                format!("{text:?} is not possible here (write \"auto\", \"keep\" or an address)"),
            );
            ForwardSource::Auto
        }
    }
}
