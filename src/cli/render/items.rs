//! Columns of the listings.

use super::{duration, moment, percent};
use crate::control::api::{
    Endpoint, Exempt, FilterRule, Item, LeaseView, Listing, LogSink, Pool, PoolPorts, Queue, Rule,
    ServiceBackend, Session, Worker,
};

/// The headings of a listing. `verbose` adds columns at the end.
pub fn headings(listing: Listing, verbose: bool) -> Vec<&'static str> {
    let (always, more): (&[&str], &[&str]) = match listing {
        Listing::Ports => (
            &[
                "PORT",
                "DEVICE",
                "LINK",
                "MBPS",
                "MTU",
                "QUEUES",
                "RX-PACKETS",
                "RX-BYTES",
                "TX-PACKETS",
                "TX-BYTES",
                "MISSED",
                "ERRORS",
            ],
            &["MAC", "NO-BUFFER", "TX-ERRORS"],
        ),
        Listing::Queues => (
            &[
                "PORT",
                "DIRECTION",
                "QUEUE",
                "WORKER",
                "PACKETS",
                "BURSTS",
                "FILL",
                "REFUSED",
            ],
            &[],
        ),
        Listing::Log => (
            &[
                "SINK",
                "STATE",
                "EMITTED",
                "DELIVERED",
                "QUEUED",
                "DROPPED",
                "LAST-ERROR",
            ],
            &[],
        ),
        Listing::Interfaces => (
            &[
                "INTERFACE",
                "PORT",
                "VLAN",
                "LINK",
                "MTU",
                "MAC",
                "ADDRESSES",
                "LEASE",
            ],
            &["REALM"],
        ),
        Listing::Routes => (
            &["PREFIX", "VIA", "INTERFACE", "KIND", "USABLE"],
            &["REALM"],
        ),
        Listing::Neighbors => (
            &["ADDRESS", "INTERFACE", "MAC", "STATE", "IDLE"],
            &["WORKER"],
        ),
        Listing::Workers => (
            &[
                "WORKER",
                "CORE",
                "STATE",
                "BUSY%",
                "BATCH",
                "SESSIONS",
                "FULL%",
                "RECEIVED",
                "HANDOFF-IN",
                "HANDOFF-OUT",
                "HEARTBEAT",
            ],
            &["LOOPS", "POLICY", "MAPPINGS", "MEMORY"],
        ),
        Listing::Pools => (
            &[
                "POOL",
                "ADDRESSES",
                "SELECT",
                "MAPPING",
                "FILTERING",
                "BLOCK",
                "BLOCKS-USED",
                "BLOCKS",
                "PEAK",
                "TCP-USED",
                "UDP-USED",
                "ICMP-USED",
                "SCTP-USED",
                "PORTS",
                "USED%",
                "REFUSED",
            ],
            &[
                "HOLD",
                "PORTS-PEAK",
                "CREATED",
                "DRAINING",
                "DRAINED",
                "ALARM",
                "ALARMS",
            ],
        ),
        Listing::Blocks => (
            &["POOL", "ADDRESS", "PORTS", "SUBSCRIBER", "USED", "WORKER"],
            &[],
        ),
        Listing::Subscribers => (
            &[
                "SUBSCRIBER",
                "SESSIONS",
                "HALF-OPEN",
                "BLOCKS",
                "OUTSIDE",
                "WORKER",
            ],
            &["REALM"],
        ),
        Listing::Mappings => (
            &["PROTO", "INSIDE", "OUTSIDE", "POOL", "SESSIONS", "WORKER"],
            &["REALM"],
        ),
        Listing::Sessions => (
            &[
                "PROTO",
                "STATE",
                "SOURCE",
                "DESTINATION",
                "TRANSLATED-SOURCE",
                "TRANSLATED-DESTINATION",
                "IDLE",
                "LEFT",
                "IN",
                "RULE",
            ],
            &[
                "REPLY-SOURCE",
                "REPLY-DESTINATION",
                "REPLY-TRANSLATED-SOURCE",
                "REPLY-TRANSLATED-DESTINATION",
                "POOL",
                "FILTER",
                "WORKER",
                "REALM",
                "FAR-REALM",
            ],
        ),
        Listing::Exempt => (
            &[
                "#", "NAME", "IN", "SRC", "DST", "VIA", "HITS", "PACKETS", "BYTES", "ORIGIN",
                "STATE",
            ],
            &[],
        ),
        Listing::SourceNat | Listing::StaticNat | Listing::PortForwards => (
            &[
                "INDEX", "NAME", "IN", "OUT", "SRC", "DST", "PROTO", "VIA", "PORTS", "HITS",
                "PACKETS", "BYTES",
            ],
            &["ORIGIN"],
        ),
        Listing::Services => (
            &[
                "SERVICE", "ADDRESS", "PROTO", "PORT", "LB", "BACKEND", "SOURCE", "WEIGHT",
                "STATE", "SESSIONS", "HITS", "PACKETS", "BYTES",
            ],
            &["HASH"],
        ),
        Listing::Filter => (
            &[
                "INDEX",
                "PACKETS",
                "BYTES",
                "HITS",
                "IN",
                "OUT",
                "SRC",
                "DST",
                "PROTO",
                "SPORT",
                "DPORT",
                "ORIG-DST",
                "ORIG-DPORT",
                "ICMP-TYPE",
                "STATE",
                "ACTION",
                "NAME",
            ],
            &["ORIGIN"],
        ),
        Listing::History => (&["GENERATION", "TIME", "HASH", "CAUSE", "SUMMARY"], &[]),
    };
    let more = if verbose { more } else { &[] };
    always.iter().chain(more).copied().collect()
}

