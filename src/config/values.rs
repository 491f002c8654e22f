//! The small notations inside values: durations, sizes, ports, protocols, addresses, devices.
//!
//! Every reader returns what is wrong and what would be right; the caller knows the place.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use config::ValueKind;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::keys::Kind;
use super::matching::{PortSet, ProtocolSet};
use super::report::nearest;
use crate::dataplane::device::{Device, DeviceError};

/// A TOML integer in any of its notations; `None` beyond 64 bits.
pub(super) fn integer(number: &toml::de::DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A value of the environment as the kind of its key; what does not fit stays text and is reported as such.
pub(super) fn scalar(text: &str, kind: Kind) -> ValueKind {
    let parsed = match kind {
        Kind::Bool => text.parse().ok().map(ValueKind::Boolean),
        Kind::Int(..) => text.replace('_', "").parse().ok().map(ValueKind::I64),
        _ => None,
    };
    parsed.unwrap_or_else(|| ValueKind::String(text.to_string()))
}

/// `"5m"`, `"2h4m"`, `"120s"`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    // Longer than any timer counts, and far from overflow in ticks.
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err(format!(
            "{text:?} is longer than a year (the longest timer is 366days)"
        )),
        Err(_) => Err(format!(
            "{text:?} is no duration (write numbers with units, like \"90s\", \"5m\", \"2h4m\")"
        )),
    }
}

/// `"1GiB"`, `"512MiB"`, `"2GB"`: bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: &[(&str, u64)] = &[
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let wrong =
        || format!("{text:?} is no size (write a number with a unit, like \"512MiB\" or \"2GiB\")");
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, factor)| Some((text.trim().strip_suffix(name)?, *factor)))
        .ok_or_else(wrong)?;
    let number: u64 = number
        .trim()
        .replace('_', "")
        .parse()
        .map_err(|_| wrong())?;
    number
        .checked_mul(unit)
        .ok_or_else(|| format!("{text:?} is more than 64 bits can count"))
}

/// `1024-29999`, `80`: an inclusive range.
fn port_range(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} is no port or port range (write 80 or 1024-65535)");
    let number = |part: &str| part.trim().parse::<u16>().map_err(|_| wrong());
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((low, high)) => match (number(low)?, number(high)?) {
            (low, high) if low <= high => Ok((low, high)),
            (low, high) => Err(format!(
                "{text:?} ends below its start (write {high}-{low})"
            )),
        },
    }
}

/// Ports from a list whose elements may hold several, comma-separated: `"1024-29999,32768-65535"`, `"!25"`.
pub(super) fn ports(list: &[String]) -> Result<PortSet, String> {
    let mut include = Vec::new();
    let mut exclude = Vec::new();
    for part in list.iter().flat_map(|element| element.split(',')) {
        match part.trim().strip_prefix('!') {
            Some(part) => exclude.push(port_range(part.trim())?),
            None => include.push(port_range(part.trim())?),
        }
    }
    if include.is_empty() && exclude.is_empty() {
        return Err(
            "is empty, so no port would match (leave the key out for any port)".to_string(),
        );
    }
    let included = match include.is_empty() {
        true => PortSet::any(),
        false => PortSet::new(include),
    };
    let ports = included.without(&PortSet::new(exclude));
    match ports.ranges().is_empty() {
        true => Err("excludes every port it includes".to_string()),
        false => Ok(ports),
    }
}

/// Protocols from a list: names, numbers, `"!x"`, `"any"`.
pub(super) fn protocols(list: &[String]) -> Result<ProtocolSet, String> {
    let mut include = ProtocolSet::EMPTY;
    let mut exclude = ProtocolSet::EMPTY;
    let (mut any, mut negated) = (list.iter().any(|p| p == "any"), false);
    for part in list
        .iter()
        .flat_map(|element| element.split(','))
        .map(str::trim)
    {
        match part.strip_prefix('!') {
            Some(name) => {
                exclude.insert(protocol(name.trim())?);
                negated = true;
            }
            None if part == "any" => any = true,
            None => include.insert(protocol(part)?),
        }
    }
    if include == ProtocolSet::EMPTY && (any || negated) {
        include = ProtocolSet::ANY;
    }
    let mut result = ProtocolSet::EMPTY;
    let wanted = if any { ProtocolSet::ANY } else { include };
    wanted
        .iter()
        .filter(|p| !exclude.contains(*p))
        .for_each(|p| result.insert(p));
    match result == ProtocolSet::EMPTY {
        true => Err("is empty, so no protocol would match (leave the key out for any)".to_string()),
        false => Ok(result),
    }
}

