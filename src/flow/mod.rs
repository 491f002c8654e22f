//! The flow table's structures: who talks to whom, where the session lies, and when to look at it again.
//!
//! A lookup is `key → hash → bucket → session`: [`Hasher`] turns a [`FlowKey`] into a [`struct@Hash`], [`BucketTable`]
//! turns that into candidate numbers in one cache line, and the session in the [`Slab`] holds the key that
//! decides. So a hit reads two cache lines and a miss mostly one. [`ClockHand`] walks the slab for expiry.
//!
//! Everything here has a fixed size from construction on, one owner (a worker), no locks, no clock and no
//! opinion about translation. A batch is looked up in passes, so that its memory accesses overlap:
//!
//! 1. [`Hasher::hash`] every key, [`BucketTable::prefetch`] its bucket;
//! 2. [`BucketTable::candidate`], [`Slab::prefetch`] the session it names;
//! 3. [`BucketTable::find`], comparing the key in the session.

pub mod hash;
pub mod key;
pub mod session;
pub mod slab;
pub mod sweep;
pub mod table;

pub use hash::{Hash, Hasher};
pub use key::{Address, FlowKey, Tuple};
pub use slab::{Slab, SlabEntry};
pub use sweep::ClockHand;
pub use table::{BucketTable, Full};