/// The cells of an object, as many as its listing has headings.
pub fn cells(item: &Item, verbose: bool) -> Vec<String> {
    let (mut cells, more) = match item {
        Item::Port(p) => (
            vec![
                p.port.clone(),
                p.device.clone(),
                up(p.link_up),
                optional(p.speed_mbps),
                p.mtu_bytes.to_string(),
                format!("{}/{}", p.rx_queues, p.tx_queues),
                p.rx_packets.to_string(),
                p.rx_bytes.to_string(),
                p.tx_packets.to_string(),
                p.tx_bytes.to_string(),
                p.rx_missed.to_string(),
                p.rx_errors.to_string(),
            ],
            vec![
                p.mac.clone(),
                p.rx_nombuf.to_string(),
                p.tx_errors.to_string(),
            ],
        ),
        Item::Queue(q) => (queue(q), vec![]),
        Item::LogSink(s) => (log_sink(s), vec![]),
        Item::Interface(i) => (
            vec![
                i.interface.clone(),
                i.port.clone(),
                optional(i.vlan),
                up(i.up),
                i.mtu_bytes.to_string(),
                i.mac.clone(),
                i.addresses.join(","),
                optional(i.lease.as_ref().map(LeaseView::words)),
            ],
            vec![i.realm.clone()],
        ),
        Item::Route(r) => (
            vec![
                r.prefix.clone(),
                optional(r.via.as_ref()),
                r.interface.clone(),
                r.kind.clone(),
                yes(r.usable),
            ],
            vec![r.realm.clone()],
        ),
        Item::Neighbor(n) => (
            vec![
                n.address.clone(),
                n.interface.clone(),
                optional(n.mac.as_ref()),
                n.state.clone(),
                optional(n.idle_seconds.map(duration)),
            ],
            vec![n.worker.to_string()],
        ),
        Item::Worker(w) => worker(w),
        Item::Pool(p) => pool(p),
        Item::Block(b) => (
            vec![
                b.pool.clone(),
                b.address.clone(),
                format!("{}-{}", b.first_port, b.last_port),
                optional(b.subscriber.as_ref()),
                b.ports_in_use.to_string(),
                b.worker.to_string(),
            ],
            vec![],
        ),
        Item::Subscriber(s) => (
            vec![
                s.subscriber.clone(),
                s.sessions.to_string(),
                s.half_open.to_string(),
                s.blocks.to_string(),
                optional(s.outside.as_ref()),
                s.worker.to_string(),
            ],
            vec![s.realm.clone()],
        ),
        Item::Mapping(m) => (
            vec![
                m.protocol.clone(),
                m.inside.to_string(),
                m.outside.to_string(),
                optional(m.pool.as_ref()),
                m.sessions.to_string(),
                m.worker.to_string(),
            ],
            vec![m.realm.clone()],
        ),
        Item::Session(s) => session(s),
        Item::Exempt(e) => (exempt(e), vec![]),
        Item::Rule(r) => (rule(r), vec![r.origin.clone()]),
        Item::Service(s) => (service(s), vec![s.hash.clone()]),
        Item::FilterRule(r) => (filter_rule(r), vec![r.origin.clone()]),
        Item::History(h) => (
            vec![
                h.generation.to_string(),
                moment(h.published_unix_seconds),
                h.hash.clone(),
                h.cause.clone(),
                h.summary.clone(),
            ],
            vec![],
        ),
    };
    if verbose {
        cells.extend(more);
    }
    cells
}

fn worker(w: &Worker) -> (Vec<String>, Vec<String>) {
    let always = vec![
        w.worker.to_string(),
        optional(w.core),
        w.state.clone(),
        format!("{:.1}", 100.0 * w.busy_ratio),
        format!("{:.1}", w.batch_fill),
        w.sessions.to_string(),
        percent(w.sessions as f64, w.session_capacity as f64),
        w.received.to_string(),
        w.handoff_in.to_string(),
        w.handoff_out.to_string(),
        format!("{:.3}s", w.heartbeat_age_seconds),
    ];
    let more = [w.loops, w.policy_version, w.mappings, w.memory_bytes];
    (always, more.map(|n| n.to_string()).to_vec())
}

fn log_sink(s: &LogSink) -> Vec<String> {
    let counts = [s.emitted, s.delivered, s.queued, s.dropped].map(|n| n.to_string());
    let mut columns = vec![s.sink.clone(), s.state.clone()];
    columns.extend(counts);
    columns.push(s.last_error.clone().unwrap_or_default());
    columns
}

