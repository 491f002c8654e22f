//! The configuration as types that cannot be wrong: names are indices, texts are numbers, defaults are filled in.
//!
//! `Validated` says what the operator wants; it knows nothing of tables, hashes or workers' state. The policy
//! compiler turns it into what packets are compared with. Vectors keep the order of the files; the index of an
//! object in its vector is its identifier ([`PortId`](crate::base::PortId), [`InterfaceId`], [`PoolId`], [`RealmId`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

pub use super::exemptions::ExemptFile;
pub use super::filtering::{Filter, FilterRule};
pub use super::interfaces::{Interface, Urpf};
pub use super::log::{Collector, Log, LogTarget};
pub use super::matching::{AddressList, InterfaceMatch, Match, PortSet, PrefixSet, ProtocolSet};
pub use super::services::{Backend, Service, ServiceAt};
use crate::base::{InterfaceId, PoolId, RealmId};
pub use crate::dataplane::device::Device;
pub use crate::gateway::dhcp::Grant;
pub use crate::nat::behaviour::Behaviour as Dependence;
use crate::nat::behaviour::Behaviours;
use crate::nat::helpers::Helpers;
use crate::nat::limits::HostLimits;
use crate::nat::ports::PortSpace;

/// How the warning ends that says so of an interface's address.
pub const UNTIL_A_LEASE: &str = " is unknown until a lease";

/// A whole configuration without errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    /// `[system]`: sizes and cores; a change needs a restart.
    pub system: System,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[api]`.
    pub api: Api,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[[port]]`, indexed by [`PortId`](crate::base::PortId).
    pub ports: Vec<Port>,
    /// Realm (vrf) names, indexed by [`RealmId`]; the first is `main`.
    pub realms: Vec<String>,
    /// `[[interface]]`, indexed by [`InterfaceId`] of this configuration.
    pub interfaces: Vec<Interface>,
    /// `[[route]]`: static routes; connected ones follow from the interfaces.
    pub routes: Vec<Route>,
    /// `[[neighbour]]`: static neighbours.
    pub neighbours: Vec<Neighbour>,
    /// `[sets]` as written; in conditions they are expanded already.
    pub sets: BTreeMap<String, Vec<String>>,
    /// `[[exempt]]`.
    pub exempts: Vec<Exempt>,
    /// `[[pool]]`, indexed by [`PoolId`].
    pub pools: Vec<Pool>,
    /// `[[source-nat]]`, in order: the first match decides.
    pub source_nat: Vec<SourceNat>,
    /// `[[static-nat]]`.
    pub static_nat: Vec<StaticNat>,
    /// `[[port-forward]]`, in order: the first match decides.
    pub port_forwards: Vec<PortForward>,
    /// `[[service]]`.
    pub services: Vec<Service>,
    /// `[filter]`.
    pub filter: Filter,
    /// UDP ports that the gateway sends from itself, on whichever of its addresses: translation gives them to nobody, so
    /// that answers are not mistaken for a subscriber's. Mappings made before a port got in here end by themselves.
    pub own_ports: BTreeSet<u16>,
    /// `[log]`.
    pub log: Log,
}

impl Validated {
    /// Whether any interface has an IPv6 address.
    pub fn has_ipv6(&self) -> bool {
        self.interfaces.iter().any(|i| !i.v6.is_empty())
    }

    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<InterfaceId> {
        let index = self.interfaces.iter().position(|i| i.label.name == name)?;
        Some(InterfaceId(index as u16))
    }

    /// What speaks against this configuration since addresses were leased: subnets that overlap, an address with two meanings.
    pub fn conflicts(&self) -> Vec<String> {
        match self.interfaces.iter().any(|i| i.grant.is_some()) {
            true => super::validate::conflicts(self),
            false => Vec::new(),
        }
    }

    /// Static routes, one for each next hop: the policy's list begins with them.
    pub fn static_hops(&self) -> usize {
        self.routes.iter().map(|route| route.via.len().max(1)).sum()
    }

    /// Routes that DHCP servers gave, with the interface each leaves by. What the configuration says of a destination counts
    /// more, and of two servers that of the first interface.
    pub fn learned_routes(&self) -> Vec<(InterfaceId, Ipv4Net, Option<Ipv4Addr>)> {
        let mut taken: BTreeSet<(RealmId, IpNet)> = self
            .routes
            .iter()
            .map(|route| (route.realm, route.prefix))
            .collect();
        let mut learned = Vec::new();
        for (id, interface) in (0..).map(InterfaceId).zip(&self.interfaces) {
            for &(prefix, via) in interface.grant.iter().flat_map(|grant| &grant.routes) {
                if taken.insert((interface.realm, IpNet::V4(prefix))) {
                    learned.push((id, prefix, via));
                }
            }
        }
        learned
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<PoolId> {
        let index = self.pools.iter().position(|p| p.label.name == name)?;
        Some(PoolId(index as u16))
    }
}

/// What every object carries for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Label {
    /// `name`; generated (`source-nat 3`, counted from 1) where the configuration gives none.
    pub name: String,
    /// `comment`, or empty.
    pub comment: String,
    /// Where the object comes from: `origin`, by default `FILE:LINE`.
    pub origin: String,
}

