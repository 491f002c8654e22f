//! The configuration as written: the same tables and keys, defaults filled in, nothing yet compared with anything.
//!
//! The kinds of all values were checked against [`super::keys`] before, with their places, so that reading into
//! these types does not fail for a user's mistake.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One string or number, or a list of them; numbers become their digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Many(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Scalar>),
    One(Scalar),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(i64),
    Text(String),
}

impl From<OneOrMany> for Many {
    fn from(written: OneOrMany) -> Many {
        let scalars = match written {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        };
        let text = |scalar| match scalar {
            Scalar::Text(text) => text,
            Scalar::Number(number) => number.to_string(),
        };
        Many(scalars.into_iter().map(text).collect())
    }
}

/// One word for every protocol, or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum PerProtocol {
    All(String),
    Each {
        tcp: Option<String>,
        udp: Option<String>,
        icmp: Option<String>,
        sctp: Option<String>,
    },
}

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the keys are documented in configs/default.toml
pub struct Raw {
    pub system: System,
    pub timeouts: Timeouts,
    pub api: Api,
    pub metrics: Metrics,
    #[serde(default)]
    pub port: Vec<Port>,
    #[serde(default)]
    pub interface: Vec<Interface>,
    #[serde(default)]
    pub route: Vec<Route>,
    #[serde(default)]
    pub neighbour: Vec<Neighbour>,
    #[serde(default)]
    pub sets: BTreeMap<String, Set>,
    #[serde(default)]
    pub exempt: Vec<Exempt>,
    #[serde(default)]
    pub pool: Vec<Pool>,
    #[serde(default)]
    pub source_nat: Vec<SourceNat>,
    #[serde(default)]
    pub static_nat: Vec<StaticNat>,
    #[serde(default)]
    pub port_forward: Vec<PortForward>,
    #[serde(default)]
    pub service: Vec<Service>,
    pub filter: Filter,
    pub log: Log,
}

/// `[system]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct System {
    pub workers: u8,
    pub cores: Vec<usize>,
    pub hugepages: bool,
    pub memory: String,
    pub sessions: u32,
    pub sessions_per_host: u32,
    pub new_sessions_per_host: u32,
    pub half_open_per_host: u32,
    pub quota_error: String,
    pub fragments: u32,
    pub subscribers: u32,
    pub tcp_pickup: bool,
    pub idle: String,
    pub eal_args: Many,
    pub instance: String,
    pub state_directory: Option<String>,
}

/// `[timeouts]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Timeouts {
    pub udp: String,
    pub udp_unreplied: String,
    pub tcp: String,
    pub tcp_transitory: String,
    pub tcp_opening: Option<String>,
    pub tcp_closing: Option<String>,
    pub tcp_reset: String,
    pub icmp: String,
    pub expected: String,
    pub sctp: String,
    pub sctp_transitory: String,
    pub other: String,
}

/// `[api]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Api {
    pub socket: Option<String>,
    pub group: String,
}

/// `[metrics]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Metrics {
    pub listen: String,
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Log {
    pub mappings: String,
    pub to: Many,
    pub through: String,
    pub destinations: bool,
}

/// What every object may carry.
#[derive(Clone, Debug, Default, Deserialize)]
#[allow(missing_docs)]
pub struct Label {
    pub name: Option<String>,
    pub comment: String,
    pub origin: Option<String>,
}

/// `[[port]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Port {
    #[serde(flatten)]
    pub label: Label,
    pub device: Option<String>,
    pub bond: Option<Bond>,
    pub queues: Option<u16>,
    pub mtu: u16,
    pub mac: Option<String>,
    pub promiscuous: bool,
    pub descriptors: u16,
}

/// `[[port]] bond`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Bond {
    pub mode: String,
    pub members: Option<Many>,
}

/// `[[interface]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Interface {
    #[serde(flatten)]
    pub label: Label,
    pub port: Option<String>,
    pub vlan: Option<u16>,
    pub address: Many,
    pub vrf: String,
    pub forward: bool,
    pub urpf: String,
    pub clamp_mss: u16,
    pub helpers: Many,
    pub mtu: Option<u16>,
}

/// `[[route]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Route {
    #[serde(flatten)]
    pub label: Label,
    pub prefix: Option<String>,
    pub via: Many,
    pub interface: Option<String>,
    pub vrf: Option<String>,
}

/// `[[neighbour]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Neighbour {
    #[serde(flatten)]
    pub label: Label,
    pub interface: Option<String>,
    pub address: Option<String>,
    pub mac: Option<String>,
}

/// A set in `[sets]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Set {
    pub comment: String,
    pub origin: Option<String>,
    pub members: Many,
}

