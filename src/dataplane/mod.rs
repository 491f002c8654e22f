//! Packets in motion: batches, stages, steering, hand-off, and the loop that drives them.
//!
//! ```text
//!  rx burst ─▶ parse all ─▶ hash all, prefetch buckets ─▶ prefetch sessions ─▶ hits: rewrite, tx
//!                                                                        └──▶ misses: slow path
//!                                                                               │ owner elsewhere
//!                                                                               └──▶ ring to the owner
//! ```
//!
//! A [`shard::Shard`] is everything one worker owns; it runs on any [`buffer::Buffer`] and [`buffer::Sink`], so the same
//! code serves the DPDK worker loop, the in-memory rack of the tests, the fuzz targets and the benchmark.

pub mod accounts;
mod admit;
pub mod affinity;
pub mod buffer;
mod client;
pub mod clock;
pub mod counters;
pub mod device;
#[cfg(feature = "dpdk")]
pub mod devices;
mod egress;
mod family;
mod fast;
mod fragments;
mod generate;
mod hairpin;
mod help;
mod identification;
pub mod journal;
mod judge;
mod local;
pub mod machine;
pub mod maintain;
pub mod memory;
mod new_flows;
pub mod originate;
mod prefix;
pub mod provision;
pub mod published;
pub mod rack;
mod services;
pub mod shard;
mod slow;
pub mod steering;
mod unsolicited;
mod v6;
pub mod worker;