fn protocol(text: &str) -> Result<u8, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let known = ProtocolSet::NAMES.iter().find(|(name, _)| *name == text);
    known.map(|(_, number)| *number).ok_or_else(|| {
        let names = ProtocolSet::NAMES.iter().map(|(name, _)| *name);
        match nearest(text, names.clone()) {
            Some(best) => format!("{text:?} is no protocol (did you mean {best:?}?)"),
            None => format!(
                "{text:?} is no protocol (write a number 0–255, or {})",
                names.collect::<Vec<_>>().join(", ")
            ),
        }
    })
}

/// A single address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no IP address (write 192.0.2.1 or 2001:db8::1)"))
}

/// A network without host bits; an address alone is a network of one.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if !text.contains('/') {
        return address(text).map(IpNet::from);
    }
    let wrong = || format!("{text:?} is no prefix (write 192.0.2.0/24 or 2001:db8::/32)");
    let net: IpNet = text.parse().map_err(|_| wrong())?;
    match net.addr() == net.network() {
        true => Ok(net),
        false => Err(format!(
            "{text:?} has host bits set (the network is {})",
            net.trunc()
        )),
    }
}

/// An address, a prefix or a range `a-b`, as prefixes.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let Some((start, end)) = text.split_once('-') else {
        return network(text).map(|net| vec![net]);
    };
    match range(start, end)? {
        (IpAddr::V4(start), IpAddr::V4(end)) => {
            Ok(Ipv4Subnets::new(start, end, 0).map(IpNet::V4).collect())
        }
        (IpAddr::V6(start), IpAddr::V6(end)) => {
            Ok(Ipv6Subnets::new(start, end, 0).map(IpNet::V6).collect())
        }
        _ => Err(format!("{text:?} mixes IPv4 and IPv6")),
    }
}

/// The two ends of a range, which must ascend and be of one family.
pub(super) fn range(start: &str, end: &str) -> Result<(IpAddr, IpAddr), String> {
    let (first, last) = (address(start.trim())?, address(end.trim())?);
    if first.is_ipv4() != last.is_ipv4() {
        return Err(format!("the range {first}-{last} mixes IPv4 and IPv6"));
    }
    match first <= last {
        true => Ok((first, last)),
        false => Err(format!(
            "the range {first}-{last} is reversed: its end {last} lies below its start {first} (write {last}-{first})"
        )),
    }
}

/// `02:00:5e:10:00:01`; unicast only.
pub(super) fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("{text:?} is no MAC address (write 02:00:5e:10:00:01)");
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let mut mac = [0; 6];
    if parts.len() != mac.len() {
        return Err(wrong());
    }
    for (byte, part) in mac.iter_mut().zip(parts) {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16)
            .ok()
            .filter(|_| digits)
            .ok_or_else(wrong)?;
    }
    match mac[0] & 1 == 1 || mac == [0; 6] {
        true => Err(format!(
            "{text:?} is no station's MAC address (the lowest bit of the first byte marks groups)"
        )),
        false => Ok(mac),
    }
}

