//! The documents: status, drops, counters, timeouts, configuration, and the answers to changes.

use serde::{Deserialize, Serialize};

/// Health on one screen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `ready`, or `not_ready`.
    pub state: String,
    /// All workers run and use the current policy.
    pub ready: bool,
    /// Version of natgate.
    pub version: String,
    /// The instance's name.
    pub instance: String,
    /// Number of the configuration in force.
    pub generation: u32,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Start, seconds since 1970.
    pub start_unix_seconds: u64,
    /// Workers.
    pub workers: u8,
    /// Workers that do not answer.
    pub stalled_workers: Vec<u8>,
    /// Live sessions.
    pub sessions: u64,
    /// Room for sessions.
    pub session_capacity: u64,
    /// Live mappings.
    pub mappings: u64,
    /// Packets of all workers together, since the counters were cleared.
    pub packets: PacketCounts,
    /// Rates over the last seconds.
    pub rates: Rates,
    /// The fullest pool and the share of it in use, 0–1.
    pub fullest_pool: Option<(String, f64)>,
    /// Ports without link.
    pub ports_down: Vec<String>,
    /// What the configuration was warned about.
    pub warnings: Vec<String>,
    /// The running configuration is not the one a restart would read: it was edited, or comes from another file.
    #[serde(default)]
    pub unsaved: bool,
    /// Seconds until the configuration before comes back, unless this one is confirmed.
    #[serde(default)]
    pub confirm_seconds: Option<u64>,
}

/// Rates over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Packets received a second.
    pub received_packets_per_second: f64,
    /// Packets sent a second.
    pub sent_packets_per_second: f64,
    /// Packets dropped a second.
    pub dropped_packets_per_second: f64,
    /// Sessions created a second.
    pub sessions_created_per_second: f64,
}

/// Drops of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropLine {
    /// The reason.
    pub reason: String,
    /// Packets, all workers.
    pub packets: u64,
    /// What it means and what to look at.
    pub advice: String,
}

/// Packets by what became of them. Conservation, exactly:
/// `received + generated + handoff_in + held_before = sent + consumed + handoff_out + Σ drops + held`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketCounts {
    /// Taken from receive queues.
    pub received: u64,
    /// Accepted by transmit queues.
    pub sent: u64,
    /// Made by the gateway.
    pub generated: u64,
    /// Meant for the gateway itself.
    pub consumed: u64,
    /// Taken over from other workers.
    pub handoff_in: u64,
    /// Handed to other workers.
    pub handoff_out: u64,
    /// Held now: waiting for a neighbour, a first fragment, a transmit queue.
    pub held: u64,
    /// Held at the moment the counters were cleared; 0 if they never were.
    pub held_before: u64,
    /// Dropped, all reasons together.
    pub dropped: u64,
    /// Dropped, by reason; every reason is present.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// Packets that came minus packets that went: 0, always.
    pub imbalance: i64,
}

impl PacketCounts {
    /// Computes [`PacketCounts::dropped`] and [`PacketCounts::imbalance`] from the rest.
    pub fn balance(&mut self) {
        self.dropped = self.drops.values().sum();
        let came = self.received + self.generated + self.handoff_in + self.held_before;
        let went = self.sent + self.consumed + self.handoff_out + self.dropped + self.held;
        self.imbalance = came as i64 - went as i64;
    }

    /// Adds another worker's packets.
    pub fn add(&mut self, other: &PacketCounts) {
        self.received += other.received;
        self.sent += other.sent;
        self.generated += other.generated;
        self.consumed += other.consumed;
        self.handoff_in += other.handoff_in;
        self.handoff_out += other.handoff_out;
        self.held += other.held;
        self.held_before += other.held_before;
        self.dropped += other.dropped;
        for (reason, packets) in &other.drops {
            *self.drops.entry(reason.clone()).or_default() += packets;
        }
        self.imbalance += other.imbalance;
    }

    /// What was counted since `before`, an earlier count of the same worker.
    #[must_use]
    pub fn since(&self, before: &PacketCounts) -> PacketCounts {
        let drops = self.drops.iter().map(|(reason, packets)| {
            let earlier = before.drops.get(reason).copied().unwrap_or(0);
            (reason.clone(), packets.saturating_sub(earlier))
        });
        let mut counts = PacketCounts {
            received: self.received.saturating_sub(before.received),
            sent: self.sent.saturating_sub(before.sent),
            generated: self.generated.saturating_sub(before.generated),
            consumed: self.consumed.saturating_sub(before.consumed),
            handoff_in: self.handoff_in.saturating_sub(before.handoff_in),
            handoff_out: self.handoff_out.saturating_sub(before.handoff_out),
            held: self.held,
            held_before: before.held,
            dropped: 0,
            drops: drops.collect(),
            imbalance: 0,
        };
        counts.balance();
        counts
    }
}

