//! The NAT log of the running gateway: what goes into it, and its sinks when the configuration changes.

use std::borrow::Cow;
use std::time::Duration;

use super::records::Records;
use super::{Live, lock};
use crate::base::DropReason;
use crate::config::validated::{Log, LogTarget};
use crate::control::api::LogSink;
use crate::nat::at_limit::LimitEdge;
use crate::nat::journal::Mappings;
use crate::telemetry::natlog::{Kind, Record, unix_millis};

use super::tables::{inside_address, realm_name};

impl Live {
    /// Passes on what the workers have to tell; a thread of its own calls it twenty times a second.
    pub fn collect_log(&self) {
        let policy = self.published.load();
        self.log
            .collect(&policy, self.clock.now().millis, unix_millis());
    }

    /// Starts the sinks of the first configuration.
    pub fn begin_log(&self) {
        let loaded = lock(&self.running).loaded.clone();
        let sinks = wanted(&loaded.validated.log);
        self.log.open(sinks, Kind::GatewayStarted, unix_millis());
    }

    /// Starts the sinks that a configuration has more, before it is in force.
    pub(super) fn open_log(&self, log: &Log) {
        if self.log.open(wanted(log), Kind::LogStarted, unix_millis()) {
            // Who begins to read needs the records that are only made once a day.
            *lock(&self.records) = Records::default();
        }
    }

    /// Ends the sinks that the configuration in force does not have, with what happened before.
    pub(super) fn settle_log(&self, log: &Log) {
        self.collect_log();
        self.log.keep(wanted(log));
    }

    /// The last record of every sink. The workers have ended.
    pub fn end_log(&self) {
        // Until what they said last is put in order.
        std::thread::sleep(Duration::from_millis(25));
        self.collect_log();
        let now = unix_millis();
        self.log
            .tell(vec![Record::new(now, Kind::GatewayStopped)], now);
        self.log.keep(&[]);
    }

    /// Records that subscribers came to their limits, or left them behind.
    pub(super) fn log_limits(&self, edges: &[LimitEdge]) {
        let (policy, now) = (self.published.load(), unix_millis());
        let limits = &policy.limits;
        let record = |edge: &LimitEdge| {
            let (kind, count) = match edge.begins {
                true => (Kind::QuotaExceeded, None),
                false => (Kind::QuotaOver, Some(edge.refused as i64)),
            };
            Record {
                realm: Some(Cow::Owned(realm_name(&policy, edge.realm))),
                inside: Some(inside_address(edge.address)),
                reason: Some(edge.reason.name().into()),
                limit: match edge.reason {
                    DropReason::SessionLimit => Some(limits.sessions),
                    DropReason::QuotaHalfOpen => Some(limits.half_open),
                    DropReason::QuotaRate => Some(limits.new_per_second),
                    _ => None,
                },
                count,
                ..Record::new(now, kind)
            }
        };
        if self.log.is_on() && !edges.is_empty() {
            self.log.tell(edges.iter().map(record).collect(), now);
        }
    }

    /// Records that pools refuse mappings: their names, and the number of refusals since the last time.
    pub(super) fn log_refusals(&self, pools: &[(String, u64, String)]) {
        let (policy, now) = (self.published.load(), unix_millis());
        let record = |(name, refused, detail): &(String, u64, String)| {
            let mut pools = policy.nat.pools.iter().map(|pool| pool.policy());
            Record {
                pool_number: pools.find(|pool| pool.name == *name).map(|pool| pool.id.0),
                pool: Some(Cow::Owned(name.clone())),
                count: Some(*refused as i64),
                detail: Some(Cow::Owned(detail.clone())),
                ..Record::new(now, Kind::PoolExhausted)
            }
        };
        if self.log.is_on() && !pools.is_empty() {
            self.log.tell(pools.iter().map(record).collect(), now);
        }
    }

    /// Records what the ports of deterministic pools follow from, by pool.
    pub(super) fn log_deterministic(&self, pools: &[(String, String)]) {
        let now = unix_millis();
        let record = |(name, text): &(String, String)| Record {
            pool: Some(Cow::Owned(name.clone())),
            detail: Some(Cow::Owned(text.clone())),
            ..Record::new(now, Kind::DeterministicMapping)
        };
        if self.log.is_on() && !pools.is_empty() {
            self.log.tell(pools.iter().map(record).collect(), now);
        }
    }

    /// The sinks for listings.
    pub(super) fn log_sinks(&self) -> Vec<LogSink> {
        let views = self.log.views().into_iter();
        let sinks = views.map(|view| LogSink {
            sink: view.target,
            kind: view.kind.to_owned(),
            state: if view.up { "up" } else { "failing" }.to_owned(),
            emitted: view.emitted,
            delivered: view.delivered,
            queued: view.queued,
            dropped: view.dropped,
            last_error: view.last_error,
        });
        sinks.collect()
    }
}

/// The sinks a configuration wants: none if nothing is to be logged.
fn wanted(log: &Log) -> &[LogTarget] {
    match log.logging.mappings {
        Mappings::Off => &[],
        _ => &log.to,
    }
}
