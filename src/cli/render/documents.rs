//! Text of the documents and of the answers to changes.

use super::{duration, facts, percent, table};
use crate::control::api::{
    Cleared, Counters, Difference, Drops, Explanation, PacketCounts, Reloaded, Saved, Status,
    Timeouts,
};

/// `show status`: one screen.
pub fn status(status: &Status) -> String {
    let list = |items: &[String]| {
        if items.is_empty() {
            "none".to_owned()
        } else {
            items.join(", ")
        }
    };
    let stalled: Vec<String> = status.stalled_workers.iter().map(u8::to_string).collect();
    let rates = &status.rates;
    let mut text = facts(&[
        ("state", status.state.replace('_', " ")),
        ("version", status.version.clone()),
        ("instance", status.instance.clone()),
        ("generation", status.generation.to_string()),
        ("uptime", duration(status.uptime_seconds as f64)),
        ("workers", status.workers.to_string()),
        ("stalled workers", list(&stalled)),
        (
            "sessions",
            format!(
                "{} of {} ({} %)",
                status.sessions,
                status.session_capacity,
                percent(status.sessions as f64, status.session_capacity as f64)
            ),
        ),
        ("mappings", status.mappings.to_string()),
        (
            "received",
            format!("{:.0} packets/s", rates.received_packets_per_second),
        ),
        (
            "sent",
            format!("{:.0} packets/s", rates.sent_packets_per_second),
        ),
        (
            "dropped",
            format!("{:.0} packets/s", rates.dropped_packets_per_second),
        ),
        (
            "new sessions",
            format!("{:.0}/s", rates.sessions_created_per_second),
        ),
        (
            "fullest pool",
            status
                .fullest_pool
                .as_ref()
                .map_or("none".to_owned(), |(pool, share)| {
                    format!("{pool} ({:.1} %)", 100.0 * share)
                }),
        ),
        ("ports down", list(&status.ports_down)),
        ("imbalance", status.packets.imbalance.to_string()),
    ]);
    if let Some(seconds) = status.confirm_seconds {
        text.push_str(&format!(
            "the configuration before comes back in {seconds} s unless `natgate confirm` keeps this one\n"
        ));
    }
    if status.unsaved {
        text.push_str(
            "the running configuration is not saved (see `natgate diff`, `natgate save`)\n",
        );
    }
    for warning in &status.warnings {
        text.push_str(&format!("{warning}\n"));
    }
    text
}

/// `show drops`: reasons that occurred; with `explain` all of them, each with its advice.
pub fn drops(drops: &Drops, explain: bool) -> String {
    let shown = drops
        .drops
        .iter()
        .filter(|line| explain || line.packets > 0);
    if !explain {
        let rows = shown.map(|line| vec![line.reason.clone(), line.packets.to_string()]);
        return table(&["REASON", "PACKETS"], rows) + &stalled(&drops.stalled_workers);
    }
    let mut text = String::new();
    for line in shown {
        text.push_str(&format!(
            "{:<22} {:>12}  {}\n",
            line.reason, line.packets, line.advice
        ));
    }
    text + &stalled(&drops.stalled_workers)
}

