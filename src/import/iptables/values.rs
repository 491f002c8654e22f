//! What stands behind options: addresses, ports, services.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// An address with a length, a mask, or neither; without its host bits, and whether it had any.
pub(super) fn network(text: &str, v6: bool) -> Result<(IpNet, bool), (&'static str, String)> {
    let wrong = || {
        (
            "E-SYNTAX",
            format!("{text:?} is no address (names are not looked up)"),
        )
    };
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    if v6 {
        let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
        let length = length
            .map_or(Ok(128), |l| l.parse::<u8>())
            .map_err(|_| wrong())?;
        let net = IpNet::new(address.into(), length).map_err(|_| wrong())?;
        return Ok((net.trunc(), net.trunc() != net));
    }
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let net = match length {
        None => Ipv4Net::from(address),
        Some(mask) if mask.contains('.') => {
            let mask: Ipv4Addr = mask.parse().map_err(|_| wrong())?;
            Ipv4Net::with_netmask(address, mask)
                .map_err(|_| ("E-MASK", format!("{mask} is not contiguous")))?
        }
        Some(length) => length
            .parse()
            .ok()
            .and_then(|l| Ipv4Net::new(address, l).ok())
            .ok_or_else(wrong)?,
    };
    Ok((net.trunc().into(), net.trunc() != net))
}

/// Services that rules name; anything else is a number.
const SERVICES: &[(&str, u16)] = &[
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("tftp", 69),
    ("http", 80),
    ("pop3", 110),
    ("ntp", 123),
    ("imap2", 143),
    ("https", 443),
    ("imaps", 993),
    ("pop3s", 995),
];

/// One port.
pub(super) fn port(text: &str) -> Result<u16, (&'static str, String)> {
    let service = SERVICES.iter().find(|(name, _)| *name == text);
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = service
        .map(|(_, port)| *port)
        .or(text.parse().ok().filter(|_| digits));
    number.ok_or_else(|| ("E-PORTS", format!("{text:?} is no port, 0–65535")))
}

/// `80`, `1024:`, `:1023`, `a:b`, and lists of them.
pub(super) fn ports(text: &str) -> Result<Vec<(u16, u16)>, (&'static str, String)> {
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let (low, high) = match part.split_once(':') {
            None => (port(part)?, port(part)?),
            Some((low, high)) => {
                let low = if low.is_empty() { 0 } else { port(low)? };
                let high = if high.is_empty() {
                    u16::MAX
                } else {
                    port(high)?
                };
                (low, high)
            }
        };
        if low > high {
            return Err(("E-PORTS", format!("{part}: the end lies below the start")));
        }
        ranges.push((low, high));
    }
    Ok(ranges)
}
