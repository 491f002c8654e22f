//! DPDK's devices as workers see them: opened from the configuration, split into queues, one buffer pool for all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrayvec::ArrayVec;

use crate::base::PortId;
use crate::dataplane::buffer::{BURST, Buffer, Burst};
use crate::dataplane::device::{Device, PortSpec};
use crate::dataplane::machine::{self, Memory};
use crate::dataplane::provision::{CACHE, PacketBuffers};
use crate::dataplane::worker::{BufferPool, Numbered, PortQueues, RxQueue, TxQueue};
use crate::dpdk::{
    self, Checksum, Eal, EalOptions, Error, Mbuf, Mempool, Port, PortConfig, ProbedPort,
};
use crate::dpdk::{Link, PortStats, RssConfig, RssFields};
use crate::nat::rss::{self, SourceSteering};
use crate::wire::MacAddr;

/// What DPDK wants beside the packet buffers: rings, device memory.
const EAL_BYTES: u64 = 64 << 20;

/// What the process as a whole asks of DPDK.
#[derive(Clone, Debug)]
pub struct SystemRequest {
    /// Workers.
    pub workers: u8,
    /// Use huge pages when there are enough.
    pub hugepages: bool,
    /// The packet buffers of all ports.
    pub buffers: PacketBuffers,
    /// Distinguishes processes on one machine.
    pub instance: String,
    /// Further EAL arguments.
    pub eal_args: Vec<String>,
}

/// What the configuration asks of one port.
#[derive(Clone, Debug)]
pub struct PortRequest {
    /// Its name.
    pub name: String,
    /// Its device.
    pub device: Device,
    /// Receive queues.
    pub queues: u16,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// MAC address to set.
    pub mac: Option<MacAddr>,
    /// Receive other stations' frames, too.
    pub promiscuous: bool,
    /// Descriptors per queue.
    pub descriptors: u16,
    /// Subscribers are behind it: spread by source address; otherwise by destination port.
    pub inside: bool,
}

/// An opened port, for the management side.
pub struct OpenedPort {
    port: Port,
    /// Which.
    pub id: PortId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// What workers read before they send.
    pub link: Arc<AtomicBool>,
    /// Receive queues in use.
    pub rx_queues: u16,
    /// Transmit queues in use.
    pub tx_queues: u16,
}

impl OpenedPort {
    /// State of the link, which is also published to the workers.
    pub fn poll_link(&self) -> Link {
        if let Err(error) = self.port.fail_over() {
            tracing::error!("{error}");
        }
        // A driver that does not know is taken at its best.
        let link = self.port.link().unwrap_or(Link {
            up: true,
            ..Link::default()
        });
        self.link.store(link.up, Ordering::Relaxed);
        link
    }

    /// Counters of the device.
    pub fn stats(&self) -> PortStats {
        self.port.stats().unwrap_or_default()
    }

    /// The driver's own counters.
    pub fn xstats(&self) -> Vec<(String, u64)> {
        self.port.xstats().unwrap_or_default()
    }

    /// DPDK's name of the driver.
    pub fn driver(&self) -> &str {
        &self.port.info().driver
    }
}

/// What one worker drives.
pub struct WorkerDevices {
    /// Its queues on every port.
    pub ports: Vec<PortQueues<Mbuf>>,
    /// Its buffers.
    pub pool: Box<dyn BufferPool<Mbuf>>,
}

/// Everything opened.
pub struct OpenedDevices {
    /// DPDK itself; worker threads register with it.
    pub eal: Eal,
    /// The ports, by [`PortId`].
    pub ports: Vec<OpenedPort>,
    /// For each worker.
    pub workers: Vec<WorkerDevices>,
    /// The buffer pool.
    pub pool: Mempool,
}

/// Starts DPDK and opens the ports. Once per process.
///
/// # Errors
/// One sentence with the way out: a missing device, one in the kernel's hands, too few queues, too little memory.
pub fn open(
    system: &SystemRequest,
    requests: &[PortRequest],
    steering: &SourceSteering,
) -> Result<OpenedDevices, Error> {
    let workers = u16::from(system.workers);
    let specs: Vec<PortSpec> = requests
        .iter()
        .enumerate()
        .map(|(i, r)| spec(i as u16, r))
        .collect();
    for spec in &specs {
        // Before DPDK looks at them: it says less, or nothing.
        dpdk::check_device(spec)?;
    }
    let eal = Eal::init(&eal_options(system, &specs))?;
    let pool = pool(&eal, system.buffers, &specs)?;
    let mut ports = Vec::new();
    let mut devices: Vec<Vec<PortQueues<Mbuf>>> = (0..workers).map(|_| Vec::new()).collect();
    for (i, (request, spec)) in requests.iter().zip(&specs).enumerate() {
        let probed = ProbedPort::probe(&eal, spec)?;
        let config = port_config(request, spec, &probed, workers, steering);
        let mut port = probed.configure(&config, std::slice::from_ref(&pool))?;
        port.start()?;
        let mac = address(spec, &port, request.mac)?;
        announce(spec, &port, mac);
        let opened = OpenedPort {
            id: PortId(i as u16),
            mac,
            link: Arc::new(AtomicBool::new(true)),
            rx_queues: config.rx_queues,
            tx_queues: config.tx_queues,
            port,
        };
        opened.poll_link();
        distribute(&opened, &config, &mut devices);
        ports.push(opened);
    }
    let workers = devices
        .into_iter()
        .map(|ports| WorkerDevices {
            ports,
            pool: Box::new(PoolHandle { pool: pool.clone() }),
        })
        .collect();
    Ok(OpenedDevices {
        eal,
        ports,
        workers,
        pool,
    })
}

