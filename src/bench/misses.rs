//! Last-level cache misses of a thread, where the machine counts them: virtual machines mostly do not.

use std::cell::RefCell;

use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

thread_local! {
    /// Of the phase under way.
    static COUNTER: RefCell<Option<Counter>> = const { RefCell::new(None) };
}

/// Begins to count on this thread.
pub fn start() {
    COUNTER.with_borrow_mut(|place| {
        let counter = Builder::new().kind(Hardware::CACHE_MISSES).build();
        *place = counter.ok();
        if place
            .as_mut()
            .is_some_and(|counter| counter.enable().is_err())
        {
            *place = None;
        }
    });
}

/// The misses since, if they could be counted.
pub fn stop() -> Option<u64> {
    COUNTER.with_borrow_mut(|place| place.take()?.read().ok())
}
