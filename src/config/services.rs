//! `[[service]]`, validated.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::matching::ProtocolSet;
use super::validated::{Interface, Label};
use crate::base::InterfaceId;
use crate::nat::services::hash::Fields;
use crate::nat::services::{Balance, Drain, Refusal, ServiceSource};

/// Where a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceAt {
    /// At this address.
    Address(IpAddr),
    /// At the first address of an interface, whichever that is; of each family that backends are of.
    Interface(InterfaceId),
}

/// A server behind a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None` keeps the service's.
    pub port: Option<u16>,
    /// What it sees as source.
    pub source: ServiceSource<IpAddr>,
    /// Its share of new flows; 0 drains it.
    pub weight: u32,
    /// Packets go to it as they are.
    pub forward_only: bool,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (address, None) => write!(f, "{address}"),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}

/// What a check asks of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckKind {
    /// That it accepts a connection.
    Tcp,
    /// That it answers a request for this path with a status from 200 to 399.
    Http {
        /// The path.
        path: String,
    },
}

/// A check of backends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Check {
    /// What it asks.
    pub kind: CheckKind,
    /// The port; `None`: the backend's.
    pub port: Option<u16>,
    /// From one check to the next.
    pub interval: Duration,
    /// How long the server may take.
    pub timeout: Duration,
    /// Checks in a row that bring a server back.
    pub rise: u32,
    /// Failures in a row that leave it out.
    pub fall: u32,
}

/// `[[service]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name, comment, origin.
    pub label: Label,
    /// Where it stands.
    pub at: ServiceAt,
    /// The address is nobody else's.
    pub is_virtual: bool,
    /// Protocols; never ICMP's.
    pub proto: ProtocolSet,
    /// Its port; `None`: any, also of protocols without ports.
    pub port: Option<u16>,
    /// How a backend is chosen.
    pub balance: Balance,
    /// By what.
    pub fields: Fields,
    /// How long a client comes back to its backend; `None`: no affinity.
    pub affinity: Option<Duration>,
    /// What becomes of packets to the address that no service wants.
    pub unmatched: Refusal,
    /// What becomes of packets while no backend takes flows.
    pub empty: Refusal,
    /// The address answers pings.
    pub ping: bool,
    /// What becomes of the sessions of a backend that goes away.
    pub drain: Drain,
    /// How the health of backends is checked, beyond routes and neighbours.
    pub check: Option<Check>,
    /// The servers.
    pub backends: Vec<Backend>,
}

impl Service {
    /// The addresses it stands at now.
    pub fn addresses(&self, interfaces: &[Interface]) -> Vec<IpAddr> {
        match self.at {
            ServiceAt::Address(address) => vec![address],
            ServiceAt::Interface(id) => {
                let on = interfaces.get(id.index());
                let of = |v4: bool| {
                    let mut all = on.into_iter().flat_map(Interface::addresses);
                    let wanted = self.backends.iter().any(|b| b.address.is_ipv4() == v4);
                    all.find(|a| a.is_ipv4() == v4).filter(|_| wanted)
                };
                [of(true), of(false)].into_iter().flatten().collect()
            }
        }
    }
}
