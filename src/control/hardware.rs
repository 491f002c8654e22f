//! DPDK's devices for the daemon: from the configuration to what [`runtime`](super::runtime) describes.

use super::api::{Failure, FailureKind};
use super::runtime::{
    DeviceCounts, Devices, LinkState, PortControl, PortDevice, WorkerDevices, preview,
};
use crate::base::{PortId, Random};
use crate::config::Capacity;
use crate::config::capacity::{bytes, packet_buffers};
use crate::config::validated::{self, Validated};
use crate::dataplane::devices::{self, OpenedPort, PortRequest, SystemRequest};
use crate::dataplane::machine::Memory;
use crate::dpdk::{Eal, Mbuf};
use crate::nat::destination::Inside;
use crate::nat::policy::Policy;
use crate::nat::rss::SourceSteering;
use crate::wire::MacAddr;
use std::any::Any;
use std::sync::Arc;

/// Starts DPDK and opens the ports of a configuration. `seed` determines how subscribers spread over the workers.
///
/// # Errors
/// One sentence with the way out.
pub fn open(config: &Validated, seed: u64) -> Result<Devices<Mbuf>, Failure> {
    let failed = |what: &str, why: String| Failure::new(FailureKind::Failed, what.to_owned(), why);
    enough_memory(config)?;
    let policy = preview(config).map_err(|report| failed("configuration", report.to_string()))?;
    let system = SystemRequest {
        workers: config.system.workers,
        hugepages: config.system.hugepages,
        buffers: packet_buffers(config),
        instance: config.system.instance.clone(),
        eal_args: config.system.eal_args.clone(),
    };
    let requests: Vec<PortRequest> = (0..)
        .map(PortId)
        .zip(&config.ports)
        .map(|(id, port)| request(id, port, &policy))
        .collect();
    let steering = SourceSteering::new(&mut Random::from_seed(seed));
    let opened = devices::open(&system, &requests, &steering)
        .map_err(|e| failed("devices", e.to_string()))?;
    let eal = opened.eal.clone();
    let on_thread = move || {
        let registered = eal.register_thread().map_err(|e| e.to_string())?;
        Ok(Box::new(registered) as Box<dyn Any>)
    };
    let workers = opened
        .workers
        .into_iter()
        .map(|w| WorkerDevices {
            ports: w.ports,
            pool: w.pool,
        })
        .collect();
    Ok(Devices {
        ports: opened.ports.into_iter().map(device).collect(),
        workers,
        on_thread: Arc::new(on_thread),
        dpdk_version: Eal::version(),
        keep: Box::new((opened.pool, opened.eal)),
    })
}

/// Refuses what would not fit into the machine: the kernel promises more memory than it has, and ends the process that
/// asks for it.
fn enough_memory(config: &Validated) -> Result<(), Failure> {
    let capacity = Capacity::of(config);
    let memory = Memory::read();
    let huge = match config.system.hugepages {
        true => memory.huge.free_bytes.min(capacity.buffer_bytes),
        false => 0,
    };
    let there = memory.available_bytes + huge;
    if capacity.needed_bytes <= there {
        return Ok(());
    }
    let why = format!(
        "the configuration needs {}, and the machine has {} to give",
        bytes(capacity.needed_bytes),
        bytes(there)
    );
    Err(Failure::new(FailureKind::Failed, "memory", why).hint(
        "lower system.sessions, the ports' descriptors or their queues; `natgate check` prints the arithmetic",
    ))
}

fn request(id: PortId, port: &validated::Port, policy: &Policy) -> PortRequest {
    let mut interfaces = policy
        .interfaces
        .iter()
        .filter(|interface| interface.port == id);
    let inside = |id: usize| {
        policy
            .nat
            .v4
            .inside
            .get(id)
            .is_some_and(|inside| *inside != Inside::Never)
    };
    PortRequest {
        name: port.label.name.clone(),
        device: port.device.clone(),
        queues: port.queues,
        mtu: port.mtu,
        mac: port.mac.map(MacAddr),
        promiscuous: port.promiscuous,
        descriptors: port.descriptors,
        inside: interfaces.any(|interface| inside(interface.id.index())),
    }
}

fn device(port: OpenedPort) -> PortDevice {
    PortDevice {
        mac: port.mac,
        link: port.link.clone(),
        rx_queues: port.rx_queues,
        tx_queues: port.tx_queues,
        control: Box::new(port),
    }
}

impl PortControl for OpenedPort {
    fn link(&self) -> LinkState {
        let link = self.poll_link();
        LinkState {
            up: link.up,
            speed_mbps: link.speed_mbps,
        }
    }

    fn counts(&self) -> DeviceCounts {
        let stats = self.stats();
        DeviceCounts {
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            rx_nombuf: stats.rx_no_buffer,
            tx_errors: stats.tx_errors,
        }
    }

    fn extended(&self) -> Vec<(String, u64)> {
        self.xstats()
    }
}