/// `[system]`: what is fixed at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Poll-mode workers, 1–64.
    pub workers: u8,
    /// Cores of the workers, one each; empty: chosen at start (all but the first).
    pub cores: Vec<usize>,
    /// Use huge pages when the machine has them.
    pub hugepages: bool,
    /// Memory for tables and packet buffers, in bytes.
    pub memory_bytes: u64,
    /// Sessions all workers together can hold.
    pub sessions: u32,
    /// What one inside host may use.
    pub limits: HostLimits,
    /// Fragmented datagrams tracked at a time.
    pub fragments: u32,
    /// Inside hosts that can be tracked; derived from `sessions` unless given.
    pub subscribers: u32,
    /// Adopt TCP connections of inside hosts in the middle.
    pub tcp_pickup: bool,
    /// What a worker without packets does.
    pub idle: Idle,
    /// Further EAL arguments, appended as they are.
    pub eal_args: Vec<String>,
    /// File prefix and default socket name, so that two instances can run.
    pub instance: String,
    /// Where ports that rest are remembered across a restart; `None`: they are not.
    pub state_directory: Option<PathBuf>,
}

/// What a worker without packets does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: lowest latency, a core always busy.
    Poll,
    /// Sleeps ever longer, up to a bound, until packets come.
    Adaptive,
}

/// `[timeouts]`: how long a session lives without packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP answered from outside (RFC 4787 REQ-5).
    pub udp: Duration,
    /// UDP not yet answered.
    pub udp_unreplied: Duration,
    /// Established TCP (RFC 5382 REQ-5).
    pub tcp: Duration,
    /// TCP being opened (RFC 5382 REQ-5, RFC 7857 section 2.1).
    pub tcp_opening: Duration,
    /// TCP being closed (RFC 5382 REQ-5, RFC 7857 section 2.1).
    pub tcp_closing: Duration,
    /// TCP after a valid RST (RFC 7857 section 2.2).
    pub tcp_reset: Duration,
    /// Flows that a helper expects.
    pub expected: Duration,
    /// ICMP queries (RFC 5508 REQ-2).
    pub icmp: Duration,
    /// SCTP associations, answered.
    pub sctp: Duration,
    /// SCTP associations not yet answered, or at their end.
    pub sctp_transitory: Duration,
    /// Every other protocol.
    pub other: Duration,
}

/// `[api]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The unix socket; default `/run/natgate/INSTANCE.sock`.
    pub socket: PathBuf,
    /// Group that may use the socket.
    pub group: String,
}

/// `[metrics]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// TCP listener of `/metrics`, `/healthz`, `/readyz`; `None` (`listen = ""`) is no listener.
    pub listen: Option<std::net::SocketAddr>,
}

/// `[[port]]`: a device natgate drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name, comment, origin.
    pub label: Label,
    /// What DPDK opens.
    pub device: Device,
    /// Receive (and transmit) queues, at least 1; default one per worker on hardware, 1 on software devices.
    pub queues: u16,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// MAC address to set; `None` keeps the device's own.
    pub mac: Option<[u8; 6]>,
    /// Receive frames for every station.
    pub promiscuous: bool,
    /// Descriptors per queue, a power of two.
    pub descriptors: u16,
}

/// `[[route]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name, comment, origin.
    pub label: Label,
    /// The destination network.
    pub prefix: IpNet,
    /// Next hops of the prefix's family; several share the flows (ECMP). Several `[[route]]` of one prefix do so
    /// together. Empty: the destinations are on the link of `interface`.
    pub via: Vec<IpAddr>,
    /// The interface to leave by; `None`: the one whose subnet holds the next hop.
    pub interface: Option<InterfaceId>,
    /// The realm the route belongs to.
    pub realm: RealmId,
}

/// `[[neighbour]]`: a next hop whose MAC address is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Name, comment, origin.
    pub label: Label,
    /// Where it is.
    pub interface: InterfaceId,
    /// Its IP address.
    pub address: IpAddr,
    /// Its MAC address (unicast).
    pub mac: [u8; 6],
}

