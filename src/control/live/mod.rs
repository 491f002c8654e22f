//! A running gateway behind the [`Backend`] trait.
//!
//! | question | answered from |
//! |---|---|
//! | sessions, mappings, subscribers, neighbours, counters | jobs on the workers ([`ask`], [`tables`], [`counts`]) |
//! | interfaces, routes, pools, blocks | the published policy ([`objects`]) |
//! | ports | the devices |
//! | rules, timeouts, configuration | what was loaded, with the workers' counts |
//!
//! Changes ([`apply`], [`edit`]) are made one at a time; reading never waits for them.

pub mod alarms;
pub mod apply;
pub mod ask;
pub mod change;
pub mod counts;
pub mod edit;
pub mod exemptions;
pub mod filtering;
pub mod health;
pub mod holds;
pub mod leases;
pub mod limits;
mod natlog;
pub mod objects;
pub mod pulse;
pub mod records;
pub mod refusals;
pub mod running;
mod save;
pub mod services;
pub mod tables;
pub mod unconfirmed;

use super::api::{
    self, Cleared, Counters, DiffRequest, Difference, Drops, EditRequest, Endpoint, Explanation,
    Failure, Filter, Item, ListEnd, Listing, PacketCounts, Port, Question, ReloadRequest, Reloaded,
    RollbackRequest, SaveRequest, Saved, Status, Timeout, Timeouts, Translation, Worker,
};
use super::backend::{Backend, Scrape};
use super::explain;
use super::runtime::PortDevice;
use crate::base::PortId;
use crate::config::validated::Validated;
use crate::config::{Diagnostic, Loaded, UNTIL_A_LEASE};
use crate::dataplane::clock::Clock;
use crate::dataplane::published::Published;
use crate::flow::session::State;
use crate::nat::policy::Policy;
use crate::telemetry::natlog::NatLog;
use alarms::Alarms;
use ask::WorkerHandle;
use counts::{Baseline, Snapshot, snapshots};
use health::Health;
use pulse::Pulse;
use records::Records;
use refusals::Refusals;
use running::Running;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tables::{Listed, Resolved};

/// A worker whose last loop is longer ago counts as stalled.
pub const HEARTBEAT_LIMIT_SECONDS: f64 = 2.0;

/// A running gateway.
pub struct Live {
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) ports: Mutex<Vec<PortDevice>>,
    pub(super) published: Arc<Published<Policy>>,
    pub(super) clock: Clock,
    pub(super) start_unix_seconds: u64,
    pub(super) running: Mutex<Running>,
    /// Held while a change is made, so that there is one at a time.
    pub(super) changing: Mutex<()>,
    pub(super) baseline: Mutex<Baseline>,
    pub(super) pulse: Mutex<Pulse>,
    pub(super) records: Mutex<Records>,
    pub(super) refusals: Mutex<Refusals>,
    pub(super) alarms: Mutex<Alarms>,
    pub(super) health: Mutex<Health>,
    pub(super) leases: Mutex<leases::Views>,
    pub(super) log: NatLog,
    pub(super) reloads_applied: AtomicU64,
    pub(super) reloads_refused: AtomicU64,
    pub(super) exemptions: Mutex<exemptions::Watches>,
    pub(super) dpdk_version: String,
}

/// Locks; a thread that died with the lock leaves the value usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The configured name of a port.
fn port_name(config: &Validated, port: PortId) -> String {
    let port = config.ports.get(port.index());
    port.map_or_else(String::new, |port| port.label.name.clone())
}

impl Live {
    /// Seconds since a worker's last loop.
    pub(super) fn heartbeat_age(&self, worker: &WorkerHandle) -> f64 {
        let last = worker.numbers.heartbeat_millis.load(Ordering::Relaxed);
        self.clock.now().millis.saturating_sub(last) as f64 / 1000.0
    }

    /// Whether every worker runs.
    pub fn workers_alive(&self) -> bool {
        self.workers
            .iter()
            .all(|w| self.heartbeat_age(w) < HEARTBEAT_LIMIT_SECONDS)
    }