/// The port's MAC address: the wanted one, or its own. A driver that cannot change it must receive everything instead; the
/// packet path looks at the address anyway.
fn address(spec: &PortSpec, port: &Port, wanted: Option<MacAddr>) -> Result<MacAddr, Error> {
    let own = port.mac().map(MacAddr)?;
    let mut parts = spec.device.parts().iter();
    if parts.any(|part| matches!(part, Device::Tap { .. })) {
        // The driver's address is that of the kernel's end: on a bridge or a host there must be two.
        return Ok(wanted.unwrap_or(opposite(own)));
    }
    let Some(mac) = wanted else {
        return Ok(own);
    };
    if port.set_mac(mac.0).is_err() {
        port.receive_everything()?;
    }
    Ok(mac)
}

/// Another address of the same kind.
fn opposite(MacAddr(mut bytes): MacAddr) -> MacAddr {
    bytes[5] ^= 1;
    MacAddr(bytes)
}

/// Logs what became of a port.
fn announce(spec: &PortSpec, port: &Port, mac: MacAddr) {
    let (info, config, granted) = (port.info(), port.config(), port.granted());
    let spread = match (config.rx_queues, granted.rss_key && granted.reta) {
        (1, _) => "one queue",
        (_, true) => "to the worker of each subscriber",
        (_, false) => "as the device does; strays are handed over",
    };
    tracing::info!(
        port = spec.name,
        device = %spec.device,
        driver = info.driver,
        %mac,
        mtu = config.mtu,
        rx_queues = config.rx_queues,
        tx_queues = config.tx_queues,
        spread,
        checks_checksums = granted.ip_checksum && granted.l4_checksum,
        numa_node = info.numa_node,
        "port is open"
    );
}

fn spec(index: u16, request: &PortRequest) -> PortSpec {
    PortSpec {
        name: request.name.clone(),
        index,
        device: request.device.clone(),
        queues: request.queues,
        mtu: request.mtu,
    }
}

/// The buffers of all ports, on the node of the cards where that node has the memory.
fn pool(eal: &Eal, buffers: PacketBuffers, specs: &[PortSpec]) -> Result<Mempool, Error> {
    let PacketBuffers { count, room } = buffers;
    let create = |node| Mempool::create(eal, "natgate", count, room, CACHE, node);
    // Without huge pages DPDK knows of no nodes; the kernel then places each page near the worker that uses it first.
    let near = machine::node_of_cards(specs.iter().map(|spec| &spec.device));
    let Some(node) = near.filter(|_| eal.huge()) else {
        return create(None);
    };
    create(Some(node)).or_else(|error| {
        tracing::warn!(
            node,
            "packet buffers are not on the cards' NUMA node: {error}"
        );
        create(None)
    })
}

fn eal_options(system: &SystemRequest, specs: &[PortSpec]) -> EalOptions {
    let bytes = system.buffers.bytes() + EAL_BYTES;
    let mut options = EalOptions::new(&system.instance);
    options.huge = system.hugepages && huge_pages_suffice(bytes);
    options.memory_mb = bytes.div_ceil(1 << 20) as u32;
    options.pci = specs
        .iter()
        .flat_map(|spec| match spec.members() {
            members if members.is_empty() => vec![spec.clone()],
            members => members,
        })
        .map(|spec| spec.attachment())
        .filter(|attachment| attachment.pci)
        .map(|attachment| attachment.devargs)
        .collect();
    options.extra = system.eal_args.clone();
    options
}

/// Whether `bytes` of packet buffers fit into unused huge pages; logs what was found.
fn huge_pages_suffice(bytes: u64) -> bool {
    let pages = Memory::read().huge;
    let (free_mib, needed_mib) = (pages.free_bytes >> 20, bytes.div_ceil(1 << 20));
    let enough = pages.free_bytes >= bytes;
    if enough {
        tracing::info!(free_mib, needed_mib, "packet buffers live in huge pages");
    } else {
        tracing::warn!(
            free_mib,
            needed_mib,
            "too few huge pages: packet buffers live in ordinary memory, at about half the speed (to change: sysctl -w vm.nr_hugepages={})",
            pages.total + pages.needed(bytes - pages.free_bytes)
        );
    }
    enough
}