/// One worker's packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCounts {
    /// The worker.
    pub worker: u8,
    /// Its packets.
    #[serde(flatten)]
    pub packets: PacketCounts,
}

/// Drops by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Every reason, most frequent first.
    pub drops: Vec<DropLine>,
    /// All workers together.
    pub total: PacketCounts,
    /// Each worker.
    pub workers: Vec<WorkerCounts>,
    /// Workers that do not answer; their packets are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stalled_workers: Vec<u8>,
}

/// Live sessions of one protocol in one state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCount {
    /// `tcp`, `udp`, `sctp`, `icmp`, `other`.
    pub protocol: String,
    /// The state.
    pub state: String,
    /// Sessions.
    pub sessions: u64,
}

/// What is counted besides packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauges {
    /// Live sessions; every protocol and state is present.
    pub sessions: Vec<SessionCount>,
    /// Sessions created.
    pub sessions_created: u64,
    /// Sessions ended, by cause.
    pub sessions_ended: std::collections::BTreeMap<String, u64>,
    /// Live mappings.
    pub mappings: u64,
    /// Mappings created.
    pub mappings_created: u64,
    /// TCP segments that would have changed a session's state, but do not lie where its connection is: forged, or late.
    #[serde(default)]
    pub tcp_disbelieved: u64,
    /// Flows that a helper wanted to expect, and that were refused as new flows of the host are.
    #[serde(default)]
    pub expectations_refused: u64,
    /// Flows that got another source port, because their answers would have been those of a living flow.
    #[serde(default)]
    pub told_apart: u64,
    /// Live subscribers.
    pub subscribers: u64,
    /// Those at one of their limits: some flow of theirs was refused in the last half minute.
    #[serde(default)]
    pub subscribers_at_limit: u64,
    /// Times that one came to a limit.
    #[serde(default)]
    pub limits_reached: u64,
    /// Live IPv6 sessions, which are among all.
    #[serde(default)]
    pub ipv6_sessions: u64,
    /// Hairpin packets that went through the translator twice.
    pub hairpin_packets: u64,
    /// ICMP errors sent.
    pub icmp_errors: u64,
    /// ICMP errors not sent because of the rate limit.
    pub icmp_suppressed: u64,
}

/// All counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// All workers together.
    pub total: PacketCounts,
    /// Each worker.
    pub workers: Vec<WorkerCounts>,
    /// What is counted besides packets, all workers together, since start.
    #[serde(flatten)]
    pub gauges: Gauges,
    /// Workers that do not answer; their part is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stalled_workers: Vec<u8>,
}

/// An idle timeout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeout {
    /// The session state it applies to.
    pub state: String,
    /// `tcp`, `udp`, `sctp`, `icmp`, `other`.
    pub protocol: String,
    /// How long a session may be idle.
    pub idle_seconds: f64,
}

/// The idle timeouts in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeouts {
    /// By state.
    pub timeouts: Vec<Timeout>,
}

/// The running configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Its number.
    pub generation: u32,
    /// First 16 hex digits of a hash of its text.
    pub hash: String,
    /// Where it came from.
    pub source: String,
    /// Its text.
    pub text: String,
}

/// What a `clear` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// Objects cleared.
    pub cleared: u64,
    /// Workers that do not answer; their objects may still be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stalled_workers: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clearing_keeps_the_books_balanced() {
        let mut before = PacketCounts {
            received: 10,
            sent: 6,
            held: 3,
            ..PacketCounts::default()
        };
        before.drops.insert("no_route".into(), 1);
        before.balance();
        assert_eq!(before.imbalance, 0);
        let mut now = PacketCounts {
            received: 15,
            sent: 13,
            held: 1,
            ..PacketCounts::default()
        };
        now.drops.insert("no_route".into(), 1);
        now.drops.insert("no_port".into(), 0);
        let since = now.since(&before);
        assert_eq!(
            (since.received, since.sent, since.held_before, since.dropped),
            (5, 7, 3, 0)
        );
        assert_eq!(since.imbalance, 0);
        now.sent -= 1;
        assert_eq!(now.since(&before).imbalance, 1, "a lost packet shows");
    }

    #[test]
    fn documents_survive_the_wire() {
        let mut counters = Counters::default();
        counters.workers.push(WorkerCounts {
            worker: 1,
            packets: PacketCounts::default(),
        });
        counters.gauges.sessions_created = 7;
        let text = serde_json::to_string(&counters).unwrap();
        assert!(
            text.contains(r#""worker":1,"received":0"#),
            "flat for every reader: {text}"
        );
        assert_eq!(serde_json::from_str::<Counters>(&text).unwrap(), counters);
        let status = Status {
            fullest_pool: Some(("a".into(), 0.5)),
            ..Status::default()
        };
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
