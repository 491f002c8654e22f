//! A port from attachment to its queues.
//!
//! [`ProbedPort::probe`] makes the device known and tells what it can do; [`ProbedPort::configure`] sets it up;
//! [`Port::start`] lets packets flow; [`Port::take_rx`] and [`Port::take_tx`] hand out each queue once. A queue handle
//! keeps its port alive; when all are gone the port stops and closes.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dataplane::device::{Device, PortSpec};

use super::eal::Eal;
use super::error::{Error, attempt};
use super::ffi;
use super::mempool::Mempool;
use super::pci;
use super::port_config::{Granted, PortConfig, RssFields};
use super::port_info::{self, Link, PortInfo, PortStats};
use super::queue::{RxQueue, TxQueue};

/// A device DPDK knows, not yet set up.
#[derive(Debug)]
pub struct ProbedPort {
    /// What messages call it.
    label: String,
    info: PortInfo,
    /// The kernel interface that carries the packets and has the say about their size.
    interface: Option<String>,
    attached: Attached,
    eal: Eal,
}

impl ProbedPort {
    /// Makes the device of `spec` known to DPDK and asks what it can do.
    ///
    /// # Errors
    /// [`Error::Device`] when it is missing or in the wrong hands, [`Error::Dpdk`] when DPDK refuses it.
    pub fn probe(eal: &Eal, spec: &PortSpec) -> Result<ProbedPort, Error> {
        let label = format!("{} ({})", spec.name, spec.device);
        precheck(&label, &spec.device)?;
        let attachment = spec.attachment();
        let nul = |_| Error::Device(format!("port {label}: the device contains a NUL byte"));
        let name = CString::new(attachment.name).map_err(nul)?;
        let devargs = CString::new(attachment.devargs).map_err(nul)?;
        let mut detach = None;
        if find(&name).is_none() {
            attempt(
                || format!("port {label}: DPDK cannot open it"),
                // SAFETY: the environment is initialised; the string outlives the call, which copies it.
                || unsafe { ffi::ng_device_attach(devargs.as_ptr()) },
            )?;
            detach = (!attachment.pci).then(|| name.clone());
        }
        let Some(id) = find(&name) else {
            return Err(Error::Device(format!(
                "port {label}: DPDK opened the device but shows no port for it"
            )));
        };
        let attached = Attached::claim(id, detach).ok_or_else(|| {
            Error::Device(format!(
                "port {label}: another port has this device already"
            ))
        })?;
        let info = port_info::read(id, &label)?;
        let interface = match &spec.device {
            Device::AfPacket { interface } => Some(interface.clone()),
            _ => None,
        };
        Ok(ProbedPort {
            label,
            info,
            interface,
            attached,
            eal: eal.clone(),
        })
    }

    /// What the device can do.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Sets the port up. Receive queue `n` takes its buffers from `pools[n % pools.len()]`.
    ///
    /// # Errors
    /// [`Error::Device`] when the device has too few queues or too small a maximum MTU, or a pool's buffers cannot
    /// hold a frame; [`Error::Dpdk`] when the driver refuses.
    pub fn configure(self, config: &PortConfig, pools: &[Mempool]) -> Result<Port, Error> {
        let ProbedPort {
            label,
            info,
            interface,
            attached,
            eal,
        } = self;
        let mut inner = PortInner {
            id: attached.id,
            label,
            interface,
            config: config.clone(),
            granted: Granted::default(),
            started: false,
            rx_taken: flags(config.rx_queues),
            tx_taken: flags(config.tx_queues),
            control: Mutex::new(()),
            _attached: attached,
            pools: pools.to_vec(),
            _eal: eal,
        };
        inner.check(&info)?;
        inner.set_up(&info)?;
        Ok(Port {
            inner: Arc::new(inner),
            info,
        })
    }
}

