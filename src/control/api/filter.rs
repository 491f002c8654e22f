//! Filters of listings: `natgate show sessions ip 10.0.0.2 proto udp max 10` becomes a query the daemon applies.
//!
//! On the command line a filter is a row of words, `key value` or `key=value`; in a request the same pairs are the query
//! string. One list of keys serves both.

use super::{Failure, FailureKind};
use ipnet::IpNet;
use std::net::IpAddr;

/// Which objects a listing shows. Every field that is set must match; an object that does not have the property (a pool
/// has no protocol) is not shown when the field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Some address of the object lies in this prefix.
    pub ip: Option<IpNet>,
    /// Some port of the object is this one.
    pub port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// The state's name.
    pub state: Option<String>,
    /// The pool's name.
    pub pool: Option<String>,
    /// The interface's name.
    pub interface: Option<String>,
    /// The realm's (vrf's) name.
    pub realm: Option<String>,
    /// Only this worker's objects.
    pub worker: Option<u8>,
    /// How many to show: `None` is the listing's default, `u64::MAX` is all.
    pub max: Option<u64>,
}

/// The keys, as the help text and errors list them.
pub const KEYS: &str = "ip ADDRESS|PREFIX, port N, proto NAME|N, state NAME, pool NAME, interface NAME, realm NAME, worker N, max N|all";

impl Filter {
    /// Reads words of the command line: `ip 10.0.0.2 port 53` or `ip=10.0.0.2 port=53`.
    ///
    /// # Errors
    /// [`FailureKind::Usage`] naming the word that is not understood.
    pub fn from_words<S: AsRef<str>>(words: &[S]) -> Result<Filter, Failure> {
        let mut filter = Filter::default();
        let mut words = words.iter().map(AsRef::as_ref);
        while let Some(word) = words.next() {
            match word.split_once('=') {
                Some((key, value)) => filter.set(key, value)?,
                None => {
                    let value = words
                        .next()
                        .ok_or_else(|| wrong(format!("`{word}` needs a value")))?;
                    filter.set(word, value)?;
                }
            }
        }
        Ok(filter)
    }

    /// Reads a query string.
    ///
    /// # Errors
    /// [`FailureKind::Usage`] naming the pair that is not understood.
    pub fn from_query(query: &str) -> Result<Filter, Failure> {
        let mut filter = Filter::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            filter.set(&unescape(key), &unescape(value))?;
        }
        Ok(filter)
    }

    /// Writes the query string that [`Filter::from_query`] reads; empty for a filter without conditions.
    pub fn to_query(&self) -> String {
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        let pairs = [
            ("ip", self.ip.map(|ip| ip.to_string())),
            ("port", number(self.port.map(u64::from))),
            ("proto", number(self.protocol.map(u64::from))),
            ("state", self.state.clone()),
            ("pool", self.pool.clone()),
            ("interface", self.interface.clone()),
            ("realm", self.realm.clone()),
            ("worker", number(self.worker.map(u64::from))),
            ("max", number(self.max)),
        ];
        let pairs = pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        let pairs = pairs.map(|(key, value)| format!("{key}={}", escape(&value)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// Whether nothing but `max` is set.
    pub fn is_unconditional(&self) -> bool {
        *self
            == Filter {
                max: self.max,
                ..Filter::default()
            }
    }

    /// Whether one of these endpoints satisfies the address and port conditions: both by the same endpoint.
    pub fn matches_endpoint(&self, endpoints: &[(IpAddr, Option<u16>)]) -> bool {
        if self.ip.is_none() && self.port.is_none() {
            return true;
        }
        endpoints.iter().any(|(address, port)| {
            self.ip.is_none_or(|net| net.contains(address))
                && self.port.is_none_or(|p| *port == Some(p))
        })
    }

    /// Whether a name satisfies the condition `wanted`.
    pub fn matches_name(wanted: &Option<String>, name: Option<&str>) -> bool {
        wanted.as_deref().is_none_or(|wanted| name == Some(wanted))
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        match key {
            "ip" | "address" => self.ip = Some(prefix(value)?),
            "port" => self.port = Some(number(key, value)?),
            "proto" | "protocol" => self.protocol = Some(protocol(value)?),
            "state" => self.state = Some(value.to_owned()),
            "pool" => self.pool = Some(value.to_owned()),
            "interface" | "if" => self.interface = Some(value.to_owned()),
            "realm" | "vrf" => self.realm = Some(value.to_owned()),
            "worker" => self.worker = Some(number(key, value)?),
            "max" if value == "all" => self.max = Some(u64::MAX),
            "max" => self.max = Some(number(key, value)?),
            _ => return Err(wrong(format!("`{key}` is no filter"))),
        }
        Ok(())
    }
}

fn wrong(why: String) -> Failure {
    Failure::new(FailureKind::Usage, "filter", why).hint(format!("filters are: {KEYS}"))
}

fn number<N: std::str::FromStr>(key: &str, value: &str) -> Result<N, Failure> {
    value
        .parse()
        .map_err(|_| wrong(format!("`{key} {value}`: not a number in range")))
}

fn prefix(value: &str) -> Result<IpNet, Failure> {
    let address = value.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| value.parse())
        .map_err(|_| wrong(format!("`ip {value}`: neither an address nor a prefix")))
}

/// A protocol by name or number.
///
/// # Errors
/// [`FailureKind::Usage`] for anything else.
pub fn protocol(value: &str) -> Result<u8, Failure> {
    match value.to_ascii_lowercase().as_str() {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "gre" => Ok(47),
        "esp" => Ok(50),
        "icmp6" | "icmpv6" => Ok(58),
        "sctp" => Ok(132),
        other => number("proto", other),
    }
}

/// The usual name of an IP protocol, or its number.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        47 => "gre".into(),
        50 => "esp".into(),
        58 => "icmp6".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}