/// `ADDRESS` or `ADDRESS:PORT` or `ADDRESS:FIRST-LAST`; with ports an IPv6 address stands in brackets.
pub(super) fn target(text: &str) -> Result<(IpAddr, Option<(u16, u16)>), String> {
    let wrong = || {
        format!(
            "{text:?} is no target (write 192.0.2.1, 192.0.2.1:80, 192.0.2.1:8000-8099 or [2001:db8::1]:80)"
        )
    };
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let host: Ipv6Addr = host.parse().map_err(|_| wrong())?;
        let ports = match rest.strip_prefix(':') {
            Some(ports) => Some(port_range(ports)?),
            None if rest.is_empty() => None,
            None => return Err(wrong()),
        };
        return Ok((host.into(), ports));
    }
    let (host, ports) = match text.split_once(':') {
        Some((host, ports)) if !ports.contains(':') => (host, Some(port_range(ports)?)),
        _ => (text, None),
    };
    let host: IpAddr = host.parse().map_err(|_| wrong())?;
    // Written out, like 2001:db8::1, it has no ports: the last part may look like one.
    Ok((host, ports))
}

/// `KIND:ARGUMENT` of a port; a misspelt kind is recognised.
pub(super) fn device(text: &str) -> Result<Device, String> {
    let kind = text.split_once(':').map_or(text, |(kind, _)| kind);
    let known = Device::KINDS.contains(&kind);
    match nearest(kind, Device::KINDS.iter().copied()) {
        Some(best) if !known => Err(format!(
            "{kind:?} is no kind of device (did you mean {best:?}?)"
        )),
        _ => text.parse().map_err(|error: DeviceError| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        vec![text.to_string()]
    }

    #[test]
    fn durations_and_sizes_carry_units() {
        assert_eq!(duration("2h4m"), Ok(Duration::from_secs(7440)));
        assert!(duration("5").unwrap_err().contains("units"));
        assert!(
            duration("900years")
                .unwrap_err()
                .contains("longer than a year")
        );
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("2 MB"), Ok(2_000_000));
        assert!(size("1024").is_err() && size("99999999999TiB").is_err());
    }

    #[test]
    fn ports_and_protocols_resolve_negation() {
        assert_eq!(
            ports(&list("1024-29999,32768-65535")).unwrap().count(),
            61744
        );
        assert_eq!(ports(&list("!25")).unwrap().to_string(), "0-24,26-65535");
        assert!(ports(&list("90-80")).unwrap_err().contains("80-90"));
        assert!(ports(&[]).is_err());
        assert_eq!(protocols(&list("tcp,udp")).unwrap().to_string(), "tcp,udp");
        assert_eq!(protocols(&list("!tcp")).unwrap().to_string(), "!tcp");
        assert!(protocols(&list("tpc")).unwrap_err().contains("\"tcp\""));
    }

    #[test]
    fn addresses_name_the_right_network() {
        assert!(network("10.0.0.1/8").unwrap_err().contains("10.0.0.0/8"));
        let nets = networks("10.0.0.1-10.0.0.4").unwrap();
        assert_eq!(nets.len(), 3, "{nets:?}");
        assert!(
            networks("203.0.113.29-203.0.113.20")
                .unwrap_err()
                .contains("below its start")
        );
        assert_eq!(
            target("10.0.0.1:80").unwrap(),
            ("10.0.0.1".parse().unwrap(), Some((80, 80)))
        );
    }

    #[test]
    fn devices_are_checked_by_their_kind() {
        for good in [
            "pci:0000:3b:00.0",
            "af_packet:eth1",
            "pcap:a,b",
            "null:",
            "dpdk:net_ring0,x=1",
            "memif:/run/m",
        ] {
            assert_eq!(device(good).unwrap().to_string(), good);
        }
        assert_eq!(
            device("pci:3B:00.1").unwrap().to_string(),
            "pci:0000:3b:00.1"
        );
        for bad in [
            "eth1",
            "pcie:0000:3b:00.0",
            "pci:3b",
            "tap:",
            "pcap:,",
            "null:x",
            "af_packet:a,b",
            "memif:",
        ] {
            assert!(device(bad).is_err(), "{bad}");
        }
        assert!(mac("01:00:5e:00:00:01").is_err());
        assert_eq!(mac("02:00:5e:00:00:01").unwrap()[5], 1);
    }
}
