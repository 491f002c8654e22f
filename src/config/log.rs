//! `[log]`, validated.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::nat::journal::Logging;

/// `[log]`: the NAT log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What is logged; nothing without a sink.
    pub logging: Logging,
    /// Where it goes: no two alike.
    pub to: Vec<LogTarget>,
}

/// A sink of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// Lines of JSON in this file.
    File(PathBuf),
    /// Messages of RFC 5424.
    Syslog(Collector),
    /// Messages of RFC 7011.
    Ipfix(Collector),
}

/// Who gets the datagrams of a sink, and how they reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Collector {
    /// As packets of the gateway's own, by its routes.
    Gateway(SocketAddr),
    /// By the kernel of the host, over whatever network that has.
    Host(SocketAddr),
    /// A socket in the file system, of a daemon on the host.
    Local(PathBuf),
}

/// Ports of collectors (RFC 5426 section 3.3, RFC 7011 section 10.3.4), which are those that the gateway itself sends from.
const SYSLOG_PORT: u16 = 514;
const IPFIX_PORT: u16 = 4739;

/// The socket of the local syslog daemon.
const LOCAL_SYSLOG: &str = "/dev/log";

impl LogTarget {
    /// Reads a target as it is written. `host`: datagrams leave by the host's network.
    ///
    /// # Errors
    /// In words, what would be right.
    pub fn parse(text: &str, host: bool) -> Result<LogTarget, String> {
        let wrong = |why: &str| format!("{text:?} {why}");
        match text.split_once(':') {
            Some(("file", path)) if path.starts_with('/') && !path.ends_with('/') => {
                Ok(LogTarget::File(PathBuf::from(path)))
            }
            Some(("file", _)) => Err(wrong(
                "is no absolute path of a file (file:/var/log/natgate/nat.json is)",
            )),
            Some(("syslog", "")) => {
                let local = Collector::Local(PathBuf::from(LOCAL_SYSLOG));
                Ok(LogTarget::Syslog(local))
            }
            Some(("syslog", path)) if path.starts_with('/') => {
                Ok(LogTarget::Syslog(Collector::Local(PathBuf::from(path))))
            }
            Some(("syslog", at)) => collector(at, SYSLOG_PORT, host)
                .map(LogTarget::Syslog)
                .ok_or_else(|| {
                    wrong("is no syslog server (syslog:192.0.2.1:514 is, or syslog:/dev/log)")
                }),
            Some(("ipfix", at)) => collector(at, IPFIX_PORT, host)
                .map(LogTarget::Ipfix)
                .ok_or_else(|| wrong("is no IPFIX collector (ipfix:192.0.2.1:4739 is)")),
            _ => Err(wrong(
                "is no sink (write file:/PATH, syslog:ADDRESS:PORT or ipfix:ADDRESS:PORT)",
            )),
        }
    }

    /// What kind of sink it is.
    pub fn kind(&self) -> &'static str {
        match self {
            LogTarget::File(_) => "file",
            LogTarget::Syslog(_) => "syslog",
            LogTarget::Ipfix(_) => "ipfix",
        }
    }

    /// The port its datagrams come from, if the gateway itself sends them.
    pub fn own_port(&self) -> Option<u16> {
        match self {
            LogTarget::Syslog(Collector::Gateway(_)) => Some(SYSLOG_PORT),
            LogTarget::Ipfix(Collector::Gateway(_)) => Some(IPFIX_PORT),
            _ => None,
        }
    }
}

/// A collector at `ADDRESS` or `ADDRESS:PORT`.
fn collector(text: &str, port: u16, host: bool) -> Option<Collector> {
    let bare = || text.trim_start_matches('[').trim_end_matches(']').parse();
    let to: SocketAddr = match text.parse() {
        Ok(to) => to,
        Err(_) => SocketAddr::new(bare().ok()?, port),
    };
    let one_host = match to.ip() {
        IpAddr::V4(address) => !(address.is_unspecified() || address.is_broadcast()),
        IpAddr::V6(address) => !address.is_unspecified(),
    };
    if !one_host || to.ip().is_multicast() || to.port() == 0 {
        return None;
    }
    Some(match host {
        true => Collector::Host(to),
        false => Collector::Gateway(to),
    })
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTarget::File(path) => write!(f, "file:{}", path.display()),
            LogTarget::Syslog(to) | LogTarget::Ipfix(to) => write!(f, "{}:{to}", self.kind()),
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Collector::Gateway(to) | Collector::Host(to) => write!(f, "{to}"),
            Collector::Local(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_written_as_they_are_read() {
        for text in [
            "file:/var/log/nat.json",
            "syslog:192.0.2.1:514",
            "syslog:[2001:db8::1]:5140",
            "syslog:/run/log.sock",
            "ipfix:198.51.100.3:4739",
        ] {
            for host in [false, true] {
                let target = LogTarget::parse(text, host).unwrap();
                assert_eq!(target.to_string(), text);
                let by_gateway = !host && !text.contains('/');
                assert_eq!(target.own_port().is_some(), by_gateway, "{text}");
            }
        }
        for (short, whole) in [
            ("syslog:", "syslog:/dev/log"),
            ("syslog:192.0.2.1", "syslog:192.0.2.1:514"),
            ("ipfix:2001:db8::1", "ipfix:[2001:db8::1]:4739"),
        ] {
            assert_eq!(LogTarget::parse(short, false).unwrap().to_string(), whole);
        }
        for wrong in [
            "file:nat.json",
            "syslog:loghost",
            "syslog:0.0.0.0:514",
            "syslog:192.0.2.1:0",
            "ipfix:",
            "ipfix:224.0.0.1:4739",
            "ipfix:/dev/log",
            "printer:7",
        ] {
            assert!(LogTarget::parse(wrong, false).is_err(), "{wrong}");
        }
    }
}
