//! A port from attachment to its queues.
//!
//! [`ProbedPort::probe`] makes the device known and tells what it can do; [`ProbedPort::configure`] sets it up;
//! [`Port::start`] lets packets flow; [`Port::take_rx`] and [`Port::take_tx`] hand out each queue once. A queue handle
//! keeps its port alive; when all are gone the port stops and closes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dataplane::device::{BondMode, Device, PortSpec};

use super::attach::{
    Attached, attach, bond, check_device, interface_carrier, interface_mtu, label,
};
use super::eal::Eal;
use super::error::{Error, attempt};
use super::ffi;
use super::mempool::Mempool;
use super::port_config::{Granted, PortConfig, RssConfig, RssFields};
use super::port_info::{self, Link, PortInfo, PortStats};
use super::queue::{RxQueue, TxQueue};

/// A device DPDK knows, not yet set up.
#[derive(Debug)]
pub struct ProbedPort {
    /// What messages call it.
    label: String,
    info: PortInfo,
    device: Device,
    attached: Attached,
    members: Vec<Attached>,
    eal: Eal,
}

impl ProbedPort {
    /// Makes the device of `spec` known to DPDK and asks what it can do.
    ///
    /// # Errors
    /// [`Error::Dpdk`] when DPDK refuses it; [`check_device`] knows the usual reasons better.
    pub fn probe(eal: &Eal, spec: &PortSpec) -> Result<ProbedPort, Error> {
        let label = label(spec);
        let members: Vec<Attached> = spec
            .members()
            .iter()
            .map(|member| attach(&label, member))
            .collect::<Result<_, _>>()?;
        let attached = match &spec.device {
            Device::Bond { mode, .. } => bond(&label, spec, *mode, &members)?,
            _ => attach(&label, spec)?,
        };
        let info = port_info::read(attached.id, &label)?;
        Ok(ProbedPort {
            label,
            info,
            device: spec.device.clone(),
            attached,
            members,
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
            device,
            attached,
            members,
            eal,
        } = self;
        let mut inner = PortInner {
            id: attached.id,
            label,
            device,
            config: config.clone(),
            granted: Granted::default(),
            started: false,
            rx_taken: flags(config.rx_queues),
            tx_taken: flags(config.tx_queues),
            control: Mutex::new(()),
            _attached: attached,
            members,
            primary: AtomicUsize::new(0),
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

fn flags(count: u16) -> Box<[AtomicBool]> {
    (0..count).map(|_| AtomicBool::new(false)).collect()
}

#[derive(Debug)]
pub(super) struct PortInner {
    id: u16,
    label: String,
    device: Device,
    config: PortConfig,
    granted: Granted,
    started: bool,
    rx_taken: Box<[AtomicBool]>,
    tx_taken: Box<[AtomicBool]>,
    /// DPDK does not promise that two threads may change one port at a time.
    control: Mutex<()>,
    /// The member of an active-backup bond that carries the packets.
    primary: AtomicUsize,
    // Dropped in this order: a bond before its members, devices before the buffers they hold, the environment last.
    _attached: Attached,
    members: Vec<Attached>,
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
                    "the device has {have} {way} queues and {want} are wanted (set queues = {have} for the port: workers without a queue are handed their packets)"
                ));
            }
        }
        if config.mtu > info.max_mtu || config.mtu < info.min_mtu {
            return wrong(format!(
                "an MTU of {} is outside the device's {} to {}",
                config.mtu, info.min_mtu, info.max_mtu
            ));
        }
        let small = self
            .sized_by_kernel()
            .filter_map(|interface| Some((interface, interface_mtu(interface)?)))
            .find(|(_, kernel)| *kernel < config.mtu);
        if let Some((interface, kernel)) = small {
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
        // Borrowed for as long as the port lives: drivers keep the pointer to the key and read it when the port starts.
        let none = RssConfig::default();
        let rss = config.rss.as_ref().unwrap_or(&none);
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
            // SAFETY: the port exists and is stopped; `wanted` outlives the call, and the key it points to, which nobody
            // changes, outlives the port.
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
        // A bond's members get their MTU when it starts, and cannot be given one before.
        let bonded = matches!(self.device, Device::Bond { .. });
        if !bonded && self.sized_by_kernel().next().is_none() {
            optional(
                || format!("port {label}: cannot set the MTU to {}", config.mtu),
                // SAFETY: the port exists and is stopped.
                || unsafe { ffi::ng_port_set_mtu(id, config.mtu) },
            )?;
        }
        Ok(())
    }