fn queue(q: &Queue) -> Vec<String> {
    vec![
        q.port.clone(),
        q.direction.clone(),
        q.queue.to_string(),
        q.worker.to_string(),
        q.packets.to_string(),
        q.bursts.to_string(),
        match q.bursts {
            0 => String::new(),
            bursts => format!("{:.1}", q.packets as f64 / bursts as f64),
        },
        q.refused.to_string(),
    ]
}

fn pool(p: &Pool) -> (Vec<String>, Vec<String>) {
    let of = |protocol: &str| p.ports.iter().find(|ports| ports.protocol == protocol);
    let used = |protocol: &str| of(protocol).map_or(0, |ports| ports.in_use).to_string();
    // The fullest protocol is the one that will run out.
    let fullest = p
        .ports
        .iter()
        .max_by(|a, b| (a.in_use * b.total).cmp(&(b.in_use * a.total)));
    let sum = |what: fn(&PoolPorts) -> u64| p.ports.iter().map(what).sum::<u64>().to_string();
    let total = of("tcp").or(p.ports.first()).map_or(0, |ports| ports.total);
    let always = vec![
        p.pool.clone(),
        p.addresses.join(","),
        p.select.clone(),
        p.mapping.clone(),
        p.filtering.clone(),
        optional(p.block_size),
        p.blocks_in_use.to_string(),
        p.blocks_total.to_string(),
        p.blocks_high_water.to_string(),
        used("tcp"),
        used("udp"),
        used("icmp"),
        used("sctp"),
        total.to_string(),
        fullest.map_or("-".into(), |ports| {
            percent(ports.in_use as f64, ports.total as f64)
        }),
        sum(|ports| ports.refused.values().sum()),
    ];
    let listed = |addresses: &[String]| match addresses {
        [] => "-".to_owned(),
        some => some.join(","),
    };
    let more = vec![
        sum(|ports| ports.hold),
        sum(|ports| ports.high_water),
        sum(|ports| ports.created),
        listed(&p.draining),
        listed(&p.drained),
        yes(p.alarm),
        p.alarms.to_string(),
    ];
    (always, more)
}

fn session(s: &Session) -> (Vec<String>, Vec<String>) {
    let always = vec![
        s.protocol.clone(),
        s.state.clone(),
        s.forward.source.to_string(),
        s.forward.destination.to_string(),
        s.forward.translated_source.to_string(),
        s.forward.translated_destination.to_string(),
        duration(s.idle_seconds),
        duration(s.remaining_seconds),
        s.interface.clone(),
        optional(s.rule.as_ref()),
    ];
    let reply = [
        s.reverse.source,
        s.reverse.destination,
        s.reverse.translated_source,
        s.reverse.translated_destination,
    ];
    let mut more: Vec<String> = reply.iter().map(Endpoint::to_string).collect();
    more.extend([
        optional(s.pool.as_ref()),
        optional(s.filter.as_ref()),
        s.worker.to_string(),
        s.realm.clone(),
        s.far_realm.clone(),
    ]);
    (always, more)
}

fn exempt(e: &Exempt) -> Vec<String> {
    vec![
        e.index.to_string(),
        e.name.clone(),
        e.ingress.clone(),
        e.src.clone(),
        e.dst.clone(),
        e.via.clone(),
        e.hits.to_string(),
        e.packets.to_string(),
        e.bytes.to_string(),
        e.origin.clone(),
        e.state.clone(),
    ]
}

fn rule(r: &Rule) -> Vec<String> {
    vec![
        r.index.to_string(),
        r.name.clone(),
        r.ingress.clone(),
        r.egress.clone(),
        r.src.clone(),
        r.dst.clone(),
        r.proto.clone(),
        r.via.clone(),
        r.ports.clone(),
        r.hits.to_string(),
        r.packets.to_string(),
        r.bytes.to_string(),
    ]
}

fn service(s: &ServiceBackend) -> Vec<String> {
    vec![
        s.service.clone(),
        s.address.clone(),
        s.proto.clone(),
        s.port
            .map_or_else(|| "any".to_owned(), |port| port.to_string()),
        s.lb.clone(),
        s.backend.clone(),
        s.source.clone(),
        s.weight.to_string(),
        s.state.clone(),
        optional(s.sessions),
        s.hits.to_string(),
        s.packets.to_string(),
        s.bytes.to_string(),
    ]
}

fn filter_rule(r: &FilterRule) -> Vec<String> {
    vec![
        r.index.to_string(),
        r.packets.to_string(),
        r.bytes.to_string(),
        r.hits.to_string(),
        r.ingress.clone(),
        r.egress.clone(),
        r.src.clone(),
        r.dst.clone(),
        r.proto.clone(),
        r.sport.clone(),
        r.dport.clone(),
        r.orig_dst.clone(),
        r.orig_dport.clone(),
        r.icmp_type.clone(),
        r.state.clone(),
        r.action.clone(),
        r.name.clone(),
    ]
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn up(up: bool) -> String {
    if up { "up" } else { "down" }.into()
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

#[cfg(test)]
mod tests;
