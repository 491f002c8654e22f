//! `[[service]]`: one address and port in front of many backends.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::matching::ProtocolSet;
use super::super::raw;
use super::super::report::Findings;
use super::super::services::{Backend, Check, CheckKind, Service, ServiceAt};
use super::super::validated::{Pool, Validated};
use super::super::values;
use super::operands::{self, Names, element_path};
use super::{checked, choice, label, required};
use crate::nat::filter::flows::has_ports;
use crate::nat::services::hash::Fields;
use crate::nat::services::{Balance, Drain, Refusal, ServiceSource, maglev};
use crate::wire::{ICMP, ICMPV6};

/// Shortest interval and timeout of a check.
const SHORTEST: Duration = Duration::from_millis(100);

const REFUSALS: [(&str, Refusal); 2] = [("drop", Refusal::Drop), ("reject", Refusal::Reject)];

pub(super) fn services(
    raw: &[raw::Service],
    names: &Names,
    findings: &mut Findings,
) -> Vec<Service> {
    let one = |(index, raw): (usize, &raw::Service)| service(index, raw, names, findings);
    raw.iter().enumerate().map(one).collect()
}

/// Stands in for an address that could not be read, so that the objects behind keep their positions.
const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

fn service(index: usize, raw: &raw::Service, names: &Names, findings: &mut Findings) -> Service {
    let path = format!("service[{index}]");
    let at = |key: &str| format!("{path}.{key}");
    let kinds = [("virtual", true), ("real", false)];
    let is_virtual = choice(&at("kind"), &raw.kind, &kinds, findings).unwrap_or(true);
    if !is_virtual {
        for key in ["unmatched", "ping"] {
            if findings.is_written(&at(key)) {
                findings.error(
                    &at(key),
                    "means nothing with kind = \"real\": the address keeps its other ports (leave it out)",
                );
            }
        }
    }
    let proto = protocols(&path, raw, findings);
    let source = source(&at("source"), &raw.source, findings);
    let service = Service {
        label: label(&raw.label, &path, findings),
        at: place(&at("address"), raw.address.as_deref(), names, findings)
            .unwrap_or(ServiceAt::Address(NOBODY)),
        is_virtual,
        proto,
        port: raw.port,
        balance: balance(&path, raw, findings),
        fields: fields(&at("hash"), &raw.hash, findings),
        affinity: affinity(&path, raw, findings),
        unmatched: choice(&at("unmatched"), &raw.unmatched, &REFUSALS, findings)
            .unwrap_or_default(),
        empty: choice(&at("empty"), &raw.empty, &REFUSALS, findings).unwrap_or_default(),
        ping: raw.ping,
        drain: match raw.drain.as_deref() {
            None => Drain::ByProtocol,
            Some(word) => {
                let words = [("keep", Drain::Keep), ("end", Drain::End)];
                choice(&at("drain"), word, &words, findings).unwrap_or(Drain::ByProtocol)
            }
        },
        check: raw
            .check
            .as_ref()
            .and_then(|raw| check(&at("check"), raw, findings)),
        backends: Vec::new(),
    };
    let backends = (raw.backends.iter().enumerate())
        .map(|(i, raw)| {
            backend(
                &format!("{path}.backends[{i}]"),
                raw,
                &service,
                source,
                findings,
            )
        })
        .collect();
    let service = Service {
        backends,
        ..service
    };
    check_backends(&path, &service, findings);
    service
}

fn place(
    path: &str,
    written: Option<&str>,
    names: &Names,
    findings: &mut Findings,
) -> Option<ServiceAt> {
    let what = "write the address clients call, or \"interface:IF\"";
    let text = required(path, written, what, findings)?;
    if let Some(name) = text.strip_prefix("interface:") {
        return checked(path, names.interface(name), findings).map(ServiceAt::Interface);
    }
    let address = checked(path, values::address(text), findings)?;
    host(path, address, findings).map(ServiceAt::Address)
}

/// An address that a host can have.
fn host(path: &str, address: IpAddr, findings: &mut Findings) -> Option<IpAddr> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast {
        findings.error(path, format!("{address} cannot be a host's address"));
        return None;
    }
    Some(address)
}

