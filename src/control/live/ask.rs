//! Asking workers: a question is a job that a worker runs between two batches.
//!
//! No job is long: a listing is a chain of jobs, each of which copies a bounded part of a table, a small slice per loop, into
//! memory that was allocated here. So a scrape never waits behind a slow reader of a listing, no worker ever waits for
//! anybody, and a worker that does not answer is reported instead of waited for.

use crate::base::PortId;
use crate::base::time::Now;
use crate::dataplane::worker::{
    Job, JobContext, PortQueues, Progress, QueueNumbers, WorkerNumbers,
};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long a worker may take to answer before it counts as stalled.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Slots of a table looked at in one loop of a worker.
const SLICE: u32 = 512;

/// Slots looked at by one job.
const SPAN: u32 = 8192;

/// A worker, from the management side.
pub struct WorkerHandle {
    /// Its number.
    pub worker: u8,
    /// The core it is pinned to, if it is.
    pub core: Option<usize>,
    /// Where its jobs go.
    pub jobs: Sender<Job>,
    /// Numbers it keeps up to date by itself.
    pub numbers: WorkerNumbers,
    /// Its queues.
    pub queues: Vec<QueueHandle>,
}

/// A queue of a worker, from the management side.
pub struct QueueHandle {
    /// Of which port.
    pub port: PortId,
    /// Whether it receives.
    pub receives: bool,
    /// Its number on the device.
    pub number: u16,
    /// What the worker counts on it.
    pub numbers: QueueNumbers,
}

impl QueueHandle {
    /// The queues of a worker.
    pub fn of<B>(ports: &[PortQueues<B>]) -> Vec<QueueHandle> {
        let mut queues = Vec::new();
        for on in ports {
            queues.extend(on.rx.iter().map(|rx| QueueHandle {
                port: on.port,
                receives: true,
                number: rx.number,
                numbers: rx.numbers.clone(),
            }));
            queues.push(QueueHandle {
                port: on.port,
                receives: false,
                number: on.tx.number,
                numbers: on.tx.numbers.clone(),
            });
        }
        queues
    }
}

/// A worker did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled(pub u8);

/// Part of a table, as a job copied it.
pub struct Part<T> {
    /// What was copied.
    pub rows: Vec<T>,
    /// Entries that match, copied or not.
    pub matched: u64,
    /// The worker's time.
    pub now: Now,
    /// First slot not looked at.
    next: u32,
    /// There are no more slots.
    end: bool,
}