/// `[[exempt]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Exempt {
    #[serde(flatten)]
    pub label: Label,
    #[serde(rename = "in")]
    pub in_: Option<Many>,
    pub src: Option<Many>,
    pub dst: Option<Many>,
    pub force: Many,
    pub file: Option<ExemptFile>,
}

/// `[[exempt]] file`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct ExemptFile {
    pub path: Option<String>,
    pub format: String,
    pub resync: String,
    pub limit: usize,
    pub missing: Option<String>,
}

/// `[[pool]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Pool {
    #[serde(flatten)]
    pub label: Label,
    pub addresses: Option<Many>,
    pub exclude: Many,
    pub drain: Many,
    pub quarantine: Many,
    pub ports: Option<Many>,
    pub select: Option<String>,
    pub low_ports: Option<bool>,
    pub parity: bool,
    pub pairing: String,
    pub mapping: PerProtocol,
    pub filtering: PerProtocol,
    pub answer_arp: bool,
    pub exhaustion: String,
    pub helpers: Many,
    pub block: Option<Block>,
    pub hold: String,
    pub hold_max: u32,
    pub alarm_high: u8,
    pub alarm_low: u8,
    pub deterministic: Option<Deterministic>,
}

/// `[[pool]] block`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Block {
    pub size: Option<u16>,
    pub max_per_host: u16,
    pub idle: String,
}

/// `[[pool]] deterministic`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Deterministic {
    pub inside: Option<Many>,
    pub ports_per_host: Option<u16>,
    pub ratio: Option<u16>,
    pub reserved: Option<Many>,
    pub overflow: Option<Overflow>,
    pub algorithm: String,
}

/// `[[pool]] deterministic.overflow`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Overflow {
    pub block: Option<u16>,
    pub max: u16,
}

/// `[[source-nat]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct SourceNat {
    #[serde(flatten)]
    pub label: Label,
    #[serde(rename = "in")]
    pub in_: Option<Many>,
    pub out: Option<Many>,
    pub src: Option<Many>,
    pub dst: Option<Many>,
    pub proto: Option<Many>,
    pub sport: Option<Many>,
    pub dport: Option<Many>,
    pub via: Option<String>,
    pub ports: Option<Many>,
    pub select: Option<String>,
}

/// `[[static-nat]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct StaticNat {
    #[serde(flatten)]
    pub label: Label,
    pub external: Option<String>,
    pub internal: Option<String>,
    pub vrf: String,
    pub interface: Option<String>,
    pub direction: String,
}

/// `[[port-forward]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct PortForward {
    #[serde(flatten)]
    pub label: Label,
    #[serde(rename = "in")]
    pub in_: Option<Many>,
    pub src: Option<Many>,
    pub dst: Option<Many>,
    pub proto: Many,
    pub dport: Option<Many>,
    pub to: Option<Many>,
    pub vrf: String,
    pub spread: String,
    pub hairpin: bool,
    pub source: String,
    pub allow: bool,
}

/// `[[service]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Service {
    #[serde(flatten)]
    pub label: Label,
    pub address: Option<String>,
    pub kind: String,
    pub proto: Many,
    pub port: Option<u16>,
    pub lb: String,
    pub hash: Many,
    pub maglev_size: u32,
    pub source: String,
    pub affinity: String,
    pub affinity_timeout: String,
    pub unmatched: String,
    pub empty: String,
    pub ping: bool,
    pub drain: Option<String>,
    pub check: Option<Check>,
    #[serde(default)]
    pub backends: Vec<Backend>,
}

/// `[[service]] check`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Check {
    pub kind: String,
    pub port: Option<u16>,
    pub path: String,
    pub interval: String,
    pub timeout: String,
    pub rise: u32,
    pub fall: u32,
}

/// `[[service]] backends`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Backend {
    pub to: Option<String>,
    pub source: Option<String>,
    pub weight: u32,
    pub forward_only: bool,
}

/// `[filter]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Filter {
    pub default: String,
    pub established: String,
    #[serde(default)]
    pub rule: Vec<FilterRule>,
}

/// `[[filter.rule]]`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct FilterRule {
    #[serde(flatten)]
    pub label: Label,
    #[serde(rename = "in")]
    pub in_: Option<Many>,
    pub out: Option<Many>,
    pub src: Option<Many>,
    pub dst: Option<Many>,
    pub proto: Option<Many>,
    pub sport: Option<Many>,
    pub dport: Option<Many>,
    pub orig_dst: Option<Many>,
    pub orig_dport: Option<Many>,
    pub icmp_type: Option<Many>,
    pub state: Option<Many>,
    pub action: Option<String>,
    pub reject_with: Option<String>,
}