fn protocols(path: &str, raw: &raw::Service, findings: &mut Findings) -> ProtocolSet {
    let at = format!("{path}.proto");
    let proto = operands::protocols(&at, Some(&raw.proto), findings);
    if proto.is_any() {
        if raw.port.is_some() {
            findings.error(
                &at,
                "\"any\" includes protocols without ports (name tcp, udp or sctp with port)",
            );
        }
        return proto;
    }
    if proto.contains(ICMP) || proto.contains(ICMPV6) {
        findings.error(
            &at,
            "icmp cannot be a service (ping = true lets the address answer pings)",
        );
    }
    let unread = proto.iter().find(|p| !has_ports(*p));
    if let Some(protocol) = unread.filter(|_| raw.port.is_some()) {
        let name = ProtocolSet::name(protocol);
        findings.error(
            &format!("{path}.port"),
            format!(
                "natgate reads the ports of tcp, udp and sctp only (leave port out for {name})"
            ),
        );
    }
    proto
}

fn balance(path: &str, raw: &raw::Service, findings: &mut Findings) -> Balance {
    let at = format!("{path}.maglev_size");
    let words = [
        ("hash", Balance::Hash),
        ("maglev", Balance::Maglev(raw.maglev_size)),
    ];
    let balance = choice(&format!("{path}.lb"), &raw.lb, &words, findings);
    if let Some(Balance::Maglev(size)) = balance {
        if !maglev::is_prime(size) {
            findings.error(
                &at,
                format!("{size} is no prime (write 1009, 10007, 65537, 655373 or another)"),
            );
        } else if (size as usize) < raw.backends.len() {
            findings.error(
                &at,
                format!("{size} is less than the {} backends", raw.backends.len()),
            );
        } else if (size as usize) < 100 * raw.backends.len() {
            let message = format!(
                "{size} is less than 100 for each of {} backends, so that shares are uneven and more flows move when one goes",
                raw.backends.len()
            );
            findings.warn(&at, message);
        }
    }
    balance.unwrap_or(Balance::Hash)
}

fn fields(path: &str, written: &raw::Many, findings: &mut Findings) -> Fields {
    let mut fields = Fields::NONE;
    if written.0.is_empty() {
        findings.error(
            path,
            "is empty, so that every flow would go to one backend (leave it out for all fields)",
        );
    }
    for (index, word) in written.0.iter().enumerate() {
        let field = match word.as_str() {
            "src" => &mut fields.source,
            "dst" => &mut fields.destination,
            "sport" => &mut fields.source_port,
            "dport" => &mut fields.destination_port,
            "proto" => &mut fields.protocol,
            other => {
                let at = element_path(path, index, findings);
                let message = format!("{other:?} is no field (src, dst, sport, dport, proto)");
                findings.error(&at, message);
                continue;
            }
        };
        *field = true;
    }
    fields
}

fn affinity(path: &str, raw: &raw::Service, findings: &mut Findings) -> Option<Duration> {
    let words = [("none", false), ("client", true)];
    let wanted = choice(&format!("{path}.affinity"), &raw.affinity, &words, findings)?;
    let at = format!("{path}.affinity_timeout");
    let timeout = checked(&at, values::duration(&raw.affinity_timeout), findings)?;
    if wanted && timeout.is_zero() {
        findings.error(
            &at,
            "must be longer than 0 (affinity = \"none\" turns it off)",
        );
    }
    wanted.then_some(timeout)
}

