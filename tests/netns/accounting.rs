//! natgate's books: every packet received ends in exactly one place.
//!
//! All knowledge of the JSON documents' field names that the lab needs is in this file.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::natgate::Natgate;

/// Packets by where they ended, summed over workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Taken from ports.
    pub received: u64,
    /// Made by natgate itself: ARP, ICMP errors, extra fragments.
    pub generated: u64,
    /// Given to ports.
    pub sent: u64,
    /// Addressed to the box and handled by it.
    pub consumed: u64,
    /// Dropped, each for one named reason.
    pub dropped: u64,
    /// Waiting at this moment: fragments, unresolved neighbours.
    pub held: u64,
}

/// Reads the totals of `show status --json`.
pub fn ledger(natgate: &Natgate) -> Ledger {
    let status = natgate.show("status");
    let field = |name: &str| {
        status["packets"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("show status: no packets.{name} in {status}"))
    };
    Ledger {
        received: field("received"),
        generated: field("generated"),
        sent: field("sent"),
        consumed: field("consumed"),
        dropped: field("dropped"),
        held: field("held"),
    }
}

/// Packets dropped so far, by reason; reasons that never occurred are left out.
pub fn drops(natgate: &Natgate) -> BTreeMap<String, u64> {
    let document = natgate.show("drops");
    let rows = document["drops"]
        .as_array()
        .unwrap_or_else(|| panic!("show drops: no list in {document}"));
    let mut drops = BTreeMap::new();
    for row in rows {
        let reason = row["reason"].as_str().expect("a drop has a reason");
        let packets = row["packets"].as_u64().expect("a drop has a count");
        if packets > 0 {
            *drops.entry(reason.to_string()).or_default() += packets;
        }
    }
    drops
}

/// [`drops`] without what hosts announce to their own link (IPv6 group reports), which no router forwards.
pub fn losses(natgate: &Natgate) -> BTreeMap<String, u64> {
    let mut losses = drops(natgate);
    losses.remove("multicast");
    losses
}

/// Packets dropped for one reason.
pub fn dropped(natgate: &Natgate, reason: &str) -> u64 {
    drops(natgate).get(reason).copied().unwrap_or(0)
}

/// Asserts that received + generated = sent + consumed + dropped + held, and that the drops by reason add
/// up to the total.
///
/// Counters of one worker are a snapshot between its batches, but workers are read one after another, so
/// the equation is only exact at rest: the check waits for two equal readings.
pub fn assert_conservation(natgate: &Natgate) {
    let mut last = ledger(natgate);
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let now = ledger(natgate);
        if now == last {
            break;
        }
        last = now;
    }
    let out = last.sent + last.consumed + last.dropped + last.held;
    // Hosts may send another multicast at any moment: the reasons must be of the same moment as the total.
    let status = natgate.show("status");
    let drops = status["packets"]["drops"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let by_reason: u64 = drops.values().filter_map(Value::as_u64).sum();
    assert_eq!(
        last.received + last.generated,
        out,
        "packets are unaccounted for: {last:?}, drops {drops:?}"
    );
    assert_eq!(
        status["packets"]["dropped"].as_u64(),
        Some(by_reason),
        "drops by reason differ from their total: {last:?}, {drops:?}"
    );
}