/// Percent-encodes what may not stand in a query (RFC 3986 §2.1).
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/@*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Undoes [`escape`]; a malformed escape stands for itself.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_and_assignments_mean_the_same() {
        let words =
            Filter::from_words(&["ip", "10.0.0.0/8", "proto", "udp", "max", "all"]).unwrap();
        let pairs = Filter::from_words(&["ip=10.0.0.0/8", "proto=17", "max=all"]).unwrap();
        assert_eq!(words, pairs);
        assert_eq!(words.protocol, Some(17));
        assert!(!words.is_unconditional());
        assert!(
            Filter {
                max: Some(3),
                ..Filter::default()
            }
            .is_unconditional()
        );
    }

    #[test]
    fn what_is_not_understood_is_a_usage_error_that_lists_the_keys() {
        for words in [
            ["colour", "red"],
            ["port", "70000"],
            ["ip", "ten"],
            ["port", "x"],
        ] {
            let failure = Filter::from_words(&words).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage);
            assert!(failure.to_string().contains(KEYS), "{failure}");
        }
        assert!(
            Filter::from_words(&["ip"])
                .unwrap_err()
                .why
                .contains("needs a value")
        );
    }

    #[test]
    fn address_and_port_must_match_at_the_same_end() {
        let filter = Filter::from_words(&["ip", "10.0.0.2", "port", "53"]).unwrap();
        let host: IpAddr = "10.0.0.2".parse().unwrap();
        let server: IpAddr = "192.0.2.9".parse().unwrap();
        assert!(!filter.matches_endpoint(&[(host, Some(4000)), (server, Some(53))]));
        assert!(filter.matches_endpoint(&[(server, Some(4000)), (host, Some(53))]));
    }

    proptest! {
        #[test]
        fn queries_lead_back(
            port in proptest::option::of(any::<u16>()),
            state in proptest::option::of(".{0,12}"),
            pool in proptest::option::of("[a-z%&= +]{1,12}"),
            max in proptest::option::of(any::<u64>()),
        ) {
            let filter = Filter { port, state, pool, max, ..Filter::default() };
            prop_assert_eq!(Filter::from_query(&filter.to_query()).unwrap(), filter);
        }
    }
}
