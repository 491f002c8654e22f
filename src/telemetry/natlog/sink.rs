//! A sink: a bounded queue, and a thread that empties it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::file::FileOut;
use super::record::{Kind, Record};
use crate::config::log::LogTarget;

/// Records that may wait for a sink.
const QUEUE: u64 = 1 << 17;

/// Records beyond it for what is not about single sessions.
const MORE_FOR_DURABLE: u64 = QUEUE / 8;

/// The pause before a sink that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How long the last records may take when a sink ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Consecutive records with the number of the first among all that the sink was given.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) first: u64,
    pub(super) records: Arc<[Record]>,
}

/// How records leave.
pub(super) trait Out: Send {
    /// Delivers what it has taken before and not delivered yet, or else the batch.
    ///
    /// # Errors
    /// Why not all was delivered; the same batch is given again then, until it is.
    fn deliver(&mut self, batch: &Batch) -> io::Result<()>;
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
    /// `file`, ….
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
    /// Starts the sink's thread.
    ///
    /// # Errors
    /// When there is no thread.
    pub(super) fn start(target: LogTarget) -> io::Result<Sink> {
        let out: Box<dyn Out> = match &target {
            LogTarget::File(path) => Box::new(FileOut::new(path.clone())),
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
    while let Ok(batch) = batches.recv() {
        let number = batch.records.len() as u64;
        let delivered = loop {
            let Err(error) = out.deliver(&batch) else {
                break true;
            };
            {
                let last = counts.last_error.lock();
                *last.unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
            if !counts.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(sink = name, %error, "NAT log is not delivered; records are queued");
            }
            if counts.stopping.load(Ordering::Relaxed) {
                break false;
            }
            std::thread::sleep(RETRY);
        };
        if delivered {
            if counts.failing.swap(false, Ordering::Relaxed) {
                tracing::info!(sink = name, "NAT log is delivered again");
            }
            counts.delivered.fetch_add(number, Ordering::Relaxed);
        } else {
            counts.dropped.fetch_add(number, Ordering::Relaxed);
        }
        counts.queued.fetch_sub(number, Ordering::Relaxed);
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
        fn deliver(&mut self, batch: &Batch) -> io::Result<()> {
            if self.broken.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let numbered = (batch.first..).zip(batch.records.iter());
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