fn port_config(
    request: &PortRequest,
    spec: &PortSpec,
    probed: &ProbedPort,
    workers: u16,
    steering: &SourceSteering,
) -> PortConfig {
    let info = probed.info();
    let rx_queues = spec.queues;
    // A tap has as many queues one way as the other, and a memif as many as its peer.
    let own_tx = match spec.device {
        Device::Tap { .. } | Device::Memif { .. } => rx_queues,
        _ => workers,
    };
    PortConfig {
        rx_queues,
        tx_queues: own_tx
            .min(info.max_tx_queues)
            .min(spec.device.max_queues())
            .max(1),
        rx_descriptors: request.descriptors,
        tx_descriptors: request.descriptors,
        mtu: request.mtu,
        // A bond's driver drops broadcasts whose members cannot be told to receive multicast, and not every member filters
        // for the bond's address.
        promiscuous: request.promiscuous || matches!(spec.device, Device::Bond { .. }),
        rss: (rx_queues > 1 && info.reta_size > 0)
            .then(|| rss_config(request, info, rx_queues, steering)),
        checksum_offload: true,
    }
}

/// Makes the card agree with the owner of a packet where it can; what it sends elsewhere is handed over.
fn rss_config(
    request: &PortRequest,
    info: &dpdk::PortInfo,
    queues: u16,
    steering: &SourceSteering,
) -> RssConfig {
    let entries = usize::from(info.reta_size);
    let queues = queues.min(u16::from(u8::MAX)) as u8;
    let mut fields = RssFields::ADDRESSES_AND_PORTS;
    let (key, reta) = if request.inside {
        fields.source_address_only = true;
        (steering.key().to_vec(), rss::inside_table(entries, queues))
    } else {
        (
            rss::outside_key().to_vec(),
            rss::outside_table(entries, queues),
        )
    };
    let mut key = key;
    key.resize(usize::from(info.hash_key_size), 0);
    RssConfig { key, fields, reta }
}

/// Receive queue `q` goes to worker `q` modulo the workers; transmit queues are shared where there are too few.
fn distribute(opened: &OpenedPort, config: &PortConfig, devices: &mut [Vec<PortQueues<Mbuf>>]) {
    let mut tx: Vec<Option<dpdk::TxQueue>> = (0..config.tx_queues)
        .map(|q| opened.port.take_tx(q))
        .collect();
    let exclusive = tx.len() >= devices.len();
    let shared: Vec<SharedTx> = if exclusive {
        Vec::new()
    } else {
        tx.iter_mut()
            .filter_map(Option::take)
            .map(|q| SharedTx(Arc::new(Mutex::new(q))))
            .collect()
    };
    let workers = devices.len();
    for (worker, ports) in devices.iter_mut().enumerate() {
        let rx = (0..config.rx_queues)
            .filter(|q| usize::from(*q) % workers == worker)
            .filter_map(|q| {
                let queue: Box<dyn RxQueue<Mbuf>> = Box::new(opened.port.take_rx(q)?);
                Some(Numbered::new(q, queue))
            })
            .collect();
        let number = if exclusive {
            worker
        } else {
            worker % shared.len().max(1)
        };
        let queue: Option<Box<dyn TxQueue<Mbuf>>> = if exclusive {
            tx[number]
                .take()
                .map(|q| Box::new(q) as Box<dyn TxQueue<Mbuf>>)
        } else {
            shared
                .get(number)
                .cloned()
                .map(|q| Box::new(q) as Box<dyn TxQueue<Mbuf>>)
        };
        if let Some(queue) = queue {
            ports.push(PortQueues {
                port: opened.id,
                rx,
                tx: Numbered::new(number as u16, queue),
                link: opened.link.clone(),
            });
        }
    }
}

impl Buffer for Mbuf {
    fn bytes(&self) -> &[u8] {
        Mbuf::bytes(self)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        Mbuf::bytes_mut(self)
    }

    fn prepend(&mut self, count: usize) -> bool {
        Mbuf::prepend(self, count)
    }

    fn trim_front(&mut self, count: usize) -> bool {
        self.adj(count)
    }

    fn set_len(&mut self, length: usize) -> bool {
        Mbuf::set_len(self, length)
    }

    fn is_whole(&self) -> bool {
        self.segments() == 1
    }

    fn checksum_bad(&self) -> bool {
        self.ip_checksum() == Checksum::Bad || self.l4_checksum() == Checksum::Bad
    }
}

impl RxQueue<Mbuf> for dpdk::RxQueue {
    fn receive(&mut self, burst: &mut Burst<Mbuf>) -> usize {
        self.rx(burst)
    }
}

impl TxQueue<Mbuf> for dpdk::TxQueue {
    fn transmit(&mut self, burst: &mut Burst<Mbuf>) -> usize {
        self.tx(burst)
    }
}

/// A transmit queue for several workers, on devices that have fewer queues than there are workers (pcap, memif): the only
/// lock a worker ever takes, and only there.
#[derive(Clone)]
struct SharedTx(Arc<Mutex<dpdk::TxQueue>>);

impl TxQueue<Mbuf> for SharedTx {
    fn transmit(&mut self, burst: &mut Burst<Mbuf>) -> usize {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tx(burst)
    }
}

struct PoolHandle {
    pool: Mempool,
}

impl BufferPool<Mbuf> for PoolHandle {
    fn allocate(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    fn free(&mut self, burst: &mut ArrayVec<Mbuf, BURST>) {
        Mbuf::free_bulk(burst);
    }
}
