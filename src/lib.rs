//! natgate: a carrier NAT appliance on DPDK.
//!
//! One binary turns a Linux server into a NAT gateway. Poll-mode workers translate packets and share
//! nothing; a management side owns configuration, statistics and the control socket.
//!
//! Modules form layers, and arrows only point down this list:
//!
//! | layer | modules | knows about |
//! |---|---|---|
//! | front | [`cli`] | the command line, tables, the API client |
//! | management | [`control`], [`telemetry`], [`import`], [`config`] | files, sockets, threads |
//! | packets in motion | [`dataplane`] | batches, steering, hand-off; DPDK through one trait |
//! | meaning | [`nat`], [`gateway`] | translation, routing, neighbours: pure functions of state, policy and time |
//! | structure | [`flow`], [`wire`] | flow tables, header layouts and checksums |
//! | leaves | [`base`], [`arch`] | identifiers, time, drop reasons; prefetch and SIMD |
//!
//! `wire`, `flow`, `nat` and `gateway` contain no I/O, no threads and no clock: time and randomness are
//! arguments, so that tests, fuzzers and workers run the very same code.

pub mod arch;
pub mod base;
pub mod bench;
pub mod cli;
pub mod config;
pub mod control;
pub mod dataplane;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod flow;
pub mod gateway;
pub mod import;
pub mod nat;
pub mod telemetry;
pub mod wire;
