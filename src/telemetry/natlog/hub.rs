//! From events to records to sinks.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;
use hashbrown::HashMap;

use super::record::{Kind, Record};
use super::sink::{Sink, SinkView};
use crate::base::PoolId;
use crate::config::log::LogTarget;
use crate::dataplane::journal::Inlet;
use crate::dataplane::worker::Job;
use crate::nat::journal::{Event, EventKind};
use crate::nat::policy::Policy;

/// Milliseconds that the time of day may be off from one look to the next before it counts as set.
const STEP: i64 = 500;

/// Milliseconds after which no worker says anything of a moment any more.
const LATEST: u64 = 10;

/// What pools and realms are called: those of the latest policy, and those that are gone.
#[derive(Default)]
pub struct Names {
    pools: HashMap<PoolId, String>,
    realms: Vec<String>,
    seen: Option<u32>,
}

impl Names {
    /// Learns the names of a policy.
    pub fn learn(&mut self, policy: &Policy) {
        if self.seen.replace(policy.generation.0) == Some(policy.generation.0) {
            return;
        }
        self.realms.clone_from(&policy.realms);
        for pool in policy.nat.pools.iter() {
            let policy = pool.policy();
            self.pools.insert(policy.id, policy.name.clone());
        }
    }
}

/// The NAT log of a running gateway.
pub struct NatLog {
    inner: Mutex<Inner>,
    /// The worker that sends what the gateway itself sends.
    worker: Sender<Job>,
}

struct Inner {
    inlets: Vec<Inlet>,
    names: Names,
    sinks: Vec<Sink>,
    /// The time of day in milliseconds, less the workers' time.
    offset: Option<i64>,
    /// Events that wait for what other workers have to say of the same moment.
    waiting: Vec<Event>,
}

impl NatLog {
    /// A log that is fed by workers, without a sink yet; datagrams of the gateway's own leave by the jobs of `worker`.
    pub fn new(inlets: Vec<Inlet>, worker: Sender<Job>) -> NatLog {
        NatLog {
            worker,
            inner: Mutex::new(Inner {
                inlets,
                names: Names::default(),
                sinks: Vec::new(),
                offset: None,
                waiting: Vec::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts sinks that are new, if any is; `kind` is the first record of each.
    pub fn open(&self, targets: &[LogTarget], kind: Kind, now: u64) -> bool {
        let mut opened = false;
        let mut inner = self.lock();
        for target in targets {
            if inner.sinks.iter().any(|sink| sink.target == *target) {
                continue;
            }
            match Sink::start(target.clone(), &self.worker) {
                Ok(mut sink) => {
                    let first = Record {
                        detail: Some(concat!("natgate ", env!("CARGO_PKG_VERSION")).into()),
                        ..Record::new(now, kind)
                    };
                    let first: Arc<[Record]> = Arc::new([first]);
                    sink.give(&first, now);
                    inner.sinks.push(sink);
                    opened = true;
                }
                Err(error) => {
                    tracing::error!(sink = %target, %error, "no thread for a sink of the NAT log")
                }
            }
        }
        opened
    }

    /// Ends every sink but these.
    pub fn keep(&self, targets: &[LogTarget]) {
        let mut gone = Vec::new();
        {
            let mut inner = self.lock();
            let (kept, others) = std::mem::take(&mut inner.sinks)
                .into_iter()
                .partition(|sink| targets.contains(&sink.target));
            inner.sinks = kept;
            gone.extend::<Vec<Sink>>(others);
        }
        for sink in gone {
            let view = sink.stop();
            tracing::info!(
                sink = view.target,
                delivered = view.delivered,
                dropped = view.dropped,
                "sink of the NAT log ended"
            );
        }
    }

    /// Passes on what workers have to tell, in order. `worker_millis` is their time, `now` the time of day, of the same moment.
    pub fn collect(&self, policy: &Policy, worker_millis: u64, now: u64) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.names.learn(policy);
        let mut records = Vec::new();
        let offset = now as i64 - worker_millis as i64;
        if let Some(before) = inner.offset.replace(offset)
            && (offset - before).abs() > STEP
        {
            records.push(Record {
                count: Some(offset - before),
                ..Record::new(now, Kind::ClockStepped)
            });
        }
        let wanted = !inner.sinks.is_empty();
        let mut lost = 0;
        for inlet in &mut inner.inlets {
            lost += inlet.take(|event| {
                if wanted {
                    inner.waiting.push(event);
                }
            });
        }
        inner.waiting.sort_by_key(Event::order);
        let until = worker_millis.saturating_sub(LATEST);
        let ready = inner.waiting.partition_point(|event| event.millis <= until);
        let ready = inner.waiting.drain(..ready);
        records.extend(ready.map(|event| record_of(&event, &inner.names, offset)));
        if lost > 0 {
            records.push(Record {
                count: Some(lost as i64),
                detail: Some("the workers said more than could be taken down".into()),
                ..Record::new(now, Kind::RecordsLost)
            });
        }
        inner.give(records, now);
    }

    /// Passes on records that the management side makes itself.
    pub fn tell(&self, records: Vec<Record>, now: u64) {
        self.lock().give(records, now);
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        !self.lock().sinks.is_empty()
    }

    /// How the sinks do.
    pub fn views(&self) -> Vec<SinkView> {
        self.lock().sinks.iter().map(Sink::view).collect()
    }
}

impl Inner {
    fn give(&mut self, records: Vec<Record>, now: u64) {
        if records.is_empty() {
            return;
        }
        let records: Arc<[Record]> = records.into();
        for sink in &mut self.sinks {
            sink.give(&records, now);
        }
    }
}

/// The record of an event; `offset` leads from the workers' time to the time of day.
fn record_of(event: &Event, names: &Names, offset: i64) -> Record {
    let time = event.millis.saturating_add_signed(offset);
    let kind = match event.kind {
        EventKind::BlockLeased => Kind::BlockAllocated,
        EventKind::BlockReturned => Kind::BlockReleased,
        EventKind::SessionOpened => Kind::SessionCreated,
        EventKind::SessionEnded => Kind::SessionDeleted,
    };
    let realm = names.realms.get(event.realm.index());
    let pool = event.pool.and_then(|id| names.pools.get(&id));
    let mut record = Record {
        realm: realm.cloned().map(Cow::Owned),
        inside: Some(event.inside),
        outside: Some(event.outside),
        protocol: Some(event.protocol),
        pool: pool.cloned().map(Cow::Owned),
        pool_number: event.pool.map(|id| id.0),
        ..Record::new(time, kind)
    };
    if event.kind.is_of_block() {
        record.first_port = Some(event.ports.first);
        record.last_port = Some(event.ports.last);
        return record;
    }
    if crate::nat::ports::PortSpace::from_protocol(event.protocol).is_some() {
        record.inside_port = Some(event.inside_port);
        record.outside_port = Some(event.ports.first);
        record.destination_port = event.remote.map(|(_, port)| port);
    }
    record.destination = event.remote.map(|(address, _)| address);
    record
}