    /// Whether every worker uses the current policy.
    pub fn workers_current(&self) -> bool {
        let version = u64::from(self.published.version());
        self.workers
            .iter()
            .all(|w| w.numbers.policy_version.load(Ordering::Acquire) >= version)
    }

    fn port_views(&self, extended: bool) -> Vec<Port> {
        let loaded = lock(&self.running).loaded.clone();
        let ports = lock(&self.ports);
        let views = ports
            .iter()
            .zip(&loaded.validated.ports)
            .map(|(port, configured)| {
                let (link, counts) = (port.control.link(), port.control.counts());
                Port {
                    port: configured.label.name.clone(),
                    device: configured.device.to_string(),
                    mac: port.mac.to_string(),
                    link_up: link.up,
                    speed_mbps: link.speed_mbps,
                    mtu_bytes: configured.mtu.into(),
                    rx_queues: port.rx_queues,
                    tx_queues: port.tx_queues,
                    rx_packets: counts.rx_packets,
                    rx_bytes: counts.rx_bytes,
                    tx_packets: counts.tx_packets,
                    tx_bytes: counts.tx_bytes,
                    rx_missed: counts.rx_missed,
                    rx_errors: counts.rx_errors,
                    rx_nombuf: counts.rx_nombuf,
                    tx_errors: counts.tx_errors,
                    extended: if extended {
                        port.control.extended()
                    } else {
                        Vec::new()
                    },
                }
            });
        views.collect()
    }

    fn queue_views(&self) -> Vec<api::Queue> {
        let loaded = lock(&self.running).loaded.clone();
        objects::queues(&self.workers, |port| port_name(&loaded.validated, port))
    }

    fn worker_views(&self, snapshots: &[Snapshot]) -> Vec<Worker> {
        let pulse = lock(&self.pulse).clone();
        let view = |handle: &WorkerHandle| {
            let numbers = &handle.numbers;
            let snapshot = snapshots.iter().find(|s| s.worker == handle.worker);
            let of = |value: fn(&Snapshot) -> u64| snapshot.map_or(0, value);
            let bursts = numbers.bursts.load(Ordering::Relaxed);
            let age = self.heartbeat_age(handle);
            Worker {
                worker: handle.worker,
                core: handle.core.map(|core| core as u32),
                state: if age < HEARTBEAT_LIMIT_SECONDS && snapshot.is_some() {
                    "running"
                } else {
                    "stalled"
                }
                .into(),
                busy_ratio: pulse.busy_ratio(handle.worker),
                batch_fill: if bursts == 0 {
                    0.0
                } else {
                    of(|s| s.counters.received) as f64 / bursts as f64
                },
                heartbeat_age_seconds: age,
                loops: numbers.loops.load(Ordering::Relaxed),
                policy_version: numbers.policy_version.load(Ordering::Relaxed),
                sessions: of(Snapshot::sessions),
                session_capacity: of(|s| s.session_capacity),
                mappings: of(|s| s.mappings),
                received: of(|s| s.counters.received),
                handoff_in: of(|s| s.counters.handoff_in),
                handoff_out: of(|s| s.counters.handoff_out),
                memory_bytes: of(|s| s.memory_bytes),
            }
        };
        self.workers.iter().map(view).collect()
    }