/// What a job does with a range of slots: adds rows (never more than fit without allocating) and counts matches.
pub trait Visit<T>:
    FnMut(&mut JobContext<'_>, Range<u32>, &mut Vec<T>) -> u64 + Send + 'static
{
}

impl<T, F> Visit<T> for F where
    F: FnMut(&mut JobContext<'_>, Range<u32>, &mut Vec<T>) -> u64 + Send + 'static
{
}

impl WorkerHandle {
    /// Starts a question; the answer comes through the returned channel.
    pub fn begin<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&mut JobContext<'_>) -> T + Send + 'static,
    ) -> Option<Receiver<T>> {
        let (answer, receiver) = bounded(1);
        let job = Job::Ask(Box::new(move |context| {
            // Nobody may be waiting any more; that is no concern of the worker.
            let _ = answer.try_send(work(context));
            Progress::Done
        }));
        // A full queue means that the worker has not run any of the last jobs.
        self.jobs.try_send(job).ok().map(|()| receiver)
    }

    /// Walks a table of the worker. `visit` copies what it likes of a range of slots, `high_water` says how many slots there
    /// are, `each` takes the parts in order until it returns false.
    ///
    /// # Errors
    /// [`Stalled`] when the worker does not answer; what came before has been given to `each`.
    pub fn walk<T: Send + 'static, V: Visit<T>>(
        &self,
        high_water: impl Fn(&JobContext<'_>) -> u32 + Copy + Send + 'static,
        visit: impl Fn() -> V,
        mut each: impl FnMut(Part<T>) -> bool,
    ) -> Result<(), Stalled> {
        let mut from = 0;
        loop {
            let (answer, receiver) = bounded(1);
            let job = span(from, high_water, visit(), answer);
            self.jobs.try_send(job).map_err(|_| Stalled(self.worker))?;
            let part: Part<T> = receiver
                .recv_timeout(PATIENCE)
                .map_err(|_| Stalled(self.worker))?;
            let (next, end) = (part.next, part.end);
            if !each(part) || end {
                return Ok(());
            }
            from = next;
        }
    }
}

/// The job that looks at the slots from `from` on.
fn span<T: Send + 'static>(
    from: u32,
    high_water: impl Fn(&JobContext<'_>) -> u32 + Send + 'static,
    mut visit: impl Visit<T>,
    answer: Sender<Part<T>>,
) -> Job {
    let mut rows = Vec::with_capacity(SPAN as usize);
    let (mut at, mut matched) = (from, 0);
    let last = from.saturating_add(SPAN);
    Job::Ask(Box::new(move |context| {
        let table = high_water(context);
        let stop = at.saturating_add(SLICE).min(last).min(table);
        matched += visit(context, at..stop.max(at), &mut rows);
        at = stop.max(at);
        if at < last && at < table {
            return Progress::Again;
        }
        let part = Part {
            rows: std::mem::take(&mut rows),
            matched,
            now: context.now,
            next: at,
            end: at >= table,
        };
        let _ = answer.try_send(part);
        Progress::Done
    }))
}

/// Asks all workers the same question at once. The answers come in the workers' order; those of stalled workers are missing
/// and their numbers are returned.
pub fn ask_all<T: Send + 'static, W>(
    workers: &[WorkerHandle],
    work: impl Fn() -> W,
) -> (Vec<(u8, T)>, Vec<u8>)
where
    W: FnMut(&mut JobContext<'_>) -> T + Send + 'static,
{
    let questions: Vec<_> = workers
        .iter()
        .map(|w| (w.worker, w.begin(work())))
        .collect();
    let deadline = deadline();
    let (mut answers, mut stalled) = (Vec::new(), Vec::new());
    for (worker, receiver) in questions {
        match receiver.and_then(|receiver| receiver.recv_deadline(deadline).ok()) {
            Some(answer) => answers.push((worker, answer)),
            None => stalled.push(worker),
        }
    }
    (answers, stalled)
}

#[allow(
    clippy::disallowed_methods,
    reason = "the management side waits in real time"
)]
fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::worker::WorkerShared;
    use crossbeam_utils::CachePadded;
    use std::sync::Arc;

    /// A worker that never runs its jobs.
    fn dead(worker: u8, room: usize) -> (WorkerHandle, Receiver<Job>) {
        let (jobs, queue) = bounded(room);
        let handle = WorkerHandle {
            worker,
            core: None,
            jobs,
            numbers: Arc::new(CachePadded::new(WorkerShared::default())),
            queues: Vec::new(),
        };
        (handle, queue)
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the test measures real patience")]
    fn workers_that_do_not_answer_are_named_and_waited_for_once() {
        let (first, _queue) = dead(0, 8);
        let (second, _other) = dead(1, 8);
        let (full, _none) = dead(2, 0);
        let workers = [first, second, full];
        let began = Instant::now();
        let (answers, stalled) = ask_all(&workers, || |_: &mut JobContext<'_>| ());
        assert!(answers.is_empty());
        assert_eq!(stalled, [0, 1, 2]);
        assert!(began.elapsed() < PATIENCE * 2, "all share one deadline");
        let began = Instant::now();
        let visit = || |_: &mut JobContext<'_>, _: Range<u32>, _: &mut Vec<()>| 0;
        assert_eq!(workers[2].walk(|_| 1, visit, |_| true), Err(Stalled(2)));
        assert!(began.elapsed() < PATIENCE, "a full queue is told at once");
    }
}
