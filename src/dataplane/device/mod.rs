//! Device strings of the configuration (`af_packet:eth1`, `pci:0000:3b:00.0`, …) and what each means to DPDK.
//!
//! A [`Device`] is what the user wrote, checked and in canonical form. [`PortSpec::attachment`] turns it into the
//! device arguments DPDK wants, so that nobody else knows them. No DPDK is called here: the configuration is checked
//! with the same code on machines that have none.

mod attach;
mod parse;

use std::fmt;

pub use attach::{Attachment, MOST_MEMBERS, PortSpec};

/// Queue pairs the software drivers can be asked for.
const SOFTWARE_QUEUES: u16 = 16;
/// Bytes a frame may have beyond the MTU: Ethernet header, two VLAN tags.
const FRAME_OVERHEAD: u32 = 14 + 2 * 4;
/// The least a packet buffer holds: network cards count receive buffers in KiB and many insist on two.
const SMALLEST_ROOM: u32 = 2048;
/// What the kernel puts before the frame in a slot of an af_packet ring, rounded up.
const AF_PACKET_SLOT_HEADER: u32 = 80;

/// A device string that means nothing: what was wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(String);

/// The address of a PCI function, as `lspci -D` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

/// Which side of a memif opens the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemifRole {
    /// Connects to a socket that exists.
    Client,
    /// Creates the socket and waits: natgate's default, since it is the side that stays.
    Server,
}

/// How the members of a bond share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BondMode {
    /// One member carries everything; another takes over when its link goes.
    ActiveBackup,
    /// Every member sends, a flow always through the same one; both ends must be told.
    Balance,
    /// As balance, agreed on with the other end (IEEE 802.1AX LACP).
    Lacp,
}

impl BondMode {
    /// Every mode with its name in the configuration.
    pub const ALL: [(&'static str, BondMode); 3] = [
        ("active-backup", BondMode::ActiveBackup),
        ("balance", BondMode::Balance),
        ("lacp", BondMode::Lacp),
    ];
}

impl fmt::Display for BondMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = BondMode::ALL.iter().find(|(_, mode)| mode == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// A device of the configuration's `[[port]]`, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// `pci:0000:3b:00.0[,ARGS]`: a network card. `args` go to its driver unread.
    Pci {
        /// Where it sits.
        address: PciAddress,
        /// Further device arguments, without the leading comma; empty for none.
        args: String,
    },
    /// `af_packet:IFACE`: a kernel interface through a packet socket.
    AfPacket {
        /// The kernel's interface name.
        interface: String,
    },
    /// `af_xdp:IFACE`: a kernel interface through an XDP socket.
    AfXdp {
        /// The kernel's interface name.
        interface: String,
    },
    /// `tap:NAME`: a new kernel interface of that name.
    Tap {
        /// The interface natgate creates.
        name: String,
    },
    /// `memif:PATH[,role=client|server][,id=N]`: shared memory to another program.
    Memif {
        /// The unix socket's path.
        path: String,
        /// Which side creates the socket.
        role: MemifRole,
        /// The interface number both sides agree on.
        id: u32,
    },
    /// `pcap:IN,OUT`: frames come from one file and go to another; an empty name is none.
    Pcap {
        /// The file frames are read from, once.
        input: Option<String>,
        /// The file sent frames are written to.
        output: Option<String>,
    },
    /// `null:[size=N][,rx=no]`: receives endless frames of `size` bytes, swallows what is sent.
    Null {
        /// Bytes per received frame, 14–1518.
        size: u16,
        /// False: never receives anything.
        receive: bool,
    },
    /// `dpdk:DEVARGS`: anything DPDK knows, `net_ring0` or `0000:3b:00.0,arg=1`, handed on unread.
    Raw {
        /// Name, then arguments, separated by commas.
        devargs: String,
    },
    /// `bond = { mode = …, members = […] }`: several devices as one link.
    Bond {
        /// How the members share the work.
        mode: BondMode,
        /// Devices of other kinds, at least one.
        members: Vec<Device>,
    },
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Pci { address, args } if args.is_empty() => write!(f, "pci:{address}"),
            Device::Pci { address, args } => write!(f, "pci:{address},{args}"),
            Device::AfPacket { interface } => write!(f, "af_packet:{interface}"),
            Device::AfXdp { interface } => write!(f, "af_xdp:{interface}"),
            Device::Tap { name } => write!(f, "tap:{name}"),
            Device::Memif { path, role, id } => {
                write!(f, "memif:{path}")?;
                if *role == MemifRole::Client {
                    f.write_str(",role=client")?;
                }
                if *id != 0 {
                    write!(f, ",id={id}")?;
                }
                Ok(())
            }
            Device::Pcap { input, output } => write!(
                f,
                "pcap:{},{}",
                input.as_deref().unwrap_or(""),
                output.as_deref().unwrap_or("")
            ),
            Device::Null { size, receive } => match (*size, *receive) {
                (64, true) => f.write_str("null:"),
                (size, true) => write!(f, "null:size={size}"),
                (64, false) => f.write_str("null:rx=no"),
                (size, false) => write!(f, "null:size={size},rx=no"),
            },
            Device::Raw { devargs } => write!(f, "dpdk:{devargs}"),
            Device::Bond { mode, members } => {
                let members: Vec<String> = members.iter().map(ToString::to_string).collect();
                write!(f, "bond {mode} of {}", members.join(" "))
            }
        }
    }
}

