//! How far the two cores are apart.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use natgate::dataplane::affinity;

use crate::{CORE, SENDER};

/// How long it is measured.
const TIME: Duration = Duration::from_millis(20);

/// Nanoseconds a cache line takes from one core to the other.
pub fn nanos() -> Result<f64> {
    let (asked, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let answer = || {
        let _ = affinity::pin_to([CORE]);
        while !over.load(SeqCst) {
            if asked.load(SeqCst) {
                asked.store(false, SeqCst);
            }
        }
    };
    let ask = || {
        let _ = affinity::pin_to([SENDER]);
        let (began, mut handed_over) = (Instant::now(), 0u32);
        while began.elapsed() < TIME {
            asked.store(true, SeqCst);
            while asked.load(SeqCst) {
                std::hint::spin_loop();
            }
            handed_over += 2;
        }
        over.store(true, SeqCst);
        began.elapsed().as_nanos() as f64 / f64::from(handed_over)
    };
    std::thread::scope(|scope| {
        let answering = scope.spawn(answer);
        // In a thread of its own, so that this one may run where it likes.
        let nanos = scope.spawn(ask).join();
        over.store(true, SeqCst);
        let answered = answering.join();
        answered.map_err(|_| anyhow!("the answering thread died"))?;
        nanos.map_err(|_| anyhow!("the asking thread died"))
    })
    .context("how far the cores are apart")
}