    fn status_of(&self, snapshots: &[Snapshot], stalled: &[u8], packets: PacketCounts) -> Status {
        let policy = self.published.load();
        let (loaded, unsaved, confirm_seconds) = {
            let running = lock(&self.running);
            let now = self.clock.nanos();
            let remaining = running.pending.as_ref().map(|p| p.remaining_seconds(now));
            (running.loaded.clone(), running.is_unsaved(), remaining)
        };
        let ready = stalled.is_empty() && self.workers_alive() && self.workers_current();
        let pools = objects::pools(&policy);
        let shares = pools.iter().map(|pool| {
            let share = |in_use: u64, total: u64| {
                if total == 0 {
                    0.0
                } else {
                    in_use as f64 / total as f64
                }
            };
            let ports = pool
                .ports
                .iter()
                .map(|p| share(p.in_use + p.hold, p.total))
                .fold(0.0, f64::max);
            (
                pool.pool.clone(),
                ports.max(share(pool.blocks_in_use, pool.blocks_total)),
            )
        });
        let down = self
            .port_views(false)
            .into_iter()
            .filter(|port| !port.link_up)
            .map(|port| port.port);
        Status {
            state: if ready { "ready" } else { "not_ready" }.to_owned(),
            ready,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: loaded.validated.system.instance.clone(),
            generation: policy.generation.0,
            uptime_seconds: unix_seconds().saturating_sub(self.start_unix_seconds),
            start_unix_seconds: self.start_unix_seconds,
            workers: self.workers.len() as u8,
            stalled_workers: stalled.to_vec(),
            sessions: snapshots.iter().map(Snapshot::sessions).sum(),
            session_capacity: snapshots.iter().map(|s| s.session_capacity).sum(),
            mappings: snapshots.iter().map(|s| s.mappings).sum(),
            packets,
            rates: lock(&self.pulse).rates(),
            fullest_pool: shares.max_by(|a, b| a.1.total_cmp(&b.1)),
            ports_down: down.collect(),
            warnings: self.warnings(&loaded),
            unsaved,
            confirm_seconds,
        }
    }

    fn pool_views(&self, policy: &Policy) -> Vec<api::Pool> {
        let mut pools = objects::pools(policy);
        let alarms = lock(&self.alarms);
        for pool in &mut pools {
            (pool.alarm, pool.alarms) = alarms.of(&pool.pool);
        }
        pools
    }

    /// What is doubtful about the configuration, and about the files it follows as they are now.
    fn warnings(&self, loaded: &Loaded) -> Vec<String> {
        let lasting =
            |w: &&Diagnostic| !w.path.ends_with(".file") && !w.message.ends_with(UNTIL_A_LEASE);
        let mut all: Vec<String> = loaded
            .warnings
            .iter()
            .filter(lasting)
            .map(ToString::to_string)
            .collect();
        let states = lock(&self.exemptions).states().into_iter();
        let stale = states.filter(|s| s.stale_since_unix_seconds.is_some());
        all.extend(stale.map(|s| format!("exempt {}: {}", s.exempt, s.words())));
        let leases = lock(&self.leases).clone();
        let without = leases.values().filter(|lease| lease.address.is_none());
        all.extend(without.map(|l| format!("interface {}: no lease ({})", l.interface, l.state)));
        all
    }

    fn rule_views(&self, listing: Listing) -> (Vec<api::Rule>, Vec<u8>) {
        let (snapshots, stalled) = snapshots(&self.workers);
        let counts = lock(&self.baseline).rules(&snapshots);
        let loaded = lock(&self.running).loaded.clone();
        (
            objects::rules(listing, &loaded.validated, &self.published.load(), &counts),
            stalled,
        )
    }

    fn filter_views(&self) -> (Vec<api::FilterRule>, Vec<u8>) {
        let (snapshots, stalled) = snapshots(&self.workers);
        let counts = lock(&self.baseline).rules(&snapshots);
        let loaded = lock(&self.running).loaded.clone();
        let rules = filtering::rules(&loaded.validated, &self.published.load(), &counts);
        (rules, stalled)
    }

    /// The living session a packet belongs to, in words.
    fn session_of(&self, question: &Question) -> Result<Option<String>, Failure> {
        let filter = Filter {
            ip: Some(question.source.into()),
            protocol: Some(question.protocol),
            max: Some(u64::MAX),
            ..Filter::default()
        };
        let (source_port, destination_port) = question.ports();
        let arrives = |way: &Translation| {
            let port = |end: &Endpoint| end.port.unwrap_or(0);
            (way.source.address, port(&way.source)) == (question.source, source_port)
                && (way.destination.address, port(&way.destination))
                    == (question.destination, destination_port)
        };
        let mut found = None;
        self.list(Listing::Sessions, &filter, &mut |item| {
            if let Item::Session(session) = item {
                let way = [session.forward, session.reverse]
                    .into_iter()
                    .find(|way| arrives(way));
                found = way.map(|way| {
                    format!(
                        "{} > {}, {}",
                        way.translated_source, way.translated_destination, session.state
                    )
                });
            }
            found.is_none()
        })?;
        Ok(found)
    }

