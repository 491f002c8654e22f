//! The safe face of the C shim over DPDK.
//!
//! Everything `unsafe` about devices is in this directory, behind types that own what they stand for:
//!
//! | type | is | ends |
//! |---|---|---|
//! | [`Eal`] | DPDK's environment, once per process | with its last user |
//! | [`ThreadRegistration`] | a worker thread known to DPDK | on its own thread |
//! | [`Mempool`] | packet buffers of one size | when all buffers are back |
//! | [`Mbuf`] | one packet buffer | goes back to its pool |
//! | [`Port`] | a device, set up | stops and closes when its queues are back |
//! | [`RxQueue`], [`TxQueue`] | one queue, one handle | goes back to its port |
//!
//! Per packet there is no call into C: bursts and bulk frees are one call, fields are read in place.
#![allow(unsafe_code)]

mod attach;
mod eal;
mod error;
mod ffi;
mod mbuf;
mod mempool;
pub mod pci;
mod port;
mod port_config;
mod port_info;
mod queue;

pub use attach::check_device;
pub use eal::{Eal, EalOptions, ThreadRegistration};
pub use error::{Error, take_log};
pub use mbuf::{Checksum, META_BYTES, Mbuf};
pub use mempool::{MAX_CACHE, Mempool};
pub use port::{Port, ProbedPort};
pub use port_config::{Granted, PortConfig, RssConfig, RssFields};
pub use port_info::{Link, PortInfo, PortStats};
pub use queue::{BURST, RxQueue, TxQueue};
