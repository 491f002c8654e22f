//! Counters: snapshots of the workers, the moment they were cleared, and what follows from them.

use super::ask::{WorkerHandle, ask_all};
use crate::base::DropReason;
use crate::control::api::{
    Counters as CountersReport, DropLine, Drops, Gauges, PacketCounts, SessionCount, WorkerCounts,
};
use crate::dataplane::accounts::{MAX_RULES, RuleCount};
use crate::dataplane::counters::Counters;
use crate::dataplane::worker::JobContext;
use crate::flow::session::State;
use crate::nat::state::{EndCause, NatCounts};

/// What one worker had counted at one moment between two batches.
pub struct Snapshot {
    /// The worker.
    pub worker: u8,
    /// Packets.
    pub counters: Box<Counters>,
    /// Rules, by number.
    pub rules: Vec<RuleCount>,
    /// Packets held.
    pub held: u64,
    /// Live IPv6 sessions.
    pub ipv6_sessions: u64,
    /// Sessions.
    pub nat: NatCounts,
    /// Room for sessions.
    pub session_capacity: u64,
    /// Live mappings.
    pub mappings: u64,
    /// Live subscribers.
    pub subscribers: u64,
    /// Those at one of their limits, as far as they are watched.
    pub at_limit: u64,
    /// Times that one came to a limit.
    pub limits_reached: u64,
    /// Bytes of all tables.
    pub memory_bytes: u64,
}

/// Snapshots of all workers that answer, and the numbers of those that do not.
pub fn snapshots(workers: &[WorkerHandle]) -> (Vec<Snapshot>, Vec<u8>) {
    let (answers, stalled) = ask_all(workers, || {
        // Allocated here, filled there.
        let mut room = Some((Box::<Counters>::default(), Vec::with_capacity(MAX_RULES)));
        move |context: &mut JobContext<'_>| room.take().map(|room| take(context, room))
    });
    (
        answers
            .into_iter()
            .filter_map(|(_, snapshot)| snapshot)
            .collect(),
        stalled,
    )
}

fn take(
    context: &mut JobContext<'_>,
    (mut counters, mut rules): (Box<Counters>, Vec<RuleCount>),
) -> Snapshot {
    (*counters).clone_from(context.counters);
    let (v4, v6) = (&context.nat, &context.nat_v6);
    let mut nat = v4.counts.clone();
    nat.add(&v6.counts);
    context.accounts.sums(&mut rules);
    Snapshot {
        worker: context.worker.0,
        counters,
        rules,
        held: context.held,
        ipv6_sessions: v6.sessions.len() as u64,
        nat,
        session_capacity: (v4.sessions.capacity() + v6.sessions.capacity()) as u64,
        mappings: (v4.mappings.len() + v6.mappings.len()) as u64,
        subscribers: (v4.subscribers.len() + v6.subscribers.len()) as u64,
        at_limit: (v4.at_limit.len() + v6.at_limit.len()) as u64,
        limits_reached: v4.at_limit.begun() + v6.at_limit.begun(),
        memory_bytes: (v4.memory_bytes() + v6.memory_bytes()) as u64,
    }
}

impl Snapshot {
    /// The packets, since start.
    pub fn packets(&self) -> PacketCounts {
        let c = &self.counters;
        let mut counts = PacketCounts {
            received: c.received,
            sent: c.sent,
            generated: c.generated,
            consumed: c.consumed,
            handoff_in: c.handoff_in,
            handoff_out: c.handoff_out,
            held: self.held,
            held_before: 0,
            dropped: 0,
            drops: DropReason::ALL
                .iter()
                .map(|r| (r.name().to_owned(), c.drops[r.index()]))
                .collect(),
            imbalance: 0,
        };
        counts.balance();
        counts
    }

    /// Live sessions.
    pub fn sessions(&self) -> u64 {
        self.nat.live.iter().sum()
    }
}

/// The counters at the moment the operator cleared them: from then on the command line counts from 0, while workers and
/// metrics go on.
#[derive(Default)]
pub struct Baseline {
    packets: Vec<WorkerCounts>,
    rules: Vec<RuleCount>,
}

impl Baseline {
    /// Remembers this moment.
    pub fn of(snapshots: &[Snapshot]) -> Baseline {
        Baseline {
            packets: snapshots
                .iter()
                .map(|s| WorkerCounts {
                    worker: s.worker,
                    packets: s.packets(),
                })
                .collect(),
            rules: sum_rules(snapshots),
        }
    }

    /// The packets of a worker since the baseline.
    pub fn packets(&self, snapshot: &Snapshot) -> PacketCounts {
        let now = snapshot.packets();
        match self
            .packets
            .iter()
            .find(|before| before.worker == snapshot.worker)
        {
            Some(before) => now.since(&before.packets),
            None => now,
        }
    }

