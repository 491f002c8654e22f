//! The worker loop, its stages, steering and hand-off.

pub mod device;