/// What can be found out in better words than DPDK's before it is asked.
fn precheck(label: &str, device: &Device) -> Result<(), Error> {
    let missing = |what: String| Err(Error::Device(format!("port {label}: {what}")));
    if let Some(address) = device.pci() {
        return pci::check(address)
            .map_err(|error| Error::Device(format!("port {label}: {error}")));
    }
    if let Some(interface) = device.kernel_interface()
        && !std::path::Path::new("/sys/class/net")
            .join(interface)
            .exists()
    {
        return missing(format!(
            "there is no network interface {interface} (`ip link` lists those there are)"
        ));
    }
    match device {
        Device::Pcap {
            input: Some(file), ..
        } => match std::fs::File::open(file) {
            Ok(_) => Ok(()),
            Err(error) => missing(format!("cannot read {file}: {error}")),
        },
        Device::Tap { .. } if !std::path::Path::new("/dev/net/tun").exists() => missing(
            "/dev/net/tun is missing (`modprobe tun`; in a container, pass the device in)".into(),
        ),
        _ => Ok(()),
    }
}

/// What the kernel says an interface's MTU is.
fn interface_mtu(interface: &str) -> Option<u16> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?;
    let mtu: u32 = text.trim().parse().ok()?;
    Some(u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn find(name: &CString) -> Option<u16> {
    let mut id = 0;
    // SAFETY: called with the environment initialised; both pointers are valid for the call.
    (unsafe { ffi::ng_port_by_name(name.as_ptr(), &mut id) } == 0).then_some(id)
}

fn flags(count: u16) -> Box<[AtomicBool]> {
    (0..count).map(|_| AtomicBool::new(false)).collect()
}

/// Which port numbers have an owner in this process. DPDK would give the same one out twice, and two owners would be
/// two threads in one queue.
static CLAIMED: [AtomicBool; 256] = [const { AtomicBool::new(false) }; 256];

/// A device DPDK knows, owned; closed in the end.
#[derive(Debug)]
struct Attached {
    id: u16,
    /// The virtual device to detach in the end.
    detach: Option<CString>,
}

impl Attached {
    fn claim(id: u16, detach: Option<CString>) -> Option<Attached> {
        let taken = CLAIMED.get(usize::from(id))?;
        (!taken.swap(true, Ordering::AcqRel)).then_some(Attached { id, detach })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: we are the port's only owner, so nobody receives or sends here; an owner that started it has stopped
        // it. The name outlives the call.
        unsafe {
            ffi::ng_port_close(self.id);
            if let Some(name) = &self.detach {
                ffi::ng_virtual_device_detach(name.as_ptr());
            }
        }
        CLAIMED[usize::from(self.id)].store(false, Ordering::Release);
    }
}

#[derive(Debug)]
pub(super) struct PortInner {
    id: u16,
    label: String,
    interface: Option<String>,
    config: PortConfig,
    granted: Granted,
    started: bool,
    rx_taken: Box<[AtomicBool]>,
    tx_taken: Box<[AtomicBool]>,
    /// DPDK does not promise that two threads may change one port at a time.
    control: Mutex<()>,
    // Dropped in this order: the device before the buffers it holds, the environment last.
    _attached: Attached,
    pools: Vec<Mempool>,
    _eal: Eal,
}

impl PortInner {
    fn check(&self, info: &PortInfo) -> Result<(), Error> {
        let (label, config) = (&self.label, &self.config);
        let wrong = |what: String| Err(Error::Device(format!("port {label}: {what}")));
        if config.rx_queues == 0 || config.tx_queues == 0 || self.pools.is_empty() {
            return wrong("needs at least one queue each way and a buffer pool".into());
        }
        for (have, want, way) in [
            (info.max_rx_queues, config.rx_queues, "receive"),
            (info.max_tx_queues, config.tx_queues, "transmit"),
        ] {
            if want > have {
                return wrong(format!(
                    "the device has {have} {way} queues and {want} are wanted (use at most {have} workers, or a device with more)"
                ));
            }
        }
        if config.mtu > info.max_mtu || config.mtu < info.min_mtu {
            return wrong(format!(
                "an MTU of {} is outside the device's {} to {}",
                config.mtu, info.min_mtu, info.max_mtu
            ));
        }
        if let Some(interface) = &self.interface
            && let Some(kernel) = interface_mtu(interface)
            && kernel < config.mtu
        {
            return wrong(format!(
                "{interface} has an MTU of {kernel}, {} is wanted (set mtu = {kernel} for the port, or `ip link set {interface} mtu {}`)",
                config.mtu, config.mtu
            ));
        }
        let frame = u32::from(config.mtu) + 22;
        match self
            .pools
            .iter()
            .find(|pool| u32::from(pool.frame_room()) < frame)
        {
            Some(pool) => wrong(format!(
                "packet buffers of {} bytes cannot hold a frame of {frame}",
                pool.frame_room()
            )),
            None => Ok(()),
        }
    }

    fn set_up(&mut self, info: &PortInfo) -> Result<(), Error> {
        let (id, label, config) = (self.id, &self.label, &self.config);
        let rss = config.rss.clone().unwrap_or_default();
        let mut wanted = ffi::ng_port_config {
            rx_queues: config.rx_queues,
            tx_queues: config.tx_queues,
            mtu: self.driver_mtu(),
            checksum: u8::from(config.checksum_offload),
            rss_key_len: u8::try_from(rss.key.len()).unwrap_or(0),
            rss_key: if rss.key.is_empty() {
                std::ptr::null()
            } else {
                rss.key.as_ptr()
            },
            rss: rss.fields.bits(),
            ..Default::default()
        };
        attempt(
            || format!("port {label}: cannot configure {} queues", config.rx_queues),
            // SAFETY: the port exists and is stopped; `wanted` and the key it points to outlive the call.
            || unsafe { ffi::ng_port_configure(id, &mut wanted) },
        )?;
        self.granted.rss = RssFields::from_bits(wanted.rss_used);
        self.granted.rss_key = wanted.rss_used != 0
            && !rss.key.is_empty()
            && rss.key.len() == usize::from(info.hash_key_size);
        self.granted.ip_checksum = wanted.offloads_used & ffi::NG_OFFLOAD_RX_IP_CHECKSUM != 0;
        self.granted.l4_checksum = wanted.offloads_used & ffi::NG_OFFLOAD_RX_L4_CHECKSUM != 0;

        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        attempt(
            || format!("port {label}: cannot choose ring sizes"),
            // SAFETY: the port exists; both pointers are valid for the call.
            || unsafe { ffi::ng_port_descriptors(id, &mut rx, &mut tx) },
        )?;
        for queue in 0..config.rx_queues {
            let pool = &self.pools[usize::from(queue) % self.pools.len()];
            attempt(
                || format!("port {label}: cannot set up receive queue {queue}"),
                // SAFETY: the port is configured with this queue; the pool outlives the port, which owns a clone.
                || unsafe { ffi::ng_rx_queue_setup(id, queue, rx, pool.as_ptr()) },
            )?;
        }
        for queue in 0..config.tx_queues {
            attempt(
                || format!("port {label}: cannot set up transmit queue {queue}"),
                // SAFETY: the port is configured with this queue.
                || unsafe { ffi::ng_tx_queue_setup(id, queue, tx) },
            )?;
        }
        if self.interface.is_none() {
            optional(
                || format!("port {label}: cannot set the MTU to {}", config.mtu),
                // SAFETY: the port exists and is stopped.
                || unsafe { ffi::ng_port_set_mtu(id, config.mtu) },
            )?;
        }
        Ok(())
    }

    /// The MTU to tell the driver. The af_packet driver claims a limit of 1500, but the kernel and the size of the ring's
    /// slots are what really bounds it.
    fn driver_mtu(&self) -> u16 {
        match self.interface {
            Some(_) => self.config.mtu.min(1500),
            None => self.config.mtu,
        }
    }

    fn start(&mut self) -> Result<(), Error> {
        let (id, label, config) = (self.id, &self.label, &self.config);
        attempt(
            || format!("port {label}: cannot start"),
            // SAFETY: the port is configured and all its queues are set up.
            || unsafe { ffi::ng_port_start(id) },
        )?;
        self.started = true;
        self.granted.promiscuous = optional(
            || format!("port {label}: cannot choose promiscuous mode"),
            // SAFETY: the port is started.
            || unsafe { ffi::ng_port_promiscuous(id, i32::from(config.promiscuous)) },
        )? && config.promiscuous;
        if !config.promiscuous {
            // Neighbour discovery (RFC 4861) speaks to multicast addresses.
            optional(
                || format!("port {label}: cannot receive multicast"),
                // SAFETY: the port is started.
                || unsafe { ffi::ng_port_allmulticast(id, 1) },
            )?;
        }
        if let Some(rss) = &config.rss
            && !rss.reta.is_empty()
            && config.rx_queues > 1
        {
            self.granted.reta = self.set_reta(&rss.reta)?;
        }
        Ok(())
    }

    /// False when the device has no such table.
    fn set_reta(&self, queues: &[u16]) -> Result<bool, Error> {
        let label = &self.label;
        if let Some(queue) = queues.iter().find(|&&queue| queue >= self.config.rx_queues) {
            return Err(Error::Device(format!(
                "port {label}: redirection to queue {queue}, which does not exist"
            )));
        }
        optional(
            || format!("port {label}: cannot write the redirection table"),
            // SAFETY: the port is started; the table is valid for the call and its length is passed.
            || unsafe {
                ffi::ng_port_set_reta(
                    self.id,
                    queues.as_ptr(),
                    queues.len().min(usize::from(u16::MAX)) as u16,
                )
            },
        )
    }

    /// DPDK's number of the port.
    pub(super) fn id(&self) -> u16 {
        self.id
    }

    pub(super) fn rx_taken(&self, queue: u16) -> &AtomicBool {
        &self.rx_taken[usize::from(queue)]
    }

    pub(super) fn tx_taken(&self, queue: u16) -> &AtomicBool {
        &self.tx_taken[usize::from(queue)]
    }

    fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt at something not every device has: false when it says so.
fn optional(what: impl FnOnce() -> String, call: impl FnOnce() -> i32) -> Result<bool, Error> {
    let mut supported = true;
    attempt(what, || match call() {
        code if code == -nix::libc::ENOTSUP || code == -nix::libc::ENOSYS => {
            supported = false;
            0
        }
        code => code,
    })?;
    Ok(supported)
}

impl Drop for PortInner {
    fn drop(&mut self) {
        if self.started {
            // SAFETY: no queue handle is left, since each owns a share of `self`; so nobody receives or sends here.
            unsafe { ffi::ng_port_stop(self.id) };
        }
    }
}

/// A port that is set up. Give its queues to workers; keep this for control.
#[derive(Debug)]
pub struct Port {
    inner: Arc<PortInner>,
    info: PortInfo,
}

impl Port {
    /// [`ProbedPort::probe`], [`ProbedPort::configure`] and [`Port::start`] in one.
    ///
    /// # Errors
    /// Those of the three.
    pub fn open(
        eal: &Eal,
        spec: &PortSpec,
        config: &PortConfig,
        pools: &[Mempool],
    ) -> Result<Port, Error> {
        let mut port = ProbedPort::probe(eal, spec)?.configure(config, pools)?;
        port.start()?;
        Ok(port)
    }

    /// Lets packets flow, then sets what some drivers accept only now: promiscuous mode, redirection table.
    ///
    /// # Errors
    /// [`Error::Busy`] while queue handles are out, [`Error::Dpdk`] when the driver refuses.
    pub fn start(&mut self) -> Result<(), Error> {
        let inner = self.exclusive()?;
        if inner.started { Ok(()) } else { inner.start() }
    }

    /// Stops the port; it can be started again.
    ///
    /// # Errors
    /// [`Error::Busy`] while queue handles are out, [`Error::Dpdk`] when the driver refuses.
    pub fn stop(&mut self) -> Result<(), Error> {
        let inner = self.exclusive()?;
        if inner.started {
            // SAFETY: no queue handle is out, since `inner` is exclusive.
            let stop = || unsafe { ffi::ng_port_stop(inner.id) };
            attempt(|| format!("port {}: cannot stop", inner.label), stop)?;
            inner.started = false;
        }
        Ok(())
    }

    fn exclusive(&mut self) -> Result<&mut PortInner, Error> {
        let label = self.inner.label.clone();
        Arc::get_mut(&mut self.inner).ok_or(Error::Busy(label))
    }

    /// The one handle of a receive queue; none if it is out already, does not exist, or the port is not started.
    pub fn take_rx(&self, queue: u16) -> Option<RxQueue> {
        let taken = self.inner.rx_taken.get(usize::from(queue))?;
        let free = self.inner.started && !taken.swap(true, Ordering::AcqRel);
        free.then(|| RxQueue::new(Arc::clone(&self.inner), queue))
    }

    /// The one handle of a transmit queue; none if it is out already, does not exist, or the port is not started.
    pub fn take_tx(&self, queue: u16) -> Option<TxQueue> {
        let taken = self.inner.tx_taken.get(usize::from(queue))?;
        let free = self.inner.started && !taken.swap(true, Ordering::AcqRel);
        free.then(|| TxQueue::new(Arc::clone(&self.inner), queue))
    }

    /// What the device can do.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// What became of the wishes a device may decline.
    pub fn granted(&self) -> Granted {
        self.inner.granted
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &PortConfig {
        &self.inner.config
    }

    /// Largest IP packet in bytes, as the device has it.
    pub fn mtu(&self) -> Result<u16, Error> {
        if let Some(mtu) = self.inner.interface.as_deref().and_then(interface_mtu) {
            return Ok(mtu);
        }
        let mut mtu = 0;
        // SAFETY: the port exists; the pointer is valid for the call.
        self.ask("read the MTU", |id| unsafe {
            ffi::ng_port_mtu(id, &mut mtu)
        })?;
        Ok(mtu)
    }

    /// The port's MAC address.
    pub fn mac(&self) -> Result<[u8; 6], Error> {
        let mut mac = [0; 6];
        // SAFETY: the port exists; the shim writes the six bytes.
        self.ask("read the MAC address", |id| unsafe {
            ffi::ng_port_mac(id, mac.as_mut_ptr())
        })?;
        Ok(mac)
    }

    /// Changes the port's MAC address. Not every driver can.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        // SAFETY: the port exists; the shim reads the six bytes.
        self.ask("set the MAC address", |id| unsafe {
            ffi::ng_port_set_mac(id, mac.as_ptr())
        })
    }

    /// Receives frames for a further MAC address.
    pub fn add_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        // SAFETY: the port exists; the shim reads the six bytes.
        self.ask("add a MAC address", |id| unsafe {
            ffi::ng_port_add_mac(id, mac.as_ptr())
        })
    }

    /// Rewrites the redirection table of the running port. False: the device has none.
    pub fn set_reta(&self, queues: &[u16]) -> Result<bool, Error> {
        let _one_at_a_time = self.inner.control();
        self.inner.set_reta(queues)
    }

    /// State of the link, without waiting for it.
    pub fn link(&self) -> Result<Link, Error> {
        let _one_at_a_time = self.inner.control();
        port_info::link(self.inner.id, &self.inner.label)
    }

    /// The common counters since the start or the last reset.
    pub fn stats(&self) -> Result<PortStats, Error> {
        let _one_at_a_time = self.inner.control();
        port_info::stats(self.inner.id, &self.inner.label)
    }

    /// Sets the counters to zero.
    pub fn reset_stats(&self) -> Result<(), Error> {
        // SAFETY: the port exists.
        self.ask("reset the counters", |id| unsafe {
            ffi::ng_port_stats_reset(id)
        })
    }

    /// Every counter the driver has, by its name for it.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>, Error> {
        let _one_at_a_time = self.inner.control();
        port_info::xstats(self.inner.id, &self.inner.label)
    }

    fn ask(&self, what: &str, call: impl FnOnce(u16) -> i32) -> Result<(), Error> {
        let _one_at_a_time = self.inner.control();
        let what = || format!("port {}: cannot {what}", self.inner.label);
        attempt(what, || call(self.inner.id)).map(drop)
    }
}