fn check(path: &str, raw: &raw::Check, findings: &mut Findings) -> Option<Check> {
    let at = |key: &str| format!("{path}.{key}");
    let http = choice(
        &at("kind"),
        &raw.kind,
        &[("tcp", false), ("http", true)],
        findings,
    )?;
    let mut time = |key: &str, text: &str| {
        let time = checked(&at(key), values::duration(text), findings)?;
        if time < SHORTEST {
            findings.error(&at(key), format!("{text:?} is too short (at least 100ms)"));
        }
        Some(time)
    };
    let (interval, timeout) = (
        time("interval", &raw.interval),
        time("timeout", &raw.timeout),
    );
    if http && !raw.path.starts_with('/') {
        findings.error(
            &at("path"),
            format!("{:?} is no path (begin with \"/\")", raw.path),
        );
    }
    Some(Check {
        kind: if http {
            CheckKind::Http {
                path: raw.path.clone(),
            }
        } else {
            CheckKind::Tcp
        },
        port: raw.port,
        interval: interval?,
        timeout: timeout?,
        rise: raw.rise,
        fall: raw.fall,
    })
}

fn source(path: &str, written: &str, findings: &mut Findings) -> ServiceSource<IpAddr> {
    match written {
        "auto" => ServiceSource::Auto,
        "keep" => ServiceSource::Keep,
        text => match text.parse() {
            Ok(address) => {
                host(path, address, findings).map_or(ServiceSource::Auto, ServiceSource::Address)
            }
            Err(_) => {
                let message = format!(
                    "{text:?} is not possible here (write \"auto\", \"keep\" or an address of the gateway)"
                );
                findings.error(path, message);
                ServiceSource::Auto
            }
        },
    }
}

