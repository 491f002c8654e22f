//! Pools: external addresses, ports and blocks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::super::raw;
use super::super::report::Findings;
use super::super::validated::{
    Alarm, Block, Dependence, Exhaustion, Pairing, PerProtocol, Pool, PortSet, Select,
};
use super::super::values;
use super::deterministic::{Around, deterministic};
use super::operands::{Names, element_path};
use super::{choice, helpers, label};
use crate::base::InterfaceId;

/// Most addresses of a pool; a larger list is a typing mistake (a /8 written for a /28).
pub const MOST_ADDRESSES: u128 = 65_536;

/// `Select` by its words; shared with source-nat.
pub(super) const SELECT: &[(&str, Select)] = &[
    ("preserve", Select::Preserve),
    ("random", Select::Random),
    ("sequential", Select::Sequential),
];

const DEPENDENCE: &[(&str, Dependence)] = &[
    ("endpoint", Dependence::Endpoint),
    ("address", Dependence::Address),
    ("address-port", Dependence::AddressPort),
];

/// The ports of a pool that names none: all but the well-known ones (RFC 4787 section 4.2.1).
pub(super) const DEFAULT_PORTS: (u16, u16) = (1024, 65535);

pub(super) fn pools(raw: &[raw::Pool], names: &Names, findings: &mut Findings) -> Vec<Pool> {
    raw.iter()
        .enumerate()
        .map(|(index, raw)| pool(&format!("pool[{index}]"), raw, names, findings))
        .collect()
}

fn pool(path: &str, raw: &raw::Pool, names: &Names, findings: &mut Findings) -> Pool {
    let at = |key: &str| format!("{path}.{key}");
    let label = label(&raw.label, path, findings);
    let (addresses, interfaces) = addresses(path, &label.name, raw, names, findings);
    let drain = some_addresses(&at("drain"), &raw.drain, &addresses, findings);
    let quarantine = some_addresses(&at("quarantine"), &raw.quarantine, &addresses, findings);
    let ports = pool_ports(&at("ports"), raw.ports.as_ref(), findings);
    let block = raw
        .block
        .as_ref()
        .and_then(|raw| block(&at("block"), raw, &ports, findings));
    if raw.deterministic.is_some() && addresses.iter().any(IpAddr::is_ipv6) {
        findings.error(
            &at("addresses"),
            "a deterministic pool has IPv4 addresses only (put the IPv6 addresses into a pool of their own)",
        );
    }
    let deterministic = raw.deterministic.as_ref().and_then(|written| {
        let around = Around {
            addresses: addresses.len(),
            ports: &ports,
            pool: raw,
        };
        deterministic(&at("deterministic"), written, &around, findings)
    });
    let in_blocks = raw.block.is_some() || raw.deterministic.is_some();
    let default_select = if in_blocks { "random" } else { "preserve" };
    let select = raw.select.as_deref().unwrap_or(default_select);
    let low_ports = raw.low_ports.unwrap_or(raw.ports.is_none());
    if low_ports && raw.block.is_some() && raw.low_ports.is_some() {
        findings.error(
            &at("low_ports"),
            "ports below 1024 are in no block (write low_ports = false, or leave block out)",
        );
    }
    let single = |size: Option<u16>| size == Some(1);
    let own = raw.deterministic.as_ref();
    if raw.parity
        && (raw.block.as_ref().is_some_and(|block| single(block.size))
            || own.is_some_and(|own| single(own.ports_per_host)))
    {
        findings.error(
            &at("parity"),
            "a block of a single port is either even or odd (use blocks of two ports or more)",
        );
    }
    let mapping = behaviour(&at("mapping"), &raw.mapping, Dependence::Endpoint, findings);
    for (protocol, depends, rfc) in [
        ("TCP", mapping.tcp, "RFC 5382 REQ-1"),
        ("UDP", mapping.udp, "RFC 4787 REQ-1"),
    ] {
        if depends != Dependence::Endpoint {
            findings.warn(
                &at("mapping"),
                format!(
                    "{:?} for {protocol} departs from {rfc} (\"endpoint\"): hosts cannot learn from one remote how others see them",
                    depends.name()
                ),
            );
        }
    }
    let filtering = behaviour(
        &at("filtering"),
        &raw.filtering,
        Dependence::AddressPort,
        findings,
    );
    let hold = values::duration(&raw.hold).unwrap_or(Duration::from_secs(120));
    if hold < Duration::from_secs(120) {
        findings.warn(
            &at("hold"),
            format!("{} is below RFC 6888 REQ-8 (120s)", raw.hold),
        );
    }
    let pairing = [("paired", Pairing::Paired), ("spread", Pairing::Spread)];
    let exhaustion = [("drop", Exhaustion::Drop), ("icmp", Exhaustion::Icmp)];
    Pool {
        label,
        addresses,
        interfaces,
        drain,
        quarantine,
        ports,
        ports_explicit: raw.ports.is_some(),
        select: choice(&at("select"), select, SELECT, findings).unwrap_or(Select::Preserve),
        low_ports: low_ports && !in_blocks,
        parity: raw.parity,
        pairing: choice(&at("pairing"), &raw.pairing, &pairing, findings)
            .unwrap_or(Pairing::Paired),
        mapping,
        filtering,
        answer_arp: raw.answer_arp,
        exhaustion: choice(&at("exhaustion"), &raw.exhaustion, &exhaustion, findings)
            .unwrap_or(Exhaustion::Drop),
        helpers: helpers(&at("helpers"), &raw.helpers, findings),
        block,
        hold,
        hold_max: raw.hold_max,
        alarm: alarm(path, raw, findings),
        deterministic,
    }
}

