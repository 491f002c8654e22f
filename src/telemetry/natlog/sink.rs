//! A sink: a bounded queue, and a thread that empties it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::file::FileOut;
use super::ipfix::IpfixOut;
use super::record::{Kind, Record, unix_millis};
use super::send::Way;
use super::syslog::SyslogOut;
use crate::config::log::{Collector, LogTarget};
use crate::dataplane::worker::Job;

/// Records that may wait for a sink.
const QUEUE: u64 = 1 << 17;

/// Records beyond it for what is not about single sessions.
const MORE_FOR_DURABLE: u64 = QUEUE / 8;

/// The pause before a sink that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How long the last records may take when a sink ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often a sink without records is asked to look after its collector.
const TEND: Duration = Duration::from_secs(1);

/// Batches that are delivered together at most.
const GROUP: usize = 64;

/// Consecutive records with the number of the first among all that the sink was given.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) first: u64,
    pub(super) records: Arc<[Record]>,
}

impl Batch {
    /// The records with their numbers.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u64, &Record)> {
        (self.first..).zip(self.records.iter())
    }
}

/// How records leave.
pub(super) trait Out: Send {
    /// Delivers what it has taken before and not delivered yet, or else these batches; `now` in milliseconds since 1970.
    ///
    /// # Errors
    /// Why not all was delivered; the same batches are given again then, until all is.
    fn deliver(&mut self, batches: &[Batch], now: u64) -> io::Result<()>;

    /// How long records wait for others, to leave together.
    fn gather(&self) -> Duration {
        Duration::ZERO
    }

    /// Does what is due without records; about once a second.
    ///
    /// # Errors
    /// Why it could not be done.
    fn tend(&mut self, _now: u64) -> io::Result<()> {
        Ok(())
    }
}

/// What a sink has done so far.
#[derive(Default)]
struct Counts {
    delivered: AtomicU64,
    queued: AtomicU64,
    dropped: AtomicU64,
    /// The last attempt failed.
    failing: AtomicBool,
    last_error: Mutex<Option<String>>,
    stopping: AtomicBool,
}

/// A sink as listings and metrics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkView {
    /// As it is configured.
    pub target: String,
    /// `file`, `syslog`, `ipfix`.
    pub kind: &'static str,
    /// Whether the last attempt to deliver something worked.
    pub up: bool,
    /// Records it was given.
    pub emitted: u64,
    /// Records delivered.
    pub delivered: u64,
    /// Records that found no room in its queue, or were still in it at its end.
    pub dropped: u64,
    /// Records that wait.
    pub queued: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// A sink, from the side that has something to tell.
pub(super) struct Sink {
    pub(super) target: LogTarget,
    sender: Sender<Batch>,
    counts: Arc<Counts>,
    done: Receiver<()>,
    emitted: u64,
    /// Dropped and not yet told.
    untold: u64,
}

impl Sink {
    /// Starts the sink's thread. `worker` sends what the gateway itself sends.
    ///
    /// # Errors
    /// When there is no thread.
    pub(super) fn start(target: LogTarget, worker: &Sender<Job>) -> io::Result<Sink> {
        let way = |to: &Collector, port| Way::to(to, port, worker);
        let port = target.own_port().unwrap_or_default();
        let out: Box<dyn Out> = match &target {
            LogTarget::File(path) => Box::new(FileOut::new(path.clone())),
            LogTarget::Syslog(to) => Box::new(SyslogOut::new(way(to, port))),
            LogTarget::Ipfix(to) => Box::new(IpfixOut::new(way(to, port))),
        };
        Sink::with(target, out)
    }

    fn with(target: LogTarget, mut out: Box<dyn Out>) -> io::Result<Sink> {
        let (sender, receiver) = unbounded();
        let (finished, done) = bounded(1);
        let counts = Arc::new(Counts::default());
        let (shared, name) = (counts.clone(), target.to_string());
        std::thread::Builder::new()
            .name("log-sink".to_owned())
            .spawn(move || {
                run(&receiver, out.as_mut(), &shared, &name);
                let _ = finished.send(());
            })?;
        Ok(Sink {
            target,
            sender,
            counts,
            done,
            emitted: 0,
            untold: 0,
        })
    }