fn backend(
    path: &str,
    raw: &raw::Backend,
    service: &Service,
    of_service: ServiceSource<IpAddr>,
    findings: &mut Findings,
) -> Backend {
    let at = |key: &str| format!("{path}.{key}");
    let what = "write the server, like \"10.0.0.2:8080\"";
    let (address, port) = required(&at("to"), raw.to.as_deref(), what, findings)
        .and_then(|text| checked(&at("to"), endpoint(text), findings))
        .and_then(|(address, port)| Some((host(&at("to"), address, findings)?, port)))
        .unwrap_or((NOBODY, None));
    let no_ports = service.proto.iter().any(|p| !has_ports(p));
    if port.is_some() && no_ports {
        findings.error(
            &at("to"),
            "names a port although the service has protocols whose ports natgate does not read (leave the port out)",
        );
    }
    if let ServiceAt::Address(called) = service.at
        && called != NOBODY
        && called.is_ipv4() != address.is_ipv4()
    {
        let message = format!("{address} is of another address family than {called}");
        findings.error(&at("to"), message);
    }
    let own = raw.source.as_deref();
    let own = own.map(|text| source(&at("source"), text, findings));
    if let ServiceSource::Address(seen) = own.unwrap_or(of_service)
        && seen.is_ipv4() != address.is_ipv4()
    {
        let message = format!("{seen} is of another address family than {address}");
        findings.error(&at("source"), message);
    }
    if raw.forward_only {
        if own.is_some() {
            findings.error(
                &at("source"),
                "means nothing with forward_only: packets reach this backend as they are (leave it out)",
            );
        }
        if port.is_some() && port != service.port {
            findings.error(
                &at("to"),
                "another port than the service's cannot be had with forward_only: packets reach this backend as they are",
            );
        }
    }
    Backend {
        address,
        port: port.filter(|_| !raw.forward_only),
        source: own.unwrap_or(of_service),
        weight: raw.weight,
        forward_only: raw.forward_only,
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT`.
fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse() {
        return Ok((address, None));
    }
    match text.parse::<std::net::SocketAddr>() {
        Ok(at) if at.port() != 0 => Ok((at.ip(), Some(at.port()))),
        Ok(_) => Err("port 0 cannot be a server's port (leave it out to keep the port)".to_owned()),
        Err(_) => Err(format!(
            "{text:?} is no server (write 192.0.2.1, 192.0.2.1:80 or [2001:db8::1]:80)"
        )),
    }
}

fn check_backends(path: &str, service: &Service, findings: &mut Findings) {
    let no_port = |check: &Check| {
        let port = check.port.or(service.port);
        port.is_none() && service.backends.iter().any(|b| b.port.is_none())
    };
    if service.check.as_ref().is_some_and(no_port) {
        findings.error(
            &format!("{path}.check"),
            "knows no port: neither the service nor every backend names one (write port)",
        );
    }
    let mut seen = BTreeMap::new();
    for (index, backend) in service.backends.iter().enumerate() {
        if let Some(first) = seen.insert((backend.address, backend.port), index) {
            let message = format!(
                "{backend} is listed twice (backend {} is the same; give one a larger weight)",
                first + 1
            );
            findings.error(&format!("{path}.backends[{index}].to"), message);
        }
    }
}

/// Services against each other and against everything else.
pub(super) fn cross(config: &Validated, findings: &mut Findings) {
    let mut keys: BTreeMap<(IpAddr, u8, Option<u16>), usize> = BTreeMap::new();
    for (index, service) in config.services.iter().enumerate() {
        let path = format!("service[{index}]");
        for address in service.addresses(&config.interfaces) {
            if service.is_virtual {
                virtual_address(&path, address, config, findings);
            }
            for protocol in service.proto.iter() {
                let first = *keys
                    .entry((address, protocol, service.port))
                    .or_insert(index);
                let earlier = &config.services[first];
                // "Any protocol" stands behind a named one.
                let same_kind = earlier.proto.is_any() == service.proto.is_any();
                if first != index && same_kind {
                    let message = format!(
                        "{address} {} {} is service {:?} already ({}; one service per address, protocol and port)",
                        ProtocolSet::name(protocol),
                        service
                            .port
                            .map_or_else(|| "any port".to_owned(), |port| format!("port {port}")),
                        earlier.label.name,
                        earlier.label.origin
                    );
                    findings.error(&format!("{path}.address"), message);
                    break;
                }
            }
        }
        for (at, backend) in service.backends.iter().enumerate() {
            backend_address(&format!("{path}.backends[{at}]"), backend, config, findings);
        }
    }
}

fn is_own(config: &Validated, address: IpAddr) -> bool {
    let mut interfaces = config.interfaces.iter();
    interfaces.any(|interface| interface.addresses().any(|own| own == address))
}

/// A virtual address is nobody else's.
fn virtual_address(path: &str, address: IpAddr, config: &Validated, findings: &mut Findings) {
    let at = format!("{path}.address");
    let mut interfaces = config.interfaces.iter();
    if let Some(on) = interfaces.find(|i| i.addresses().any(|own| own == address)) {
        let message = format!(
            "{address} is the address of interface {:?} (write kind = \"real\", and its other ports keep working)",
            on.label.name
        );
        findings.error(&at, message);
    }
    if let Some(pool) = config.pools.iter().find(|p| p.addresses.contains(&address)) {
        let message = format!(
            "{address} is in pool {:?} (write kind = \"real\", and the pool keeps its other ports)",
            pool.label.name
        );
        findings.error(&at, message);
    }
}

fn backend_address(path: &str, backend: &Backend, config: &Validated, findings: &mut Findings) {
    if is_own(config, backend.address) {
        let message = format!(
            "{} is the gateway's own address, which has no server",
            backend.address
        );
        findings.error(&format!("{path}.to"), message);
    }
    let stands_there =
        |s: &&Service| s.is_virtual && s.addresses(&config.interfaces).contains(&backend.address);
    if let Some(service) = config.services.iter().find(stands_there) {
        let message = format!(
            "{} is the address of service {:?} (name the servers behind it)",
            backend.address, service.label.name
        );
        findings.error(&format!("{path}.to"), message);
    }
    let ServiceSource::Address(source) = backend.source else {
        return;
    };
    // Of the source's own family: no flow of a backend takes another.
    let several = |pool: &&Pool| {
        let alike = pool.addresses.iter();
        alike.filter(|a| a.is_ipv4() == source.is_ipv4()).count() > 1
    };
    let holding = |pool: &&Pool| pool.addresses.contains(&source);
    let shared = config.pools.iter().filter(several).find(holding);
    if let Some(pool) = shared {
        let message = format!(
            "{source} is one of several addresses of pool {:?}, which chooses for itself (give {source} a pool of its own)",
            pool.label.name
        );
        findings.error(&format!("{path}.source"), message);
    }
}