impl Device {
    /// What can stand before the colon.
    pub const KINDS: [&str; 8] = [
        "pci",
        "af_packet",
        "af_xdp",
        "tap",
        "memif",
        "pcap",
        "null",
        "dpdk",
    ];

    /// Receives nothing and swallows what is sent.
    pub const IDLE: Device = Device::Null {
        size: 64,
        receive: false,
    };

    /// Queue pairs this kind of device can have at most. Cards and raw devices say so themselves once they are
    /// attached; here they count as unlimited.
    pub fn max_queues(&self) -> u16 {
        match self {
            Device::Pci { .. } | Device::Raw { .. } => u16::MAX,
            Device::AfPacket { .. } | Device::AfXdp { .. } | Device::Tap { .. } => SOFTWARE_QUEUES,
            Device::Null { .. } | Device::Memif { .. } => SOFTWARE_QUEUES,
            // One file is read in one order; a second writer would garble the other.
            Device::Pcap { .. } => 1,
            Device::Bond { members, .. } => {
                members.iter().map(Device::max_queues).min().unwrap_or(1)
            }
        }
    }

    /// The devices it is made of: a bond's members, or itself.
    pub fn parts(&self) -> &[Device] {
        match self {
            Device::Bond { members, .. } => members,
            single => std::slice::from_ref(single),
        }
    }

    /// The PCI address of a card; a bond has none of its own.
    pub fn pci(&self) -> Option<PciAddress> {
        match self {
            Device::Pci { address, .. } => Some(*address),
            Device::Raw { devargs } => parse::pci_address(first_word(devargs)),
            _ => None,
        }
    }

    /// The kernel interface that must exist before the device can be opened.
    pub fn kernel_interface(&self) -> Option<&str> {
        match self {
            Device::AfPacket { interface } | Device::AfXdp { interface } => Some(interface),
            _ => None,
        }
    }

    /// Bytes of frame a packet buffer must hold so that this device never splits one at `mtu`.
    pub fn frame_room(&self, mtu: u16) -> u16 {
        let frame = (u32::from(mtu) + FRAME_OVERHEAD).next_multiple_of(1024);
        let room = match self {
            // The driver insists that a whole ring slot fits.
            Device::AfPacket { .. } => frame.max(af_packet_slot(mtu)),
            Device::Bond { members, .. } => {
                let rooms = members.iter().map(|member| member.frame_room(mtu));
                frame.max(rooms.max().map_or(0, u32::from))
            }
            _ => frame,
        };
        room.clamp(SMALLEST_ROOM, u32::from(u16::MAX) & !1023) as u16
    }
}

/// Bytes per slot of an af_packet ring. Two slots must be whole pages: the driver assumes that slots lie back to back.
fn af_packet_slot(mtu: u16) -> u32 {
    (u32::from(mtu) + FRAME_OVERHEAD + AF_PACKET_SLOT_HEADER).next_multiple_of(2048)
}

/// The name before the arguments.
fn first_word(devargs: &str) -> &str {
    devargs.split(',').next().unwrap_or(devargs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_follow_the_kind() {
        for (device, most) in [("pcap:a,b", 1), ("memif:/m", 16), ("tap:a", 16)] {
            assert_eq!(device.parse::<Device>().unwrap().max_queues(), most);
        }
    }
}
