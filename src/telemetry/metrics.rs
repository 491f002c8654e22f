//! The metrics: one [`Scrape`] rendered as Prometheus text.
//!
//! Names begin with `natgate_`, units are base units, counters end in `_total`. Labels have few values each: ports, workers,
//! pools, protocols, states, reasons; never an address of a subscriber. Every value of a fixed list is always present, so that
//! an alert can be written before the first drop.

mod leases;
mod log;

use crate::control::api::{ExemptFileState, Pool, PoolPorts, ServiceBackend, Worker};
use crate::control::backend::Scrape;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Registry, TextEncoder};
use std::collections::BTreeMap;

/// The scrape as text in the exposition format.
///
/// # Errors
/// When two metrics collide, which a test excludes.
pub fn text(scrape: &Scrape) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(Page {
        families: families(scrape),
    }))?;
    let mut out = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// A collector that has its answer already.
struct Page {
    families: Vec<MetricFamily>,
}

impl Collector for Page {
    fn desc(&self) -> Vec<&Desc> {
        // Undescribed: the families are complete as they are, and the registry lives for one scrape.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families.clone()
    }
}

/// A value with its labels.
type Sample<'a> = (Vec<(&'a str, String)>, f64);

/// Collects families.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        self.add(name, help, MetricType::COUNTER, samples);
    }

    fn gauge<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
        self.add(name, help, MetricType::GAUGE, samples);
    }

    fn add<'a>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        let metrics: Vec<Metric> = samples
            .into_iter()
            .map(|(labels, value)| metric(kind, labels, value))
            .collect();
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(format!("natgate_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn metric(kind: MetricType, labels: Vec<(&str, String)>, value: f64) -> Metric {
    let pair = |(name, value): (&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    let mut metric = Metric::from_label(labels.into_iter().map(pair).collect());
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

/// One value without labels.
fn plain<'a>(value: f64) -> [Sample<'a>; 1] {
    [(Vec::new(), value)]
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn families(scrape: &Scrape) -> Vec<MetricFamily> {
    let mut out = Families::default();
    process(&mut out, scrape);
    ports(&mut out, scrape);
    queues(&mut out, scrape);
    packets(&mut out, scrape);
    workers(&mut out, &scrape.workers);
    sessions(&mut out, scrape);
    mappings(&mut out, scrape);
    pools(&mut out, &scrape.pools);
    services(&mut out, &scrape.services);
    exempt_files(&mut out, &scrape.exempt_files);
    leases::families(&mut out, &scrape.leases);
    log::log(&mut out, &scrape.log_sinks);
    out.0
}

fn services(out: &mut Families, backends: &[ServiceBackend]) {
    let labels = |b: &ServiceBackend| {
        vec![
            ("service", b.service.clone()),
            ("backend", b.backend.clone()),
        ]
    };
    let listed = || backends.iter().filter(|b| !b.backend.is_empty());
    let each = |value: fn(&ServiceBackend) -> f64| -> Vec<Sample<'_>> {
        listed().map(|b| (labels(b), value(b))).collect()
    };
    out.gauge(
        "service_backend_active",
        "1 while a backend takes new flows.",
        each(|b| flag(b.state == "active")),
    );
    out.counter(
        "service_sessions_created_total",
        "Sessions created to a backend.",
        each(|b| b.hits as f64),
    );
    out.counter(
        "service_packets_total",
        "Packets of a backend's sessions, both directions.",
        each(|b| b.packets as f64),
    );
    out.counter(
        "service_bytes_total",
        "Bytes of a backend's sessions, both directions, from the IP header on.",
        each(|b| b.bytes as f64),
    );
}

fn process(out: &mut Families, scrape: &Scrape) {
    let status = &scrape.status;
    let build = vec![
        ("version", status.version.clone()),
        ("dpdk", scrape.dpdk_version.clone()),
    ];
    out.gauge(
        "build_info",
        "Versions; the value is always 1.",
        [(build, 1.0)],
    );
    out.gauge(
        "start_time_seconds",
        "Start of the process, seconds since 1970.",
        plain(status.start_unix_seconds as f64),
    );
    out.gauge(
        "ready",
        "1 while every worker runs and uses the current policy.",
        plain(flag(status.ready)),
    );
    out.gauge(
        "config_generation",
        "Number of the configuration in force.",
        plain(f64::from(status.generation)),
    );
    out.gauge(
        "config_unsaved",
        "1 while the running configuration is not the one a restart would read.",
        plain(flag(status.unsaved)),
    );
    out.gauge(
        "config_confirm_remaining_seconds",
        "Seconds until the configuration before comes back unless this one is confirmed; 0 if none waits.",
        plain(status.confirm_seconds.unwrap_or(0) as f64),
    );
    let reloads = [
        ("applied", scrape.reloads_applied),
        ("refused", scrape.reloads_refused),
    ];
    let reloads = reloads.map(|(result, n)| (vec![("result", result.to_owned())], n as f64));
    out.counter("config_reloads_total", "Reloads by result.", reloads);
}

fn ports(out: &mut Families, scrape: &Scrape) {
    let ports = &scrape.ports;
    let port = |name: &str| vec![("port", name.to_owned())];
    let directed = |name: &str, direction: &str| {
        vec![
            ("port", name.to_owned()),
            ("direction", direction.to_owned()),
        ]
    };
    let packets = ports.iter().flat_map(|p| {
        [
            (directed(&p.port, "rx"), p.rx_packets as f64),
            (directed(&p.port, "tx"), p.tx_packets as f64),
        ]
    });
    out.counter(
        "packets_total",
        "Packets of a port, as the device counts them.",
        packets,
    );
    let bytes = ports.iter().flat_map(|p| {
        [
            (directed(&p.port, "rx"), p.rx_bytes as f64),
            (directed(&p.port, "tx"), p.tx_bytes as f64),
        ]
    });
    out.counter(
        "bytes_total",
        "Bytes of a port, as the device counts them.",
        bytes,
    );
    let errors = ports.iter().flat_map(|p| {
        [
            (directed(&p.port, "rx"), p.rx_errors as f64),
            (directed(&p.port, "tx"), p.tx_errors as f64),
        ]
    });
    out.counter(
        "port_errors_total",
        "Packets received with an error, or that the device could not send.",
        errors,
    );
    let missed = ports.iter().map(|p| (port(&p.port), p.rx_missed as f64));
    out.counter(
        "rx_missed_total",
        "Packets the device dropped because the workers were late.",
        missed,
    );
    let nombuf = ports.iter().map(|p| (port(&p.port), p.rx_nombuf as f64));
    out.counter(
        "rx_nombuf_total",
        "Packets lost because no buffer was free.",
        nombuf,
    );
    let link = ports.iter().map(|p| (port(&p.port), flag(p.link_up)));
    out.gauge("link_up", "1 while the port carries packets.", link);
    let queues = ports.iter().flat_map(|p| {
        [
            (directed(&p.port, "rx"), p.rx_queues.into()),
            (directed(&p.port, "tx"), p.tx_queues.into()),
        ]
    });
    out.gauge("port_queues", "Queues of a port in use.", queues);
}

fn queues(out: &mut Families, scrape: &Scrape) {
    // Workers that share a queue are added up.
    let mut sums: BTreeMap<(&str, &str, u16), [u64; 3]> = BTreeMap::new();
    for q in &scrape.queues {
        let sum = sums.entry((&q.port, &q.direction, q.queue)).or_default();
        for (sum, n) in sum.iter_mut().zip([q.packets, q.bursts, q.refused]) {
            *sum += n;
        }
    }
    let each = |which: usize| {
        sums.iter().map(move |(&(port, direction, queue), sum)| {
            let labels = vec![
                ("port", port.to_owned()),
                ("direction", direction.to_owned()),
                ("queue", queue.to_string()),
            ];
            (labels, sum[which] as f64)
        })
    };
    out.counter(
        "queue_packets_total",
        "Packets of a queue, as the workers count them.",
        each(0),
    );
    out.counter(
        "queue_bursts_total",
        "Bursts received or sent; packets by bursts is how full they were.",
        each(1),
    );
    out.counter(
        "queue_refused_total",
        "Packets dropped because the queue was full twice.",
        each(2),
    );
}

fn packets(out: &mut Families, scrape: &Scrape) {
    let counters = &scrape.counters;
    let total = &counters.total;
    let reasons = total
        .drops
        .iter()
        .map(|(reason, n)| (vec![("reason", reason.clone())], *n as f64));
    out.counter(
        "drops_total",
        "Packets dropped, each for exactly one reason.",
        reasons,
    );
    let worker = |worker: u8| vec![("worker", worker.to_string())];
    let fates = counters.workers.iter().flat_map(|w| {
        let p = &w.packets;
        let fates = [
            ("received", p.received),
            ("generated", p.generated),
            ("sent", p.sent),
            ("consumed", p.consumed),
            ("dropped", p.dropped),
        ];
        fates.map(|(fate, n)| {
            (
                vec![("worker", w.worker.to_string()), ("fate", fate.to_owned())],
                n as f64,
            )
        })
    });
    out.counter(
        "worker_packets_total",
        "Packets of a worker by what became of them.",
        fates,
    );
    let held = counters
        .workers
        .iter()
        .map(|w| (worker(w.worker), w.packets.held as f64));
    out.gauge(
        "held_packets",
        "Packets waiting for a neighbour, a first fragment or a transmit queue.",
        held,
    );
    let errors = counters
        .workers
        .iter()
        .map(|w| (worker(w.worker), w.packets.imbalance as f64));
    out.gauge(
        "conservation_error_packets",
        "Packets in minus packets out; 0 unless natgate has an error.",
        errors,
    );
    let gauges = &counters.gauges;
    let icmp = [
        ("sent", gauges.icmp_errors),
        ("suppressed", gauges.icmp_suppressed),
    ];
    let icmp = icmp.map(|(result, n)| (vec![("result", result.to_owned())], n as f64));
    out.counter(
        "icmp_generated_total",
        "ICMP errors of the gateway's own, sent or suppressed by the rate limit.",
        icmp,
    );
    out.gauge(
        "ipv6_sessions",
        "Live IPv6 sessions, which are counted among all sessions, too.",
        plain(gauges.ipv6_sessions as f64),
    );
    out.counter(
        "hairpin_packets_total",
        "Packets that went through the translator twice.",
        plain(gauges.hairpin_packets as f64),
    );
}

fn workers(out: &mut Families, workers: &[Worker]) {
    let each = |value: fn(&Worker) -> f64| {
        workers
            .iter()
            .map(move |w| (vec![("worker", w.worker.to_string())], value(w)))
    };
    out.gauge(
        "worker_busy_ratio",
        "Share of time spent on packets, 0 to 1.",
        each(|w| w.busy_ratio),
    );
    out.gauge(
        "worker_heartbeat_age_seconds",
        "Time since the worker's last loop.",
        each(|w| w.heartbeat_age_seconds),
    );
    out.gauge(
        "worker_batch_fill_packets",
        "Packets in a received burst, on average.",
        each(|w| w.batch_fill),
    );
    out.counter("worker_loops_total", "Loops run.", each(|w| w.loops as f64));
    out.gauge(
        "worker_table_bytes",
        "Memory of the worker's tables.",
        each(|w| w.memory_bytes as f64),
    );
    let handoffs = workers.iter().flat_map(|w| {
        let both = [("taken", w.handoff_in), ("handed", w.handoff_out)];
        both.map(|(result, n)| {
            (
                vec![
                    ("worker", w.worker.to_string()),
                    ("result", result.to_owned()),
                ],
                n as f64,
            )
        })
    });
    out.counter(
        "handoffs_total",
        "Packets taken over from, or handed to, other workers.",
        handoffs,
    );
    out.gauge(
        "session_table_capacity",
        "Room for sessions.",
        each(|w| w.session_capacity as f64),
    );
}

fn sessions(out: &mut Families, scrape: &Scrape) {
    let gauges = &scrape.counters.gauges;
    let live = gauges.sessions.iter().map(|s| {
        (
            vec![("proto", s.protocol.clone()), ("state", s.state.clone())],
            s.sessions as f64,
        )
    });
    out.gauge("sessions", "Live sessions.", live);
    out.counter(
        "session_setups_total",
        "Sessions created.",
        plain(gauges.sessions_created as f64),
    );
    let ended = gauges
        .sessions_ended
        .iter()
        .map(|(cause, n)| (vec![("cause", cause.clone())], *n as f64));
    out.counter("sessions_ended_total", "Sessions ended, by cause.", ended);
    out.counter(
        "tcp_disbelieved_total",
        "TCP segments that would have changed a session's state, but do not lie where its connection is.",
        plain(gauges.tcp_disbelieved as f64),
    );
    out.counter(
        "expectations_refused_total",
        "Flows that a helper wanted to expect, and that were refused as new flows of the host are.",
        plain(gauges.expectations_refused as f64),
    );
    out.counter(
        "told_apart_total",
        "Flows that got another source port, because their answers would have been those of a living flow.",
        plain(gauges.told_apart as f64),
    );
    out.gauge(
        "subscribers",
        "Inside hosts known.",
        plain(gauges.subscribers as f64),
    );
    out.gauge(
        "subscribers_at_limit",
        "Inside hosts a flow was refused for one of their limits in the last half minute, at most 256 for each worker.",
        plain(gauges.subscribers_at_limit as f64),
    );
    out.counter(
        "subscriber_limits_reached_total",
        "Times an inside host came to one of its limits.",
        plain(gauges.limits_reached as f64),
    );
}

fn exempt_files(out: &mut Families, files: &[ExemptFileState]) {
    let each = |value: fn(&ExemptFileState) -> f64| {
        files
            .iter()
            .map(move |f| (vec![("exempt", f.exempt.clone())], value(f)))
    };
    out.gauge(
        "exempt_file_stale",
        "1 while the file of an exemption cannot be used and the last good list stays in force.",
        each(|f| flag(f.stale_since_unix_seconds.is_some())),
    );
    out.gauge(
        "exempt_file_good_time_seconds",
        "When the file of an exemption was last read and found good, seconds since 1970; 0 if never.",
        each(|f| f.good_since_unix_seconds.unwrap_or(0) as f64),
    );
    out.counter(
        "exempt_file_config_errors_total",
        "Readings of the file of an exemption that found it unusable.",
        each(|f| f.errors as f64),
    );
}

fn mappings(out: &mut Families, scrape: &Scrape) {
    let labels = |pool: &str, ports: &PoolPorts| {
        vec![("pool", pool.to_owned()), ("proto", ports.protocol.clone())]
    };
    let pooled = || {
        let pools = scrape.pools.iter();
        pools.flat_map(|pool| pool.ports.iter().map(|ports| (pool.pool.as_str(), ports)))
    };
    let draining = scrape.draining.iter().map(|ports| ("", ports));
    let live = pooled().chain(draining);
    out.gauge(
        "mappings",
        "Outside ports with live mappings, which are as many mappings where ports are not shared; without a pool where their address was taken out of it.",
        live.map(|(pool, ports)| (labels(pool, ports), ports.in_use as f64)),
    );
    out.counter(
        "mapping_creations_total",
        "Mappings a pool gave a port to.",
        pooled().map(|(pool, ports)| (labels(pool, ports), ports.created as f64)),
    );
    let failures = pooled().flat_map(|(pool, ports)| {
        ports.refused.iter().map(move |(reason, n)| {
            let mut labels = labels(pool, ports);
            labels.push(("reason", reason.clone()));
            (labels, *n as f64)
        })
    });
    out.counter(
        "mapping_failures_total",
        "Mappings a pool refused a port, by reason.",
        failures,
    );
}

fn pools(out: &mut Families, pools: &[Pool]) {
    let ports = pools.iter().flat_map(|pool| {
        pool.ports.iter().flat_map(move |p| {
            let free = p.total.saturating_sub(p.in_use + p.hold);
            [("free", free), ("in_use", p.in_use), ("hold", p.hold)].map(|(state, n)| {
                let labels = vec![
                    ("pool", pool.pool.clone()),
                    ("proto", p.protocol.clone()),
                    ("state", state.to_owned()),
                ];
                (labels, n as f64)
            })
        })
    });
    out.gauge("pool_ports", "Outside ports of a pool.", ports);
    let addresses = pools.iter().flat_map(|pool| {
        [
            ("active", pool.addresses_active),
            ("draining", pool.addresses_draining),
            ("quarantined", pool.addresses_quarantined),
        ]
        .map(|(state, n)| {
            let labels = vec![("pool", pool.pool.clone()), ("state", state.to_owned())];
            (labels, n as f64)
        })
    });
    out.gauge("pool_addresses", "Outside addresses of a pool.", addresses);
    let peaks = pools.iter().flat_map(|pool| {
        let labels =
            move |proto: &str| vec![("pool", pool.pool.clone()), ("proto", proto.to_owned())];
        pool.ports
            .iter()
            .map(move |p| (labels(&p.protocol), p.high_water as f64))
    });
    out.gauge(
        "pool_ports_high_water",
        "The most ports of a pool in use at a time, summed over its addresses.",
        peaks,
    );
    let of = |value: fn(&Pool) -> f64| {
        let labels = |pool: &Pool| vec![("pool", pool.pool.clone())];
        pools.iter().map(move |pool| (labels(pool), value(pool)))
    };
    out.gauge(
        "pool_alarm",
        "Whether a pool is nearly used up: 1 from alarm_high percent on until below alarm_low.",
        of(|pool| f64::from(u8::from(pool.alarm))),
    );
    out.counter(
        "pool_alarms_total",
        "Times a pool was nearly used up.",
        of(|pool| pool.alarms as f64),
    );
    let with_blocks = || pools.iter().filter(|pool| pool.block_size.is_some());
    let blocks = with_blocks().flat_map(|pool| {
        let free = pool.blocks_total.saturating_sub(pool.blocks_in_use);
        [("free", free), ("in_use", pool.blocks_in_use)].map(|(state, n)| {
            (
                vec![("pool", pool.pool.clone()), ("state", state.to_owned())],
                n as f64,
            )
        })
    });
    out.gauge("pool_blocks", "Port blocks of a pool.", blocks);
    let peaks = with_blocks().map(|pool| {
        (
            vec![("pool", pool.pool.clone())],
            pool.blocks_high_water as f64,
        )
    });
    out.gauge(
        "pool_blocks_high_water",
        "The most blocks of a pool in use at a time, summed over its addresses.",
        peaks,
    );
}