/// `show counters`: one line a worker, the total, then everything that is not a packet.
pub fn counters(counters: &Counters) -> String {
    let headings = [
        "WORKER",
        "RECEIVED",
        "GENERATED",
        "HANDOFF-IN",
        "SENT",
        "CONSUMED",
        "HANDOFF-OUT",
        "DROPPED",
        "HELD",
        "HELD-BEFORE",
        "IMBALANCE",
    ];
    let row = |name: String, p: &PacketCounts| {
        let mut row = vec![name];
        let numbers = [
            p.received,
            p.generated,
            p.handoff_in,
            p.sent,
            p.consumed,
            p.handoff_out,
            p.dropped,
            p.held,
            p.held_before,
        ];
        row.extend(numbers.map(|n| n.to_string()));
        row.push(p.imbalance.to_string());
        row
    };
    let workers = counters
        .workers
        .iter()
        .map(|w| row(w.worker.to_string(), &w.packets));
    let mut text = table(
        &headings,
        workers.chain([row("total".into(), &counters.total)]),
    );
    text.push('\n');
    let gauges = &counters.gauges;
    let live: u64 = gauges.sessions.iter().map(|s| s.sessions).sum();
    let mut rows = vec![
        ("sessions".to_owned(), live),
        ("sessions_created".to_owned(), gauges.sessions_created),
    ];
    rows.extend(
        gauges
            .sessions_ended
            .iter()
            .map(|(cause, n)| (format!("sessions_ended_{cause}"), *n)),
    );
    rows.extend([
        ("mappings".to_owned(), gauges.mappings),
        ("mappings_created".to_owned(), gauges.mappings_created),
        ("tcp_disbelieved".to_owned(), gauges.tcp_disbelieved),
        (
            "expectations_refused".to_owned(),
            gauges.expectations_refused,
        ),
        ("told_apart".to_owned(), gauges.told_apart),
        ("subscribers".to_owned(), gauges.subscribers),
        ("ipv6_sessions".to_owned(), gauges.ipv6_sessions),
        ("hairpin_packets".to_owned(), gauges.hairpin_packets),
        ("icmp_errors".to_owned(), gauges.icmp_errors),
        ("icmp_suppressed".to_owned(), gauges.icmp_suppressed),
    ]);
    rows.extend(
        counters
            .total
            .drops
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(r, n)| (format!("drops_{r}"), *n)),
    );
    text += &table(
        &["COUNTER", "VALUE"],
        rows.into_iter().map(|(name, n)| vec![name, n.to_string()]),
    );
    text + &stalled(&counters.stalled_workers)
}

/// `show timeouts`.
pub fn timeouts(timeouts: &Timeouts) -> String {
    let rows = timeouts.timeouts.iter().map(|t| {
        vec![
            t.protocol.clone(),
            t.state.clone(),
            duration(t.idle_seconds),
        ]
    });
    table(&["PROTO", "STATE", "IDLE"], rows)
}

/// The answer to `explain`: a line for each stage.
pub fn explanation(e: &Explanation) -> String {
    let rule = |rule: &Option<String>| {
        rule.as_ref()
            .map_or_else(String::new, |rule| format!("  by {rule}"))
    };
    let mut lines = vec![("packet", e.packet.clone())];
    if let Some(session) = &e.session {
        lines.push(("session", format!("{session}; it goes that way")));
    }
    for stage in &e.stages {
        lines.push((&stage.stage, format!("{}{}", stage.what, rule(&stage.rule))));
    }
    let mut result = e.result.clone();
    if let Some(reason) = &e.reason {
        result.push_str(&format!(": {reason}"));
    }
    if let Some(sent_as) = &e.sent_as {
        result.push_str(&format!(" as {sent_as}"));
    }
    if e.sender_told {
        result.push_str(", the sender is told");
    }
    lines.push(("result", result));
    facts(&lines)
}

/// The answer to `save`.
pub fn saved(saved: &Saved) -> String {
    if saved.files.is_empty() {
        return "the files say it already\n".to_owned();
    }
    let written = |file: &String| format!("{file} written\n");
    saved.files.iter().map(written).collect()
}

/// The answer to `diff`.
pub fn difference(difference: &Difference) -> String {
    if difference.equal {
        return "no difference\n".to_owned();
    }
    let mut text = difference.lines.join("\n");
    text.push('\n');
    text
}

/// The answer to a change of the configuration.
pub fn reloaded(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for warning in &reloaded.warnings {
        text.push_str(&format!("{warning}\n"));
    }
    for change in &reloaded.changes {
        text.push_str(&format!("{change}\n"));
    }
    if reloaded.changes.is_empty() {
        text.push_str("nothing changed\n");
    }
    text.push_str(&format!(
        "generation {} in force on every worker after {} ms\n",
        reloaded.generation, reloaded.took_millis
    ));
    if let Some(seconds) = reloaded.confirm_seconds {
        text.push_str(&format!(
            "the configuration before comes back in {seconds} s unless `natgate confirm` keeps this one\n"
        ));
    }
    text
}

