//! Devices on their way into DPDK: what is in the way of one, how it is attached, who owns its port number.

use std::ffi::CString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::dataplane::device::{BondMode, Device, PortSpec};

use super::error::{Error, attempt};
use super::{ffi, pci};

/// What messages call a port.
pub(super) fn label(spec: &PortSpec) -> String {
    format!("{} ({})", spec.name, spec.device)
}

/// Finds out in better words than DPDK's, before it is asked, why it could not drive a device.
///
/// # Errors
/// [`Error::Device`] with one sentence: what is missing or in the wrong hands, and the way out.
pub fn check_device(spec: &PortSpec) -> Result<(), Error> {
    let label = label(spec);
    let mut parts = spec.device.parts().iter();
    parts.try_for_each(|part| check_part(&label, part))
}

fn check_part(label: &str, device: &Device) -> Result<(), Error> {
    let missing = |what: String| Err(Error::Device(format!("port {label}: {what}")));
    if let Some(address) = device.pci() {
        return pci::check(address)
            .map_err(|error| Error::Device(format!("port {label}: {error}")));
    }
    if let Some(interface) = device.kernel_interface()
        && !Path::new("/sys/class/net").join(interface).exists()
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
        Device::Tap { .. } if !Path::new("/dev/net/tun").exists() => missing(
            "/dev/net/tun is missing (`modprobe tun`; in a container, pass the device in)".into(),
        ),
        _ => Ok(()),
    }
}

/// Makes one device known to DPDK and takes its port.
pub(super) fn attach(label: &str, spec: &PortSpec) -> Result<Attached, Error> {
    let attachment = spec.attachment();
    let name = c_string(label, attachment.name)?;
    let devargs = c_string(label, attachment.devargs)?;
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
    claimed(label, id, detach)
}

/// Makes a bond of ports that are attached, and takes its port.
pub(super) fn bond(
    label: &str,
    spec: &PortSpec,
    mode: BondMode,
    members: &[Attached],
) -> Result<Attached, Error> {
    let name = c_string(label, spec.attachment().name)?;
    let members: Vec<u16> = members.iter().map(|member| member.id).collect();
    let mode = match mode {
        BondMode::ActiveBackup => ffi::NG_BOND_ACTIVE_BACKUP,
        BondMode::Balance => ffi::NG_BOND_BALANCE,
        BondMode::Lacp => ffi::NG_BOND_LACP,
    };
    let id = attempt(
        || format!("port {label}: DPDK cannot bond its members"),
        // SAFETY: the environment is initialised; name and members outlive the call; the members are ours and stopped.
        || unsafe {
            ffi::ng_bond_create(name.as_ptr(), mode, members.as_ptr(), members.len() as u16)
        },
    )?;
    claimed(label, id as u16, Some(name))
}

fn claimed(label: &str, id: u16, detach: Option<CString>) -> Result<Attached, Error> {
    Attached::claim(id, detach).ok_or_else(|| {
        Error::Device(format!(
            "port {label}: another port has this device already"
        ))
    })
}

fn c_string(label: &str, text: String) -> Result<CString, Error> {
    CString::new(text)
        .map_err(|_| Error::Device(format!("port {label}: the device contains a NUL byte")))
}

fn find(name: &CString) -> Option<u16> {
    let mut id = 0;
    // SAFETY: called with the environment initialised; both pointers are valid for the call.
    (unsafe { ffi::ng_port_by_name(name.as_ptr(), &mut id) } == 0).then_some(id)
}

/// Which port numbers have an owner in this process. DPDK would give the same one out twice, and two owners would be
/// two threads in one queue.
static CLAIMED: [AtomicBool; 256] = [const { AtomicBool::new(false) }; 256];

/// A device DPDK knows, owned; closed in the end.
#[derive(Debug)]
pub(super) struct Attached {
    /// DPDK's number of the port.
    pub(super) id: u16,
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

/// What the kernel says an interface's MTU is.
pub(super) fn interface_mtu(interface: &str) -> Option<u16> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?;
    let mtu: u32 = text.trim().parse().ok()?;
    Some(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// Whether the kernel says that an interface is up and has a carrier. One that is gone has none.
pub(super) fn interface_carrier(interface: &str) -> bool {
    let works = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let Ok(mut all) = getifaddrs() else {
        // A kernel that does not answer is taken at its best.
        return true;
    };
    all.find(|on| on.interface_name == interface)
        .is_some_and(|on| on.flags.contains(works))
}