/// `[[exempt]]`: destinations left untranslated; the longest matching prefix of `dst` and `force` decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exempt {
    /// Name, comment, origin.
    pub label: Label,
    /// Receiving interface.
    pub in_: InterfaceMatch,
    /// Source address.
    pub src: PrefixSet,
    /// Destinations to leave untranslated.
    pub dst: PrefixSet,
    /// Destinations inside `dst` that are translated after all: they win by a longer prefix.
    pub force: Vec<IpNet>,
    /// More destinations to leave untranslated, from a file that is followed while natgate runs.
    pub file: Option<ExemptFile>,
}

/// How an external port is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// Keep the source port when it is free, else draw.
    Preserve,
    /// Draw unpredictably (RFC 6056).
    Random,
    /// The next free one, ascending.
    Sequential,
}

/// Which address of a pool an inside host gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Always the same (RFC 4787 REQ-2, RFC 6888 REQ-2).
    Paired,
    /// Any.
    Spread,
}

/// Something that each protocol with ports may have otherwise (RFC 7857 section 5).
// Implements: T3b, P5, P6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerProtocol<T> {
    /// TCP.
    pub tcp: T,
    /// UDP.
    pub udp: T,
    /// ICMP queries.
    pub icmp: T,
    /// SCTP.
    pub sctp: T,
}

impl<T: Copy> PerProtocol<T> {
    /// The same for every protocol.
    pub fn all(of: T) -> PerProtocol<T> {
        PerProtocol {
            tcp: of,
            udp: of,
            icmp: of,
            sctp: of,
        }
    }

    /// By number space, as pools count.
    pub fn by_space(self) -> [T; PortSpace::COUNT] {
        PortSpace::ALL.map(|space| match space {
            PortSpace::Tcp => self.tcp,
            PortSpace::Udp => self.udp,
            PortSpace::Icmp => self.icmp,
            PortSpace::Sctp => self.sctp,
        })
    }
}

impl Pool {
    /// What its mappings depend on and what they let in, by number space.
    pub fn behaviours(&self) -> [Behaviours; PortSpace::COUNT] {
        let (mapping, filtering) = (self.mapping.by_space(), self.filtering.by_space());
        PortSpace::ALL.map(|space| Behaviours {
            mapping: mapping[space.index()],
            filtering: filtering[space.index()],
        })
    }

    /// Whether mappings share its ports.
    pub fn shares_ports(&self) -> bool {
        let alone = |b: &Behaviours| b.kind().sharing() == Dependence::Endpoint;
        !self.behaviours().iter().all(alone)
    }

    /// Whether its filter looks at remote addresses.
    pub fn filters_by_address(&self) -> bool {
        self.filtering.by_space().contains(&Dependence::Address)
    }
}

/// What the sender hears when a pool has nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhaustion {
    /// Nothing.
    Drop,
    /// An ICMP error, rate-limited.
    Icmp,
}

/// `[[pool]]`: external addresses and ports to translate to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Name, comment, origin.
    pub label: Label,
    /// The fixed addresses, in the order given, `exclude` taken out, without repeats.
    pub addresses: Vec<IpAddr>,
    /// Interfaces whose addresses the pool follows (`interface:IF`).
    pub interfaces: Vec<InterfaceId>,
    /// Addresses among them that get no new sessions, while those they have go on.
    pub drain: BTreeSet<IpAddr>,
    /// Addresses among them that have no sessions at all.
    pub quarantine: BTreeSet<IpAddr>,
    /// The ports to give out.
    pub ports: PortSet,
    /// Whether `ports` was given, so that nothing outside it may be used.
    pub ports_explicit: bool,
    /// How a port is chosen.
    pub select: Select,
    /// Keep source ports 1–511 and 512–1023 within their class; true only when `ports` was not given.
    pub low_ports: bool,
    /// Keep even ports even and odd ones odd.
    pub parity: bool,
    /// Which address a host gets.
    pub pairing: Pairing,
    /// Mapping behaviour.
    pub mapping: PerProtocol<Dependence>,
    /// Filtering behaviour.
    pub filtering: PerProtocol<Dependence>,
    /// Answer ARP for the addresses that lie on a connected subnet.
    pub answer_arp: bool,
    /// What the sender hears when nothing is left.
    pub exhaustion: Exhaustion,
    /// Application helpers.
    pub helpers: Helpers,
    /// Port blocks, when ports are given out to subscribers in blocks.
    pub block: Option<Block>,
    /// How long a released port or block rests (RFC 6888 REQ-8); zero is off.
    pub hold: Duration,
    /// Ports of one address that may rest at a time; the one resting longest is given out beyond that.
    pub hold_max: u32,
    /// When the pool calls for more.
    pub alarm: Alarm,
    /// Ports by arithmetic instead (RFC 7422).
    pub deterministic: Option<Deterministic>,
}