fn alarm(path: &str, raw: &raw::Pool, findings: &mut Findings) -> Alarm {
    let (high, low) = (raw.alarm_high, raw.alarm_low);
    if high > 0 && low >= high {
        findings.error(
            &format!("{path}.alarm_low"),
            format!("{low} is not below alarm_high = {high} (leave some percent between them, or set alarm_high = 0)"),
        );
    }
    Alarm { high, low }
}

/// A behaviour of every protocol, or of each; the default where nothing is said.
fn behaviour(
    path: &str,
    written: &raw::PerProtocol,
    default: Dependence,
    findings: &mut Findings,
) -> PerProtocol<Dependence> {
    let mut one =
        |path: &str, word: &str| choice(path, word, DEPENDENCE, findings).unwrap_or(default);
    match written {
        raw::PerProtocol::All(word) => PerProtocol::all(one(path, word)),
        raw::PerProtocol::Each {
            tcp,
            udp,
            icmp,
            sctp,
        } => {
            let mut of = |name: &str, word: &Option<String>| match word {
                Some(word) => one(&format!("{path}.{name}"), word),
                None => default,
            };
            PerProtocol {
                tcp: of("tcp", tcp),
                udp: of("udp", udp),
                icmp: of("icmp", icmp),
                sctp: of("sctp", sctp),
            }
        }
    }
}

fn pool_ports(path: &str, written: Option<&raw::Many>, findings: &mut Findings) -> PortSet {
    let ports = match written {
        None => PortSet::new(vec![DEFAULT_PORTS]),
        Some(_) => super::operands::ports(path, written, findings),
    };
    if ports.contains(0) && written.is_some() && !findings.is_broken(path) {
        findings.error(
            path,
            "port 0 cannot be given out (start at 1, better at 1024)",
        );
    }
    ports
}

/// The fixed addresses and the interfaces of a pool.
// Implements: G3.
fn addresses(
    path: &str,
    name: &str,
    raw: &raw::Pool,
    names: &Names,
    findings: &mut Findings,
) -> (Vec<IpAddr>, Vec<InterfaceId>) {
    let at = format!("{path}.addresses");
    let mut excluded: Vec<Range> = Vec::new();
    for (index, text) in raw.exclude.0.iter().enumerate() {
        let at = element_path(&format!("{path}.exclude"), index, findings);
        match range(text) {
            Ok(range) => excluded.push(range),
            Err(message) => findings.error(&at, format!("pool {name:?}: {message}")),
        }
    }
    let Some(written) = &raw.addresses else {
        findings.error(
            &at,
            "is missing (write addresses = [\"203.0.113.20-203.0.113.29\"])",
        );
        return (Vec::new(), Vec::new());
    };
    let (mut ranges, mut interfaces): (Vec<Range>, Vec<InterfaceId>) = (Vec::new(), Vec::new());
    for (index, text) in written.0.iter().enumerate() {
        let at = element_path(&at, index, findings);
        let added = match text.strip_prefix("interface:") {
            Some(interface) => names
                .interface(interface)
                .and_then(|id| add_interface(id, text, &mut interfaces)),
            None => range(text).and_then(|range| add_range(range, &mut ranges)),
        };
        if let Err(message) = added {
            findings.error(&at, format!("pool {name:?}: {message}"));
        }
    }
    let meets = |a: &Range, b: &Range| a.0 <= b.1 && b.0 <= a.1;
    if let Some(stray) = excluded
        .iter()
        .find(|gone| !ranges.iter().any(|range| meets(gone, range)))
    {
        let message = format!("{} is not in the pool anyway", stray.0);
        findings.warn(&format!("{path}.exclude"), message);
    }
    let all = ranges.iter().flat_map(members);
    let kept = all.filter(|address| {
        !excluded
            .iter()
            .any(|gone| meets(gone, &(*address, *address)))
    });
    let addresses: Vec<IpAddr> = kept.collect();
    if addresses.is_empty() && interfaces.is_empty() && findings_clean(path, written, findings) {
        findings.error(&at, format!("pool {name:?} has no address"));
    }
    (addresses, interfaces)
}

/// Addresses of the pool that another key names.
fn some_addresses(
    path: &str,
    written: &raw::Many,
    addresses: &[IpAddr],
    findings: &mut Findings,
) -> BTreeSet<IpAddr> {
    let known: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    let mut named = BTreeSet::new();
    for (index, text) in written.0.iter().enumerate() {
        let at = element_path(path, index, findings);
        let (first, last) = match range(text) {
            Ok(ends) => ends,
            Err(message) => {
                findings.error(&at, message);
                continue;
            }
        };
        let before = named.len();
        named.extend(known.range(first..=last));
        if named.len() == before {
            findings.error(
                &at,
                format!("{text} is not among the addresses of the pool"),
            );
        }
    }
    named
}

