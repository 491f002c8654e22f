//! One immutable value, published to all workers by a pointer swap.
//!
//! A worker looks at a generation number once per loop and takes the new value only when it changed. The publisher keeps
//! every value it replaced until no worker holds it any more, so that nothing large is ever freed on a packet thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;

/// A value with a version, readable by all workers.
pub struct Published<T> {
    current: ArcSwap<T>,
    version: AtomicU32,
}

impl<T> Published<T> {
    /// Publishes the first value.
    pub fn new(value: Arc<T>) -> Arc<Published<T>> {
        Arc::new(Published {
            current: ArcSwap::new(value),
            version: AtomicU32::new(1),
        })
    }

    /// Replaces the value and returns the one before. Readers see either of the two, never a mixture.
    pub fn publish(&self, value: Arc<T>) -> Arc<T> {
        let before = self.current.swap(value);
        // After the swap: whoever sees the new version finds the new value.
        self.version.fetch_add(1, Ordering::Release);
        before
    }

    /// The current value.
    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Version of the current value.
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }
}

/// A worker's view of a [`Published`] value.
pub struct Reader<T> {
    published: Arc<Published<T>>,
    held: Arc<T>,
    version: u32,
}

impl<T> Reader<T> {
    /// A view that starts with the current value.
    pub fn new(published: Arc<Published<T>>) -> Reader<T> {
        let version = published.version();
        Reader {
            held: published.load(),
            published,
            version,
        }
    }

    /// Takes up a newer value, if there is one, and returns the one before. One relaxed-cost load when there is none.
    #[inline]
    pub fn refresh(&mut self) -> Option<Arc<T>> {
        let version = self.published.version();
        if version == self.version {
            return None;
        }
        self.version = version;
        Some(std::mem::replace(&mut self.held, self.published.load()))
    }

    /// The value as of the last refresh.
    #[inline]
    pub fn get(&self) -> &Arc<T> {
        &self.held
    }

    /// Version of the value held.
    pub fn version(&self) -> u32 {
        self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_move_only_when_refreshed_and_the_old_value_survives_them() {
        let published = Published::new(Arc::new(1));
        let mut reader = Reader::new(published.clone());
        assert!(reader.refresh().is_none());
        let old = published.publish(Arc::new(2));
        assert_eq!((**reader.get(), *old), (1, 1));
        assert_eq!(Arc::strong_count(&old), 2, "the reader still holds it");
        assert!(
            reader
                .refresh()
                .is_some_and(|before| Arc::ptr_eq(&before, &old))
        );
        assert_eq!((**reader.get(), Arc::strong_count(&old)), (2, 1));
    }
}