/// Thresholds of a pool's alarm, in percent of its ports or blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// It begins when so much is in use; 0: never.
    pub high: u8,
    /// It ends below this.
    pub low: u8,
}

impl Alarm {
    /// What a pool has that says nothing.
    pub const DEFAULT: Alarm = Alarm { high: 80, low: 70 };
}

/// Every host of a pool has an address and ports that follow from its own address (RFC 7422).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deterministic {
    /// The hosts: first and last address of ranges, in order, disjoint.
    pub inside: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// The ports to share out: the pool's without the reserved ones.
    pub ports: PortSet,
    /// Ports of a host and protocol.
    pub ports_per_host: u16,
    /// Hosts that share an address: as many as spreads them evenly.
    pub hosts_per_address: u16,
    /// What a host gets beyond its own ports.
    pub overflow: Option<Overflow>,
}

/// Blocks of ports for hosts whose own ones are all in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// Ports in a block.
    pub block: u16,
    /// Blocks one host may hold, at least 1.
    pub max: u16,
}

/// Port blocks of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Contiguous ports in a block.
    pub size: u16,
    /// Blocks one host may hold, at least 1.
    pub max_per_host: u16,
    /// How long a block without mappings stays with its host.
    pub idle: Duration,
}

/// Where a source-nat rule takes the external endpoint from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The outgoing interface's own address (masquerade).
    Interface,
    /// A pool.
    Pool(PoolId),
    /// Nowhere: the flow leaves untranslated.
    None,
}

/// `[[source-nat]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNat {
    /// Name, comment, origin.
    pub label: Label,
    /// Which flows.
    pub matching: Match,
    /// To what.
    pub via: Via,
    /// External ports of this rule; `None`: the pool's, or the defaults of masquerade (1024–65535 and low ports
    /// kept in their class). ICMP query ids are bound by it only when `proto` is exactly `icmp`.
    pub ports: Option<PortSet>,
    /// Port choice of this rule; `None`: the pool's, or `preserve`.
    pub select: Option<Select>,
}

/// Who may open sessions through a static-nat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both sides.
    Both,
    /// Outside hosts only.
    In,
    /// Inside hosts only.
    Out,
}

/// `[[static-nat]]`: one external address for one internal address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticNat {
    /// Name, comment, origin.
    pub label: Label,
    /// External network.
    pub external: IpNet,
    /// Internal network of the same family and length; addresses correspond by their host part, and in IPv6 prefixes of up
    /// to 64 bits as RFC 6296 says.
    pub internal: IpNet,
    /// The realm of the internal network.
    pub realm: RealmId,
    /// The outside interface; `None`: any.
    pub interface: Option<InterfaceId>,
    /// Who may open sessions.
    pub direction: Direction,
}

/// A server behind a port-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address.
    pub address: IpAddr,
    /// The port that the lowest forwarded port becomes, the following ones one to one; `None` keeps the port.
    pub first_port: Option<u16>,
}

/// The source address a port-forward gives its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardSource {
    /// The client's own, except for hairpin clients: those get an address of the gateway, so that replies return.
    Auto,
    /// Always the client's own.
    Keep,
    /// This address of the gateway.
    Address(IpAddr),
}

/// `[[port-forward]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForward {
    /// Name, comment, origin.
    pub label: Label,
    /// Where clients arrive. With `hairpin` also the interfaces of the targets.
    pub in_: InterfaceMatch,
    /// Which clients.
    pub src: PrefixSet,
    /// The addresses forwarded: single addresses, or those of interfaces. Empty: every address of the
    /// interfaces in `in_`.
    pub dst: AddressList,
    /// Protocols; with ports only tcp, udp, sctp, dccp and udplite.
    pub proto: ProtocolSet,
    /// Ports forwarded; "any" forwards whole addresses. One range when a target names ports.
    pub dport: PortSet,
    /// Servers; several share the clients by source address.
    pub to: Vec<Target>,
    /// The realm of the servers.
    pub realm: RealmId,
    /// Also accept clients behind the target's own interface.
    pub hairpin: bool,
    /// Pass a default-deny filter.
    pub allow: bool,
    /// Source address of the forwarded flow.
    pub source: ForwardSource,
}

impl PortForward {
    /// The port at `target` for a packet to `dport`, which must be one of the forwarded ports.
    pub fn target_port(&self, target: &Target, dport: u16) -> u16 {
        let lowest = self.dport.ranges().first().map_or(0, |range| range.0);
        target.first_port.map_or(dport, |first| {
            first.wrapping_add(dport.wrapping_sub(lowest))
        })
    }
}