fn add_interface(
    id: InterfaceId,
    text: &str,
    interfaces: &mut Vec<InterfaceId>,
) -> Result<(), String> {
    if interfaces.contains(&id) {
        return Err(format!("{text:?} is listed twice"));
    }
    interfaces.push(id);
    Ok(())
}

fn add_range(range: Range, ranges: &mut Vec<Range>) -> Result<(), String> {
    let total = ranges
        .iter()
        .chain([&range])
        .map(count)
        .fold(0, u128::saturating_add);
    if total > MOST_ADDRESSES {
        return Err(format!(
            "{total} addresses are more than {MOST_ADDRESSES} (use several pools)"
        ));
    }
    if let Some(earlier) = ranges
        .iter()
        .find(|earlier| earlier.0 <= range.1 && range.0 <= earlier.1)
    {
        return Err(format!("{} is listed twice", earlier.0.max(range.0)));
    }
    ranges.push(range);
    Ok(())
}

/// Whether an address can be that of a host beyond the next link.
pub(super) fn is_host(address: IpAddr) -> bool {
    let on_link = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(on_link || address.is_multicast() || address.is_unspecified() || address.is_loopback())
}

/// Whether no element of `addresses` was found wrong, so that an empty pool is not a consequence of that.
fn findings_clean(path: &str, written: &raw::Many, findings: &Findings) -> bool {
    let at = format!("{path}.addresses");
    let mut elements = (0..written.0.len()).map(|index| element_path(&at, index, findings));
    elements.all(|element| !findings.is_broken(&element))
}

/// The first and last address of some in a row, of one family.
type Range = (IpAddr, IpAddr);

/// How many addresses a range has.
fn count(range: &Range) -> u128 {
    match *range {
        (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(u32::from(last) - u32::from(first)) + 1,
        (first, last) => (bits(last) - bits(first)).saturating_add(1),
    }
}

/// The addresses of a range.
fn members(range: &Range) -> impl Iterator<Item = IpAddr> + use<> {
    let v4 = range.0.is_ipv4();
    (bits(range.0)..=bits(range.1)).map(move |bits| match u32::try_from(bits) {
        Ok(bits) if v4 => IpAddr::V4(bits.into()),
        _ => IpAddr::V6(bits.into()),
    })
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// [`range`] of IPv4.
pub(super) fn range_v4(text: &str) -> Result<(u32, u32), String> {
    match range(text)? {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ok((first.into(), last.into())),
        _ => Err(format!("{text}: takes IPv4 addresses only")),
    }
}

/// A single address, a prefix (all its addresses) or a range, of unicast addresses: its first and last address.
fn range(text: &str) -> Result<Range, String> {
    let (first, last) = match text.split_once('-') {
        Some((start, end)) => values::range(start, end)?,
        None => {
            let net = values::network(text)?;
            (net.network(), net.broadcast())
        }
    };
    for end in [first, last] {
        if !is_host(end) {
            return Err(format!("{end} cannot be a source address"));
        }
    }
    Ok((first, last))
}

fn block(path: &str, raw: &raw::Block, ports: &PortSet, findings: &mut Findings) -> Option<Block> {
    let at = format!("{path}.size");
    let Some(size) = raw.size else {
        findings.error(&at, "is missing (write block = { size = 512 })");
        return None;
    };
    let largest = ports
        .ranges()
        .iter()
        .map(|(low, high)| u32::from(high - low) + 1)
        .max()
        .unwrap_or(0);
    if u32::from(size) > largest {
        findings.error(&at, format!("a block of {size} ports is larger than any range of ports (at most {largest} of {ports})"));
        return None;
    }
    let wasted: u32 = ports
        .ranges()
        .iter()
        .map(|(low, high)| (u32::from(high - low) + 1) % u32::from(size))
        .sum();
    if wasted > 0 {
        findings.warn(
            &at,
            format!(
                "blocks of {size} leave {wasted} of {} ports of every address unused",
                ports.count()
            ),
        );
    }
    let blocks = blocks_of(ports, size);
    if u32::from(raw.max_per_host) > blocks {
        let message = format!(
            "{} blocks for one host, but an address has only {blocks} of {size} ports",
            raw.max_per_host
        );
        findings.error(&format!("{path}.max_per_host"), message);
    }
    let idle = values::duration(&raw.idle).unwrap_or(Duration::from_secs(120));
    Some(Block {
        size,
        max_per_host: raw.max_per_host,
        idle,
    })
}

/// Whole blocks of one address; a block never spans two ranges.
pub(in super::super) fn blocks_of(ports: &PortSet, size: u16) -> u32 {
    let whole = |(low, high): &(u16, u16)| (u32::from(high - low) + 1) / u32::from(size);
    ports.ranges().iter().map(whole).sum()
}