    /// The kernel interfaces that have the say about the size of packets.
    fn sized_by_kernel(&self) -> impl Iterator<Item = &str> {
        self.device.parts().iter().filter_map(|part| match part {
            Device::AfPacket { interface } => Some(interface.as_str()),
            _ => None,
        })
    }

    /// The MTU to tell the driver. The af_packet driver claims a limit of 1500, but the kernel and the size of the ring's
    /// slots are what really bounds it.
    fn driver_mtu(&self) -> u16 {
        match self.sized_by_kernel().next() {
            Some(_) => self.config.mtu.min(1500),
            None => self.config.mtu,
        }
    }

    /// The carriers of all kernel interfaces behind the port, in order; none when it has other devices, too.
    fn carriers(&self) -> Option<Vec<bool>> {
        let parts = self.device.parts().iter();
        parts
            .map(|part| part.kernel_interface().map(interface_carrier))
            .collect()
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
        self.granted.rss_key &= self.key_in_force()?;
        Ok(())
    }

    /// Whether the device hashes with the wanted key, as far as it tells.
    fn key_in_force(&self) -> Result<bool, Error> {
        let wanted = self.config.rss.as_ref().map_or(&[][..], |rss| &rss.key);
        let mut key = vec![0; wanted.len()];
        let told = optional(
            || format!("port {}: cannot read the RSS key", self.label),
            // SAFETY: the port is started; the shim writes the given number of bytes at most.
            || unsafe { ffi::ng_port_rss_key(self.id, key.as_mut_ptr(), key.len() as u8) },
        )?;
        Ok(!told || key == wanted)
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
    /// [`check_device`], [`ProbedPort::probe`], [`ProbedPort::configure`] and [`Port::start`] in one.
    ///
    /// # Errors
    /// Those of the four.
    pub fn open(
        eal: &Eal,
        spec: &PortSpec,
        config: &PortConfig,
        pools: &[Mempool],
    ) -> Result<Port, Error> {
        check_device(spec)?;
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
        if let Some(mtu) = self.inner.sized_by_kernel().filter_map(interface_mtu).min() {
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

    /// Receives frames for every station from now on. A device that cannot choose does so anyway.
    pub fn receive_everything(&self) -> Result<(), Error> {
        let _one_at_a_time = self.inner.control();
        let what = || {
            format!(
                "port {}: cannot receive frames for others",
                self.inner.label
            )
        };
        // SAFETY: the port exists.
        optional(what, || unsafe {
            ffi::ng_port_promiscuous(self.inner.id, 1)
        })
        .map(drop)
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
        let link = port_info::link(self.inner.id, &self.inner.label)?;
        // The drivers of kernel interfaces believe their link up, whatever becomes of it.
        let carriers = self.inner.carriers();
        Ok(Link {
            up: carriers.map_or(link.up, |carriers| carriers.contains(&true)),
            ..link
        })
    }

    /// Moves an active-backup bond of kernel interfaces to a member with a carrier when the present one has lost its own;
    /// the bonding driver sees to all others by itself.
    pub fn fail_over(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let backed_up = matches!(
            inner.device,
            Device::Bond {
                mode: BondMode::ActiveBackup,
                ..
            }
        );
        let Some(carriers) = inner.carriers().filter(|_| backed_up) else {
            return Ok(());
        };
        let present = inner.primary.load(Ordering::Relaxed);
        let next = carriers.iter().position(|&up| up).unwrap_or(present);
        if carriers[present] || next == present {
            return Ok(());
        }
        let member = inner.members[next].id;
        // SAFETY: both ports exist; the driver allows the change while packets flow.
        self.ask("change to another member", |id| unsafe {
            ffi::ng_bond_set_primary(id, member)
        })?;
        inner.primary.store(next, Ordering::Relaxed);
        Ok(())
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