    /// The counts of all rules since the baseline, by rule number.
    pub fn rules(&self, snapshots: &[Snapshot]) -> Vec<RuleCount> {
        let mut rules = sum_rules(snapshots);
        for (now, before) in rules.iter_mut().zip(&self.rules) {
            now.hits = now.hits.saturating_sub(before.hits);
            now.packets = now.packets.saturating_sub(before.packets);
            now.bytes = now.bytes.saturating_sub(before.bytes);
        }
        rules
    }
}

fn sum_rules(snapshots: &[Snapshot]) -> Vec<RuleCount> {
    let mut sum: Vec<RuleCount> = Vec::new();
    for snapshot in snapshots {
        let rules = &snapshot.rules;
        sum.resize(sum.len().max(rules.len()), RuleCount::default());
        sum.iter_mut()
            .zip(rules)
            .for_each(|(sum, rule)| sum.add(rule));
    }
    sum
}

/// All counters since the baseline.
pub fn counters(snapshots: &[Snapshot], stalled: Vec<u8>, baseline: &Baseline) -> CountersReport {
    let workers: Vec<WorkerCounts> = snapshots
        .iter()
        .map(|s| WorkerCounts {
            worker: s.worker,
            packets: baseline.packets(s),
        })
        .collect();
    let mut total = PacketCounts {
        drops: DropReason::ALL
            .iter()
            .map(|r| (r.name().to_owned(), 0))
            .collect(),
        ..PacketCounts::default()
    };
    workers.iter().for_each(|w| total.add(&w.packets));
    CountersReport {
        total,
        workers,
        gauges: gauges(snapshots),
        stalled_workers: stalled,
    }
}

fn gauges(snapshots: &[Snapshot]) -> Gauges {
    let sum = |of: fn(&Snapshot) -> u64| snapshots.iter().map(of).sum::<u64>();
    let ended = |cause: EndCause| snapshots.iter().map(|s| s.nat.ended[cause as usize]).sum();
    let live = |state: State| SessionCount {
        protocol: protocol_of(state).to_owned(),
        state: state.name().to_owned(),
        sessions: snapshots.iter().map(|s| s.nat.live[state as usize]).sum(),
    };
    Gauges {
        sessions: State::LIVE.map(live).to_vec(),
        sessions_created: sum(|s| s.nat.created),
        sessions_ended: EndCause::ALL
            .iter()
            .map(|&c| (c.name().to_owned(), ended(c)))
            .collect(),
        mappings: sum(|s| s.mappings),
        mappings_created: sum(|s| s.nat.mappings_created),
        tcp_disbelieved: sum(|s| s.nat.tcp_disbelieved),
        expectations_refused: sum(|s| s.nat.expectations_refused),
        told_apart: sum(|s| s.nat.told_apart),
        subscribers: sum(|s| s.subscribers),
        subscribers_at_limit: sum(|s| s.at_limit),
        limits_reached: sum(|s| s.limits_reached),
        ipv6_sessions: sum(|s| s.ipv6_sessions),
        hairpin_packets: sum(|s| s.counters.looped),
        icmp_errors: sum(|s| s.counters.icmp_errors),
        icmp_suppressed: sum(|s| s.counters.icmp_suppressed),
    }
}

/// The protocol whose sessions can be in a state.
pub fn protocol_of(state: State) -> &'static str {
    match state {
        State::UdpUnreplied | State::Udp => "udp",
        State::Icmp => "icmp",
        State::SctpOpening | State::SctpEstablished | State::SctpClosing => "sctp",
        State::Free | State::Other | State::Expected => "other",
        State::TcpOpening
        | State::TcpAnswered
        | State::TcpEstablished
        | State::TcpClientFin
        | State::TcpServerFin
        | State::TcpClosing
        | State::TcpReset => "tcp",
    }
}

/// The drops of a counter report, most frequent first, then by name.
pub fn drops(counters: CountersReport) -> Drops {
    let line = |reason: &DropReason| DropLine {
        reason: reason.name().to_owned(),
        packets: counters
            .total
            .drops
            .get(reason.name())
            .copied()
            .unwrap_or(0),
        advice: reason.advice().to_owned(),
    };
    let mut drops: Vec<DropLine> = DropReason::ALL.iter().map(line).collect();
    drops.sort_by(|a, b| {
        b.packets
            .cmp(&a.packets)
            .then_with(|| a.reason.cmp(&b.reason))
    });
    Drops {
        drops,
        total: counters.total,
        workers: counters.workers,
        stalled_workers: counters.stalled_workers,
    }
}
