//! `[[pool]] deterministic`: the hosts, their share, what is left for overflow.

use std::net::Ipv4Addr;

use super::super::raw;
use super::super::report::Findings;
use super::super::validated::{Deterministic, Overflow, PortSet};
use super::super::values;
use super::operands::element_path;
use super::pools::range_v4;

/// What the other keys of the pool say.
pub(super) struct Around<'a> {
    /// Fixed addresses of the pool.
    pub addresses: usize,
    /// Its ports.
    pub ports: &'a PortSet,
    /// The pool as written.
    pub pool: &'a raw::Pool,
}

/// The deterministic mapping of a pool, if all about it is right.
pub(super) fn deterministic(
    path: &str,
    raw: &raw::Deterministic,
    around: &Around<'_>,
    findings: &mut Findings,
) -> Option<Deterministic> {
    contradictions(path, raw, around, findings);
    let inside = inside(&format!("{path}.inside"), raw, findings)?;
    let ports = usable(&format!("{path}.reserved"), raw, around, findings)?;
    let hosts: u64 = inside
        .iter()
        .map(|(first, last)| u64::from(u32::from(*last) - u32::from(*first)) + 1)
        .sum();
    if around.addresses == 0 {
        return None;
    }
    let hosts_per_address = hosts.div_ceil(around.addresses as u64);
    let (key, ports_per_host) = share(path, raw, &ports, findings)?;
    let needed = hosts_per_address * u64::from(ports_per_host);
    if needed > u64::from(ports.count()) {
        let most = u64::from(ports.count()) / hosts_per_address;
        let enough = hosts.div_ceil((u64::from(ports.count()) / u64::from(ports_per_host)).max(1));
        let message = format!(
            "{hosts_per_address} hosts on an address with {ports_per_host} ports each need {needed} ports, but it has {} (at \
             most {most} ports each, or {enough} addresses for the {hosts} hosts)",
            ports.count()
        );
        findings.error(&format!("{path}.{key}"), message);
        return None;
    }
    let mut settled = Deterministic {
        inside,
        ports,
        ports_per_host,
        hosts_per_address: hosts_per_address as u16,
        overflow: None,
    };
    if let Some(written) = &raw.overflow {
        overflow(&format!("{path}.overflow"), written, &mut settled, findings)?;
    }
    Some(settled)
}

/// Keys of a pool that say something else.
fn contradictions(
    path: &str,
    raw: &raw::Deterministic,
    around: &Around<'_>,
    findings: &mut Findings,
) {
    let pool = around.pool;
    if raw.algorithm != "sequential" {
        let message = format!("{:?} is not supported (\"sequential\" is)", raw.algorithm);
        findings.error(&format!("{path}.algorithm"), message);
    }
    if pool.block.is_some() {
        findings.error(
            path,
            "a pool has either blocks or a deterministic mapping (its own blocks are under overflow)",
        );
    }
    if pool.pairing != "paired" {
        findings.error(path, "every host has one address (leave pairing out)");
    }
    if pool.low_ports == Some(true) {
        findings.error(
            path,
            "no host has ports of its own below 1024 (leave low_ports out)",
        );
    }
    let written = pool.addresses.iter().flat_map(|list| &list.0);
    if let Some(followed) = written
        .into_iter()
        .find(|text| text.starts_with("interface:"))
    {
        findings.error(
            path,
            format!("the mapping would change with the address of {followed:?} (write addresses)"),
        );
    }
}