    fn list_others(&self, listing: Listing, out: &mut Listed<'_>, resolved: &Resolved) -> Vec<u8> {
        let filter = resolved.filter();
        match listing {
            Listing::Workers => {
                let (snapshots, _) = snapshots(&self.workers);
                let workers = self.worker_views(&snapshots).into_iter();
                let wanted =
                    workers.filter(|w| filter.worker.is_none_or(|wanted| wanted == w.worker));
                wanted.for_each(|w| out.add(Item::Worker(w)));
                Vec::new()
            }
            Listing::Exempt => {
                let (snapshots, stalled) = snapshots(&self.workers);
                let counts = lock(&self.baseline).rules(&snapshots);
                let loaded = lock(&self.running).loaded.clone();
                let files = lock(&self.exemptions).states();
                let policy = self.published.load();
                let rows = objects::exempts(&loaded.validated, &policy, &counts, &files);
                rows.into_iter().for_each(|row| out.add(Item::Exempt(row)));
                stalled
            }
            Listing::SourceNat | Listing::StaticNat | Listing::PortForwards => {
                let (rules, stalled) = self.rule_views(listing);
                rules.into_iter().for_each(|rule| out.add(Item::Rule(rule)));
                stalled
            }
            Listing::Services => {
                let (backends, stalled) = self.service_views();
                backends
                    .into_iter()
                    .for_each(|backend| out.add(Item::Service(backend)));
                stalled
            }
            Listing::Filter => {
                let (rules, stalled) = self.filter_views();
                rules
                    .into_iter()
                    .for_each(|rule| out.add(Item::FilterRule(rule)));
                stalled
            }
            Listing::History => {
                let history: Vec<_> = lock(&self.running).history.iter().cloned().collect();
                history
                    .into_iter()
                    .for_each(|entry| out.add(Item::History(entry)));
                Vec::new()
            }
            Listing::Log => {
                self.log_sinks()
                    .into_iter()
                    .for_each(|sink| out.add(Item::LogSink(sink)));
                Vec::new()
            }
            Listing::Queues => {
                let queues = self.queue_views().into_iter();
                let wanted = queues.filter(|q| filter.worker.is_none_or(|w| w == q.worker));
                wanted.for_each(|queue| out.add(Item::Queue(queue)));
                Vec::new()
            }
            Listing::Ports => {
                self.port_views(true)
                    .into_iter()
                    .for_each(|port| out.add(Item::Port(port)));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

impl Backend for Live {
    fn status(&self) -> Status {
        let (snapshots, stalled) = snapshots(&self.workers);
        let packets = counts::counters(&snapshots, Vec::new(), &lock(&self.baseline)).total;
        self.status_of(&snapshots, &stalled, packets)
    }

    fn drops(&self) -> Drops {
        counts::drops(self.counters())
    }

    fn counters(&self) -> Counters {
        let (snapshots, stalled) = snapshots(&self.workers);
        counts::counters(&snapshots, stalled, &lock(&self.baseline))
    }

    fn timeouts(&self) -> Timeouts {
        let policy = self.published.load();
        let timeout = |state: State| Timeout {
            state: state.name().to_owned(),
            protocol: counts::protocol_of(state).to_owned(),
            idle_seconds: tables::seconds(policy.timeouts.of(state)),
        };
        Timeouts {
            timeouts: State::LIVE.map(timeout).to_vec(),
        }
    }

    fn config(&self) -> api::Config {
        let running = lock(&self.running);
        api::Config {
            generation: self.published.load().generation.0,
            hash: running.hash.clone(),
            source: running.file.display().to_string(),
            text: running.loaded.text(),
        }
    }

    fn list(
        &self,
        listing: Listing,
        filter: &Filter,
        emit: &mut dyn FnMut(Item) -> bool,
    ) -> Result<ListEnd, Failure> {
        let policy = self.published.load();
        let resolved = Resolved::new(filter, &policy)?;
        let max = filter.max.or(listing.default_max()).unwrap_or(u64::MAX);
        let mut out = Listed::new(max, emit);
        let mut stalled = Vec::new();
        match listing {
            Listing::Sessions => out.sessions(&self.workers, &policy, &resolved)?,
            Listing::Mappings => out.mappings(&self.workers, &policy, &resolved),
            Listing::Subscribers => out.subscribers(&self.workers, &policy, &resolved),
            Listing::Neighbors => out.neighbors(&self.workers, &policy, &resolved),
            Listing::Blocks => objects::blocks(&mut out, &policy, &resolved),
            Listing::Routes => {
                let loaded = lock(&self.running).loaded.clone();
                objects::routes(&mut out, &policy, &resolved, &loaded.validated);
            }
            Listing::Interfaces => {
                let loaded = lock(&self.running).loaded.clone();
                let name = |port| port_name(&loaded.validated, port);
                let leases = lock(&self.leases).clone();
                objects::interfaces(&mut out, &policy, &resolved, name, &leases);
            }
            Listing::Pools => {
                let pools = self.pool_views(&policy).into_iter();
                let wanted =
                    pools.filter(|pool| Filter::matches_name(&filter.pool, Some(&pool.pool)));
                wanted.for_each(|pool| out.add(Item::Pool(pool)));
            }
            other => stalled = self.list_others(other, &mut out, &resolved),
        }
        let mut end = out.finish();
        end.stalled_workers.extend(stalled);
        Ok(end)
    }

    fn explain(&self, question: &Question) -> Result<Explanation, Failure> {
        let loaded = lock(&self.running).loaded.clone();
        let mut explanation = explain::under(&loaded.validated, &self.port_facts(), question)?;
        explanation.session = self.session_of(question)?;
        Ok(explanation)
    }

    fn clear_sessions(&self, filter: &Filter) -> Result<Cleared, Failure> {
        let resolved = Resolved::new(filter, &self.published.load())?;
        let (cleared, stalled_workers) = tables::clear_sessions(&self.workers, &resolved)?;
        tracing::info!(cleared, filter = filter.to_query(), "sessions cleared");
        Ok(Cleared {
            cleared,
            stalled_workers,
        })
    }

    fn clear_counters(&self) -> Cleared {
        let (snapshots, stalled_workers) = snapshots(&self.workers);
        *lock(&self.baseline) = Baseline::of(&snapshots);
        tracing::info!("counters cleared");
        Cleared {
            cleared: snapshots.len() as u64,
            stalled_workers,
        }
    }

    fn reload(&self, request: &ReloadRequest) -> Result<Reloaded, Failure> {
        self.reload_file(request)
    }

    fn edit(&self, request: &EditRequest) -> Result<Reloaded, Failure> {
        self.edit_running(request)
    }

    fn rollback(&self, request: &RollbackRequest) -> Result<Reloaded, Failure> {
        self.roll_back(request)
    }

    fn confirm(&self) -> Result<Reloaded, Failure> {
        self.keep()
    }

    fn save(&self, request: &SaveRequest) -> Result<Saved, Failure> {
        self.save_running(request)
    }

    fn diff(&self, request: &DiffRequest) -> Result<Difference, Failure> {
        self.compare(request)
    }

    fn scrape(&self) -> Scrape {
        let (snapshots, stalled) = snapshots(&self.workers);
        let counters = counts::counters(&snapshots, stalled.clone(), &Baseline::default());
        let policy = self.published.load();
        Scrape {
            status: self.status_of(&snapshots, &stalled, counters.total.clone()),
            ports: self.port_views(false),
            queues: self.queue_views(),
            log_sinks: self.log_sinks(),
            workers: self.worker_views(&snapshots),
            pools: self.pool_views(&policy),
            draining: objects::draining(&policy),
            services: {
                let loaded = lock(&self.running).loaded.clone();
                let counts = Baseline::default().rules(&snapshots);
                let views = services::backends(&loaded.validated, &policy, &counts);
                views.into_iter().map(|(view, _)| view).collect()
            },
            exempt_files: lock(&self.exemptions).states(),
            leases: lock(&self.leases).values().cloned().collect(),
            reloads_applied: self.reloads_applied.load(Ordering::Relaxed),
            reloads_refused: self.reloads_refused.load(Ordering::Relaxed),
            dpdk_version: self.dpdk_version.clone(),
            counters,
        }
    }
}
