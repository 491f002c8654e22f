//! Where the management side meets the configuration and the devices.
//!
//! [`Devices`] is what the daemon needs of whatever carries packets: DPDK in service ([`super::hardware`]), plain memory in
//! tests. [`check`] and [`run`] are the two commands that need no running daemon.

use super::api::{Failure, FailureKind};
use crate::base::Random;
use crate::config::validated::Validated;
use crate::config::{self, Capacity, Loaded, Report};
use crate::dataplane::worker::{BufferPool, PortQueues};
use crate::nat::policy::Policy;
use crate::wire::MacAddr;
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// State of a port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// It carries packets.
    pub up: bool,
    /// Megabits a second, where the device says.
    pub speed_mbps: Option<u32>,
}

/// Counters of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped by the device because no descriptor was free.
    pub rx_missed: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets lost because no buffer was free.
    pub rx_nombuf: u64,
    /// Packets the device could not send.
    pub tx_errors: u64,
}

/// A device as the management side sees it.
pub trait PortControl: Send {
    /// Reads the state of the link.
    fn link(&self) -> LinkState;
    /// Reads the counters.
    fn counts(&self) -> DeviceCounts;
    /// Reads the driver's own counters, by its own names.
    fn extended(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

/// An opened port.
pub struct PortDevice {
    /// Its MAC address.
    pub mac: MacAddr,
    /// What workers read before they send; the link watcher writes it.
    pub link: Arc<AtomicBool>,
    /// Receive queues in use.
    pub rx_queues: u16,
    /// Transmit queues in use.
    pub tx_queues: u16,
    /// The device itself.
    pub control: Box<dyn PortControl>,
}

/// What one worker drives.
pub struct WorkerDevices<B> {
    /// Its queues on every port.
    pub ports: Vec<PortQueues<B>>,
    /// Its buffers.
    pub pool: Box<dyn BufferPool<B>>,
}

/// Called on every worker's thread before it starts; what it returns is dropped there when the worker has ended.
pub type ThreadHook = Arc<dyn Fn() -> Result<Box<dyn Any>, String> + Send + Sync>;

/// Everything opened.
pub struct Devices<B> {
    /// The ports, by [`PortId`](crate::base::PortId).
    pub ports: Vec<PortDevice>,
    /// For each worker.
    pub workers: Vec<WorkerDevices<B>>,
    /// Makes worker threads known to the driver.
    pub on_thread: ThreadHook,
    /// Version of DPDK; empty without.
    pub dpdk_version: String,
    /// What must outlive the workers.
    pub keep: Box<dyn Any>,
}

/// A configuration that passed every check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Findings that do not forbid it.
    pub warnings: Vec<String>,
    /// What it amounts to: addresses, blocks, memory.
    pub summary: String,
}

/// Checks a configuration as a reload would.
///
/// # Errors
/// [`FailureKind::Failed`] with every finding.
pub fn check(path: &Path) -> Result<Checked, Failure> {
    let loaded = load(path).map_err(|report| refused(FailureKind::Failed, path, &report))?;
    preview(&loaded.validated).map_err(|report| refused(FailureKind::Failed, path, &report))?;
    Ok(Checked {
        warnings: warnings(&loaded),
        summary: format!(
            "{}\n{}: good\n",
            Capacity::of(&loaded.validated),
            path.display()
        ),
    })
}

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// When it cannot start: the configuration is wrong, a device is missing, the socket is taken.
pub fn run(path: &Path) -> Result<(), Failure> {
    let loaded = load(path).map_err(|report| refused(FailureKind::Failed, path, &report))?;
    let loaded = super::live::unconfirmed::recall(loaded);
    #[cfg(feature = "dpdk")]
    {
        super::service::run(path, loaded, |config, seed| {
            super::hardware::open(config, seed)
        })
    }
    #[cfg(not(feature = "dpdk"))]
    {
        drop(loaded);
        Err(Failure::new(
            FailureKind::Failed,
            "run",
            "this natgate was built without DPDK",
        )
        .hint("build it with `cargo build --release`, which drives devices by default"))
    }
}

/// Reads a file with its drop-ins and the environment.
///
/// # Errors
/// Every finding.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    config::load(path, &config::environment())
}

/// Compiles a configuration as if every port were there and up: shows what only shows when all is put together.
///
/// # Errors
/// Every finding.
pub fn preview(config: &Validated) -> Result<Policy, Report> {
    config::compile::compile(config, &[], None, 0)
}

/// The warnings of a configuration, a line each.
pub fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(ToString::to_string).collect()
}

/// The failure that carries a report.
pub fn refused(kind: FailureKind, path: &Path, report: &Report) -> Failure {
    let count = report.errors().count();
    let why = format!("{count} error{}", if count == 1 { "" } else { "s" });
    let findings = report.diagnostics.iter().map(ToString::to_string).collect();
    Failure::new(kind, format!("configuration {}", path.display()), why)
        .hint("nothing was changed; each line below names the place and what would be right")
        .report(findings)
}

/// Randomness of the operating system.
///
/// # Errors
/// When it has none to give.
pub fn entropy() -> Result<Random, Failure> {
    let failed =
        |e: std::io::Error| Failure::new(FailureKind::Failed, "/dev/urandom", e.to_string());
    let mut seed = [0; 8];
    let mut source = std::fs::File::open("/dev/urandom").map_err(failed)?;
    std::io::Read::read_exact(&mut source, &mut seed).map_err(failed)?;
    Ok(Random::from_seed(u64::from_ne_bytes(seed)))
}