/// The hosts, in order: those of a prefix are without its network and broadcast address, as in RFC 7422 section 2.3.
fn inside(
    at: &str,
    raw: &raw::Deterministic,
    findings: &mut Findings,
) -> Option<Vec<(Ipv4Addr, Ipv4Addr)>> {
    let Some(written) = raw.inside.as_ref().filter(|list| !list.0.is_empty()) else {
        findings.error(at, "is missing (write inside = [\"100.64.0.0/22\"])");
        return None;
    };
    let mut hosts: Vec<(u32, u32)> = Vec::new();
    let mut sound = true;
    for (index, text) in written.0.iter().enumerate() {
        let at = element_path(at, index, findings);
        let added = range_v4(text).and_then(|(first, last)| {
            let trimmed = text.contains('/') && last - first > 1;
            let (first, last) = if trimmed {
                (first + 1, last - 1)
            } else {
                (first, last)
            };
            match hosts.iter().find(|h| h.0 <= last && first <= h.1) {
                Some(twice) => Err(format!(
                    "{} is listed twice",
                    Ipv4Addr::from(twice.0.max(first))
                )),
                None => Ok((first, last)),
            }
        });
        match added {
            Ok(range) => hosts.push(range),
            Err(message) => {
                findings.error(&at, message);
                sound = false;
            }
        }
    }
    let addresses = |(first, last): &(u32, u32)| (Ipv4Addr::from(*first), Ipv4Addr::from(*last));
    sound.then(|| hosts.iter().map(addresses).collect())
}

/// The pool's ports without the reserved ones.
fn usable(
    at: &str,
    raw: &raw::Deterministic,
    around: &Around<'_>,
    findings: &mut Findings,
) -> Option<PortSet> {
    let Some(reserved) = &raw.reserved else {
        return Some(around.ports.clone());
    };
    let reserved = match values::ports(&reserved.0) {
        Ok(reserved) => reserved,
        Err(message) => {
            findings.error(at, message);
            return None;
        }
    };
    let mut ranges = around.ports.complement().ranges().to_vec();
    ranges.extend_from_slice(reserved.ranges());
    let left = PortSet::new(ranges).complement();
    if left.count() == 0 {
        findings.error(at, format!("leaves nothing of {}", around.ports));
        return None;
    }
    Some(left)
}

/// Ports of a host, and the key that says so.
fn share(
    path: &str,
    raw: &raw::Deterministic,
    ports: &PortSet,
    findings: &mut Findings,
) -> Option<(&'static str, u16)> {
    match (raw.ports_per_host, raw.ratio) {
        (Some(ports_per_host), None) => Some(("ports_per_host", ports_per_host)),
        (None, Some(ratio)) => match ports.count() / u32::from(ratio) {
            0 => {
                let message = format!(
                    "{ratio} hosts cannot share {} ports of an address",
                    ports.count()
                );
                findings.error(&format!("{path}.ratio"), message);
                None
            }
            each => Some(("ratio", each as u16)),
        },
        (Some(_), Some(_)) => {
            findings.error(
                &format!("{path}.ratio"),
                "ports_per_host says it already (leave one of them out)",
            );
            None
        }
        (None, None) => {
            findings.error(
                path,
                "says nothing of a host's share (write ports_per_host = 2016, or ratio = 32)",
            );
            None
        }
    }
}

fn overflow(
    path: &str,
    raw: &raw::Overflow,
    settled: &mut Deterministic,
    findings: &mut Findings,
) -> Option<()> {
    let Some(block) = raw.block else {
        findings.error(
            &format!("{path}.block"),
            "is missing (write overflow = { block = 512, max = 1 })",
        );
        return None;
    };
    settled.overflow = Some(Overflow {
        block,
        max: raw.max,
    });
    let plan = settled.plan();
    let blocks = plan.overflow_blocks();
    if blocks == 0 {
        let rest: u32 = plan.rest().iter().map(|range| range.size()).sum();
        let message = format!(
            "no block of {block} ports fits into the {rest} ports that the hosts leave of an address (fewer \
             ports_per_host, a larger ratio, or more addresses leave more)"
        );
        findings.error(&format!("{path}.block"), message);
        return None;
    }
    if u32::from(raw.max) > blocks {
        let message = format!(
            "{} blocks for one host, but an address has only {blocks} of {block} ports for overflow",
            raw.max
        );
        findings.error(&format!("{path}.max"), message);
        return None;
    }
    Some(())
}