/// The answer to a `clear`.
pub fn cleared(cleared: &Cleared, of_what: &str) -> String {
    format!("{} {of_what} cleared\n", cleared.cleared) + &stalled(&cleared.stalled_workers)
}

/// A last line where workers did not answer.
pub fn stalled(workers: &[u8]) -> String {
    if workers.is_empty() {
        return String::new();
    }
    let list: Vec<String> = workers.iter().map(u8::to_string).collect();
    format!(
        "worker {} did not answer in time; what it has is missing here\n",
        list.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::{DropLine, Gauges, SessionCount, WorkerCounts};

    #[test]
    fn status_fits_a_screen_and_says_what_is_wrong() {
        let text = status(&Status {
            state: "ready".into(),
            ready: true,
            sessions: 1,
            session_capacity: 8,
            ports_down: vec!["wan".into()],
            warnings: vec!["a.toml:3: warning: timeouts.tcp: below RFC 5382 REQ-5".into()],
            ..Status::default()
        });
        assert!(text.lines().count() <= 24);
        assert!(text.contains("state            ready\n"), "{text}");
        assert!(
            text.contains("1 of 8 (12.5 %)") && text.contains("ports down       wan\n"),
            "{text}"
        );
        assert!(text.ends_with("a.toml:3: warning: timeouts.tcp: below RFC 5382 REQ-5\n"));
    }

    #[test]
    fn drops_hide_zeros_unless_they_are_to_be_explained() {
        let line = |reason: &str, packets| DropLine {
            reason: reason.into(),
            packets,
            advice: "Look there.".into(),
        };
        let report = Drops {
            drops: vec![line("no_port", 7), line("urpf", 0)],
            stalled_workers: vec![2],
            ..Drops::default()
        };
        let text = drops(&report, false);
        assert_eq!(
            text,
            "REASON   PACKETS\nno_port        7\nworker 2 did not answer in time; what it has is missing here\n"
        );
        assert!(
            drops(&report, true).contains("urpf                              0  Look there.\n")
        );
    }

    #[test]
    fn counters_show_the_books() {
        let mut packets = PacketCounts {
            received: 10,
            sent: 8,
            held: 1,
            ..PacketCounts::default()
        };
        packets.drops.insert("no_route".into(), 1);
        packets.balance();
        let report = Counters {
            total: packets.clone(),
            workers: vec![WorkerCounts { worker: 0, packets }],
            gauges: Gauges {
                sessions: vec![SessionCount {
                    protocol: "udp".into(),
                    state: "replied".into(),
                    sessions: 3,
                }],
                ..Gauges::default()
            },
            stalled_workers: vec![],
        };
        let text = counters(&report);
        let total = text.lines().nth(2).unwrap();
        let words: Vec<_> = total.split_whitespace().collect();
        assert_eq!(
            words,
            ["total", "10", "0", "0", "8", "0", "0", "1", "1", "0", "0"]
        );
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        assert_eq!(
            (value("drops_no_route "), value("sessions ")),
            (Some("1"), Some("3")),
            "{text}"
        );
    }

    #[test]
    fn changes_are_reported_in_sentences() {
        let text = reloaded(&Reloaded {
            generation: 4,
            took_millis: 3,
            ..Reloaded::default()
        });
        assert_eq!(
            text,
            "nothing changed\ngeneration 4 in force on every worker after 3 ms\n"
        );
        assert_eq!(
            cleared(
                &Cleared {
                    cleared: 2,
                    stalled_workers: vec![]
                },
                "sessions"
            ),
            "2 sessions cleared\n"
        );
    }
}
