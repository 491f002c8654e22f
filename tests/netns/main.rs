//! natgate end to end: three network namespaces, real sockets, real programs, the real binary.
//!
//! ```text
//!   in ──────────────── gw ──────────────── out
//!   10.0.0.2–5     10.0.0.1  203.0.113.1    203.0.113.9–11, and "the internet" on its loopback
//!   fd00:1::2–3    fd00:1::1 2001:db8::1    2001:db8::9
//! ```
//!
//! The namespace in the middle runs one of two gateways behind the same trait: the Linux kernel's own NAT,
//! which is the reference, or natgate on af_packet ports with 1, 2 or 4 workers. A test written with
//! [`lab::same_on_both`] makes the same observation through all four; [`lab::on_natgate`] leaves the kernel
//! out where natgate differs on purpose or offers more.
//!
//! A test reads like its specification: `lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen
//! 203.0.113.1:40000, reply")`. The notation is explained in [`probe`].
//!
//! The tests need root and the programs that `tests/setup.sh` installs; they fail when either is missing.
//! `NATGATE_LAB=kernel` or `NATGATE_LAB=natgate` restricts a run to one of the gateways, for work on the
//! tests themselves.

// Test code: a failed expectation is a panic, and waiting for the world needs the clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)]

mod accounting;
mod kernel;
mod lab;
mod natgate;
#[path = "../common/ns.rs"]
mod ns;
#[path = "../common/pcap.rs"]
mod pcap;
mod probe;
#[path = "../common/process.rs"]
mod process;
mod raw;
#[path = "../common/sctp.rs"]
#[allow(dead_code, reason = "frames are made for other tests")]
mod sctp;
mod servers;

mod at_bonds;
mod at_cluster;
mod at_dhcp;
mod at_examples;
mod at_exempt;
mod at_filter;
mod at_forward;
mod at_gateway;
mod at_helpers;
mod at_import;
mod at_log;
mod at_nat66;
mod at_ports;
mod at_pptp;
mod at_realms;
mod at_reload;
mod at_rows;
mod at_rtsp;
mod at_sctp;
mod at_service_flows;
mod at_services;
mod at_services_v6;
mod at_sip;
mod at_snat;
mod programs;
mod tools;