    /// Gives the sink records, or counts those it has no room for; never waits.
    pub(super) fn give(&mut self, records: &Arc<[Record]>, now: u64) {
        let number = records.len() as u64;
        let room = |more: u64, counts: &Counts| {
            counts.queued.load(Ordering::Relaxed) + number <= QUEUE + more
        };
        if self.untold > 0 && room(0, &self.counts) {
            let lost = Record {
                count: Some(std::mem::take(&mut self.untold) as i64),
                ..Record::new(now, Kind::RecordsLost)
            };
            self.queue(Arc::new([lost]));
        }
        if room(0, &self.counts) {
            return self.queue(records.clone());
        }
        for record in records.iter() {
            if record.event.is_durable() && room(MORE_FOR_DURABLE, &self.counts) {
                self.queue(Arc::new([record.clone()]));
            } else {
                self.emitted += 1;
                self.untold += 1;
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn queue(&mut self, records: Arc<[Record]>) {
        let number = records.len() as u64;
        let first = self.emitted + 1;
        self.emitted += number;
        self.counts.queued.fetch_add(number, Ordering::Relaxed);
        if self.sender.send(Batch { first, records }).is_err() {
            // Its thread died.
            self.counts.queued.fetch_sub(number, Ordering::Relaxed);
            self.counts.dropped.fetch_add(number, Ordering::Relaxed);
        }
    }

    /// How it does.
    pub(super) fn view(&self) -> SinkView {
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let error = self.counts.last_error.lock();
        SinkView {
            target: self.target.to_string(),
            kind: self.target.kind(),
            up: !self.counts.failing.load(Ordering::Relaxed),
            emitted: self.emitted,
            delivered: number(&self.counts.delivered),
            dropped: number(&self.counts.dropped),
            queued: number(&self.counts.queued),
            last_error: error.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Lets the sink deliver what it has, for a moment, and ends it. What is left then is lost.
    pub(super) fn stop(self) -> SinkView {
        self.counts.stopping.store(true, Ordering::Relaxed);
        let mut view = self.view();
        drop(self.sender);
        if self.done.recv_timeout(FAREWELL).is_err() {
            tracing::warn!(sink = %self.target, "sink of the NAT log does not end; its last records are lost");
        }
        view.delivered = self.counts.delivered.load(Ordering::Relaxed);
        view.queued = 0;
        view.dropped = view.emitted - view.delivered;
        view
    }
}

/// The life of a sink's thread.
fn run(batches: &Receiver<Batch>, out: &mut dyn Out, counts: &Counts, name: &str) {
    loop {
        let first = match batches.recv_timeout(TEND) {
            Ok(batch) => batch,
            Err(RecvTimeoutError::Timeout) => {
                counts.note(out.tend(unix_millis()), name);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let group = gather(batches, first, out.gather());
        let number = group.iter().map(|batch| batch.records.len() as u64).sum();
        let delivered = loop {
            if counts.note(out.deliver(&group, unix_millis()), name) {
                break true;
            }
            if counts.stopping.load(Ordering::Relaxed) {
                break false;
            }
            std::thread::sleep(RETRY);
        };
        let count = match delivered {
            true => &counts.delivered,
            false => &counts.dropped,
        };
        count.fetch_add(number, Ordering::Relaxed);
        counts.queued.fetch_sub(number, Ordering::Relaxed);
    }
}

/// The batches that come within `time` after the first, or are there.
#[allow(
    clippy::disallowed_methods,
    reason = "a thread of the management side waits by the clock"
)]
fn gather(batches: &Receiver<Batch>, first: Batch, time: Duration) -> Vec<Batch> {
    let until = Instant::now() + time;
    let mut group = vec![first];
    while group.len() < GROUP
        && let Ok(batch) = batches.recv_deadline(until)
    {
        group.push(batch);
    }
    group
}

impl Counts {
    /// Takes down how an attempt went, and says so when that changes. True if it went well.
    fn note(&self, outcome: io::Result<()>, name: &str) -> bool {
        let Err(error) = outcome else {
            if self.failing.swap(false, Ordering::Relaxed) {
                tracing::info!(sink = name, "NAT log is delivered again");
            }
            return true;
        };
        let last = self.last_error.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(sink = name, %error, "NAT log is not delivered; records are queued");
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A record delivered: number, kind, count.
    type Got = (u64, Kind, Option<i64>);

    /// What a sink was made to deliver; nothing while it is broken.
    #[derive(Clone, Default)]
    struct Shelf {
        broken: Arc<AtomicBool>,
        got: Arc<Mutex<Vec<Got>>>,
    }

    impl Out for Shelf {
        fn deliver(&mut self, batches: &[Batch], _: u64) -> io::Result<()> {
            if self.broken.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let numbered = batches.iter().flat_map(Batch::numbered);
            let lines = numbered.map(|(seq, record)| (seq, record.event, record.count));
            self.got.lock().unwrap().extend(lines);
            Ok(())
        }
    }

    fn sink(shelf: &Shelf) -> Sink {
        let target = LogTarget::File(PathBuf::from("/nowhere"));
        Sink::with(target, Box::new(shelf.clone())).unwrap()
    }

    fn sessions(number: u64) -> Arc<[Record]> {
        vec![Record::new(0, Kind::SessionCreated); number as usize].into()
    }

    fn block() -> Arc<[Record]> {
        Arc::new([Record::new(0, Kind::BlockAllocated)])
    }

    fn balanced(view: &SinkView) -> bool {
        view.emitted == view.delivered + view.queued + view.dropped
    }

    #[test]
    fn a_broken_sink_queues_then_drops_sessions_before_blocks_and_tells() {
        let shelf = Shelf::default();
        shelf.broken.store(true, Ordering::Relaxed);
        let mut sink = sink(&shelf);
        sink.give(&sessions(QUEUE), 0);
        while sink.view().up {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(sink.view().dropped, 0);
        sink.give(&sessions(10), 0);
        sink.give(&block(), 0);
        let view = sink.view();
        assert!(balanced(&view), "{view:?}");
        assert_eq!((view.dropped, view.queued), (10, QUEUE + 1));
        shelf.broken.store(false, Ordering::Relaxed);
        while sink.view().queued > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        sink.give(&block(), 0);
        let view = sink.stop();
        assert!(balanced(&view) && view.up, "{view:?}");
        assert!(view.last_error.is_some());
        let got = shelf.got.lock().unwrap();
        let tail: Vec<_> = got.iter().skip(QUEUE as usize).copied().collect();
        let after = QUEUE + 11;
        assert_eq!(
            tail,
            [
                (after, Kind::BlockAllocated, None),
                (after + 1, Kind::RecordsLost, Some(10)),
                (after + 2, Kind::BlockAllocated, None),
            ],
            "the numbers show the gap"
        );
    }

    #[test]
    fn a_sink_that_stays_broken_ends_all_the_same() {
        let shelf = Shelf::default();
        shelf.broken.store(true, Ordering::Relaxed);
        let mut sink = sink(&shelf);
        sink.give(&sessions(5), 0);
        while sink.view().up {
            std::thread::sleep(Duration::from_millis(1));
        }
        let view = sink.stop();
        assert_eq!(
            (view.emitted, view.delivered, view.dropped, view.queued),
            (5, 0, 5, 0)
        );
    }
}
