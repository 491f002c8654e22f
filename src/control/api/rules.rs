//! The objects of the listings of rules and services, and of the history.

use serde::{Deserialize, Serialize};

/// A counted rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Position in its list, from 1.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Receiving interfaces; `any` for all.
    #[serde(rename = "in")]
    pub ingress: String,
    /// Outgoing interfaces; `any` for all.
    #[serde(rename = "out")]
    pub egress: String,
    /// Sources.
    pub src: String,
    /// Destinations.
    pub dst: String,
    /// Protocols.
    pub proto: String,
    /// What it does: `interface`, `pool:NAME`, `none`, or the target.
    pub via: String,
    /// Ports: of the translation for source NAT, of the public side for forwards.
    pub ports: String,
    /// Whose it is: a client (`api:NAME`), what its `origin` says, or else the file and line.
    #[serde(default)]
    pub origin: String,
    /// Sessions created.
    pub hits: u64,
    /// Packets of its sessions, both directions.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// A filter rule, or the filter's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterRule {
    /// Position in its list, from 1; the default comes last.
    pub index: u32,
    /// Its name; `default` for the default.
    pub name: String,
    /// Packets of the flows it let through, both directions, or packets it refused.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// Flows it let through or refused.
    pub hits: u64,
    /// Receiving interfaces; `any` for all, as in all conditions.
    #[serde(rename = "in")]
    pub ingress: String,
    /// Outgoing interfaces.
    #[serde(rename = "out")]
    pub egress: String,
    /// Sources.
    pub src: String,
    /// Destinations, after translation.
    pub dst: String,
    /// Protocols.
    pub proto: String,
    /// Source ports.
    pub sport: String,
    /// Destination ports, after translation.
    pub dport: String,
    /// Destinations before translation.
    pub orig_dst: String,
    /// Destination ports before translation.
    pub orig_dport: String,
    /// ICMP types.
    pub icmp_type: String,
    /// States.
    pub state: String,
    /// `accept`, `drop`, or `reject:` with what the sender is told.
    pub action: String,
    /// Whose it is, as of a [`Rule`]; empty for the default.
    #[serde(default)]
    pub origin: String,
}

/// A backend of a service; a service without one has a line without one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceBackend {
    /// The service's name.
    pub service: String,
    /// What clients call, the addresses of an interface resolved.
    pub address: String,
    /// Protocols.
    pub proto: String,
    /// Port; none for any.
    pub port: Option<u16>,
    /// How backends are chosen: `hash`, `maglev:PLACES`.
    pub lb: String,
    /// By which fields.
    pub hash: String,
    /// The backend.
    pub backend: String,
    /// What it sees as source: `auto`, `keep`, an address; `direct` where packets reach it as they are.
    pub source: String,
    /// Its share of new flows.
    pub weight: u32,
    /// `active`, `drained` (weight 0), `down` (no route, or its check fails).
    pub state: String,
    /// Living sessions, where they were counted.
    pub sessions: Option<u64>,
    /// Sessions created.
    pub hits: u64,
    /// Packets of its sessions, both directions.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// A destination of an exemption, or a file it takes destinations from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exempt {
    /// Position of its rule, from 1.
    pub index: u32,
    /// Name of its rule.
    pub name: String,
    /// Receiving interfaces; `any` for all.
    #[serde(rename = "in")]
    pub ingress: String,
    /// Sources.
    pub src: String,
    /// The prefix; empty for a file.
    pub dst: String,
    /// `none`: left untranslated; `force`: translated although a shorter prefix says otherwise.
    pub via: String,
    /// Where it is written: `builtin link-local`, `default rfc1918`, `file PATH:LINE`, or the rule's own origin.
    pub origin: String,
    /// Of a file: `good since TIME`, or `stale since TIME: WHY` while it cannot be used and the last good list stays.
    pub state: String,
    /// Sessions created. Of a file, and of prefixes of a rule with very many, those that the rule counts as a whole.
    pub hits: u64,
    /// Packets of its sessions, both directions.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// A file that an exemption follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExemptFileState {
    /// The exemption.
    pub exempt: String,
    /// The file, or the directory.
    pub path: String,
    /// Its format.
    pub format: String,
    /// When it was last read and found good, seconds since 1970; none if never.
    pub good_since_unix_seconds: Option<u64>,
    /// Since when it has not been good.
    pub stale_since_unix_seconds: Option<u64>,
    /// Why not.
    pub problem: Option<String>,
    /// Readings that found it bad.
    pub errors: u64,
}

impl ExemptFileState {
    /// Whether it is good, since when, and if not, why.
    pub fn words(&self) -> String {
        let at = |seconds: u64| {
            let since = std::time::Duration::from_secs(seconds);
            humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
        };
        match (self.stale_since_unix_seconds, self.good_since_unix_seconds) {
            (Some(since), _) => {
                let why = self.problem.as_deref().unwrap_or_default();
                format!("stale since {}: {why}", at(since))
            }
            (None, Some(since)) => format!("good since {}", at(since)),
            (None, None) => String::new(),
        }
    }
}

/// A configuration that was in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Its number.
    pub generation: u32,
    /// When it was published, seconds since 1970.
    pub published_unix_seconds: u64,
    /// First 16 hex digits of a hash of its text.
    pub hash: String,
    /// `start`, `reload`, `edit`, `rollback`, `unconfirmed`, `link`, `health`, `exempt-file`.
    pub cause: String,
    /// What changed, or where it came from.
    pub summary: String,
}
