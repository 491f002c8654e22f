//! Device strings of the configuration (`af_packet:eth1`, `pci:0000:3b:00.0`, …) and what each means to DPDK.
//!
//! A [`Device`] is what the user wrote, checked and in canonical form. [`PortSpec::attachment`] turns it into the
//! device arguments DPDK wants, so that nobody else knows them. No DPDK is called here: the configuration is checked
//! with the same code on machines that have none.

use std::fmt;
use std::str::FromStr;

/// Queue pairs the kernel-backed drivers can be asked for.
const KERNEL_QUEUES: u16 = 16;
/// Bytes a frame may have beyond the MTU: Ethernet header, two VLAN tags.
const FRAME_OVERHEAD: u32 = 14 + 2 * 4;
/// The least a packet buffer holds: network cards count receive buffers in KiB and many insist on two.
const SMALLEST_ROOM: u32 = 2048;
/// What the kernel puts before the frame in a slot of an af_packet ring, rounded up.
const AF_PACKET_SLOT_HEADER: u32 = 80;
/// Slots per direction and queue of an af_packet ring.
const AF_PACKET_SLOTS: u32 = 2048;

/// A device string that means nothing: what was wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(String);

fn wrong<T>(message: impl Into<String>) -> Result<T, DeviceError> {
    Err(DeviceError(message.into()))
}

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

impl FromStr for PciAddress {
    type Err = DeviceError;

    /// Reads `0000:3b:00.0`, or `3b:00.0` in domain 0.
    fn from_str(text: &str) -> Result<PciAddress, DeviceError> {
        parse_pci(text).ok_or_else(|| {
            DeviceError(format!(
                "{text:?} is not a PCI address (write it as 0000:3b:00.0, see `lspci -D`)"
            ))
        })
    }
}

fn parse_pci(text: &str) -> Option<PciAddress> {
    let hex = |part: &str, digits: usize| {
        let fits =
            (1..=digits).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| u16::from_str_radix(part, 16).ok()).flatten()
    };
    let (rest, function) = text.rsplit_once('.')?;
    let parts: Vec<&str> = rest.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [domain, bus, device] => (hex(domain, 4)?, bus, device),
        [bus, device] => (0, bus, device),
        _ => return None,
    };
    let address = PciAddress {
        domain,
        bus: hex(bus, 2)? as u8,
        device: hex(device, 2)? as u8,
        function: hex(function, 1)? as u8,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

/// Which side of a memif opens the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemifRole {
    /// Connects to a socket that exists.
    Client,
    /// Creates the socket and waits: natgate's default, since it is the side that stays.
    Server,
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
    /// `memif:PATH[,role=client|server][,id=N][,queues=N]`: shared memory to another program.
    Memif {
        /// The unix socket's path.
        path: String,
        /// Which side creates the socket.
        role: MemifRole,
        /// The interface number both sides agree on.
        id: u32,
        /// Queue pairs, 1–16; the other side must have as many.
        queues: u16,
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
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Device, DeviceError> {
        let Some((kind, rest)) = text.split_once(':') else {
            return wrong(format!(
                "{text:?} has no device kind (write KIND:WHERE, for example af_packet:eth1)"
            ));
        };
        match kind {
            "pci" => {
                let (address, args) = rest.split_once(',').unwrap_or((rest, ""));
                Ok(Device::Pci {
                    address: address.parse()?,
                    args: args.to_string(),
                })
            }
            "af_packet" => Ok(Device::AfPacket {
                interface: interface_name(rest)?,
            }),
            "af_xdp" => Ok(Device::AfXdp {
                interface: interface_name(rest)?,
            }),
            "tap" => Ok(Device::Tap {
                name: interface_name(rest)?,
            }),
            "memif" => parse_memif(rest),
            "pcap" => parse_pcap(rest),
            "null" => parse_null(rest),
            "dpdk" if rest.is_empty() => {
                wrong("dpdk: needs device arguments, for example dpdk:net_ring0")
            }
            "dpdk" => Ok(Device::Raw {
                devargs: rest.to_string(),
            }),
            _ => wrong(format!(
                "{kind:?} is no kind of device (pci, af_packet, af_xdp, tap, memif, pcap, null, dpdk)"
            )),
        }
    }
}

/// A name the kernel accepts for an interface and DPDK accepts in an argument.
fn interface_name(name: &str) -> Result<String, DeviceError> {
    let bad = |b: u8| b.is_ascii_whitespace() || b.is_ascii_control() || b"/,:=".contains(&b);
    if name.is_empty() || name.len() > 15 || name.bytes().any(bad) {
        return wrong(format!(
            "{name:?} cannot be an interface name (1 to 15 characters, none of them a space, '/', ',', ':' or '=')"
        ));
    }
    Ok(name.to_string())
}

/// A path that survives DPDK's argument syntax, which has no way to quote a comma.
fn path_name(path: &str) -> Result<String, DeviceError> {
    let bad = |c: char| c.is_control() || "=[]()".contains(c);
    if path.is_empty() || path.chars().any(bad) {
        return wrong(format!(
            "{path:?} cannot be used as a path here (not empty, and none of ',=[]()')"
        ));
    }
    Ok(path.to_string())
}

/// `key=value` words after the first part of a device string.
fn options(text: &str) -> impl Iterator<Item = Result<(&str, &str), DeviceError>> {
    text.split(',').filter(|word| !word.is_empty()).map(|word| {
        word.split_once('=')
            .ok_or_else(|| DeviceError(format!("{word:?} is not KEY=VALUE")))
    })
}

/// A number within bounds, or what it may be.
fn number(key: &str, value: &str, least: u32, most: u32) -> Result<u32, DeviceError> {
    match value.parse() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => wrong(format!(
            "{key}={value} must be a number from {least} to {most}"
        )),
    }
}

fn parse_memif(text: &str) -> Result<Device, DeviceError> {
    let (path, rest) = text.split_once(',').unwrap_or((text, ""));
    let path = path_name(path)?;
    // The limit of a unix socket's address.
    if path.len() > 107 {
        return wrong("the path of a memif socket has at most 107 bytes");
    }
    let (mut role, mut id, mut queues) = (MemifRole::Server, 0, 1);
    for option in options(rest) {
        match option? {
            ("role", "server") => role = MemifRole::Server,
            ("role", "client") => role = MemifRole::Client,
            ("role", other) => return wrong(format!("role={other} must be client or server")),
            ("id", value) => id = number("id", value, 0, u32::MAX)?,
            ("queues", value) => {
                queues = number("queues", value, 1, u32::from(KERNEL_QUEUES))? as u16;
            }
            (key, _) => return wrong(format!("memif has no option {key:?} (role, id, queues)")),
        }
    }
    Ok(Device::Memif {
        path,
        role,
        id,
        queues,
    })
}

fn parse_pcap(text: &str) -> Result<Device, DeviceError> {
    let (input, output) = text.split_once(',').unwrap_or((text, ""));
    let file = |name: &str| match name {
        "" => Ok(None),
        name if name.contains(',') => {
            wrong(format!("{name:?}: a pcap device has two files, IN,OUT"))
        }
        name => path_name(name).map(Some),
    };
    let (input, output) = (file(input)?, file(output)?);
    if input.is_none() && output.is_none() {
        return wrong("a pcap device needs a file to read, one to write, or both (pcap:IN,OUT)");
    }
    Ok(Device::Pcap { input, output })
}

fn parse_null(text: &str) -> Result<Device, DeviceError> {
    let (mut size, mut receive) = (64, true);
    for option in options(text) {
        match option? {
            ("size", value) => size = number("size", value, 14, 1518)? as u16,
            ("rx", "yes") => receive = true,
            ("rx", "no") => receive = false,
            ("rx", other) => return wrong(format!("rx={other} must be yes or no")),
            (key, _) => return wrong(format!("null has no option {key:?} (size, rx)")),
        }
    }
    Ok(Device::Null { size, receive })
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Pci { address, args } if args.is_empty() => write!(f, "pci:{address}"),
            Device::Pci { address, args } => write!(f, "pci:{address},{args}"),
            Device::AfPacket { interface } => write!(f, "af_packet:{interface}"),
            Device::AfXdp { interface } => write!(f, "af_xdp:{interface}"),
            Device::Tap { name } => write!(f, "tap:{name}"),
            Device::Memif {
                path,
                role,
                id,
                queues,
            } => {
                write!(f, "memif:{path}")?;
                if *role == MemifRole::Client {
                    f.write_str(",role=client")?;
                }
                if *id != 0 {
                    write!(f, ",id={id}")?;
                }
                if *queues != 1 {
                    write!(f, ",queues={queues}")?;
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
        }
    }
}

impl Device {
    /// Queue pairs this kind of device can have at most. Cards and raw devices say so themselves once they are
    /// attached; here they count as unlimited.
    pub fn max_queues(&self) -> u16 {
        match self {
            Device::Pci { .. } | Device::Raw { .. } => u16::MAX,
            Device::AfPacket { .. } | Device::AfXdp { .. } | Device::Tap { .. } => KERNEL_QUEUES,
            Device::Null { .. } => KERNEL_QUEUES,
            Device::Memif { queues, .. } => *queues,
            // One file is read in one order; a second writer would garble the other.
            Device::Pcap { .. } => 1,
        }
    }

    /// The PCI address, when DPDK must scan the PCI bus for this device.
    pub fn pci(&self) -> Option<PciAddress> {
        match self {
            Device::Pci { address, .. } => Some(*address),
            Device::Raw { devargs } => parse_pci(first_word(devargs)),
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

    /// Whether a peer process maps the same memory, which rules out anonymous huge pages.
    pub fn shares_memory(&self) -> bool {
        matches!(self, Device::Memif { .. })
    }

    /// Bytes of frame a packet buffer must hold so that this device never splits one at `mtu`.
    pub fn frame_room(&self, mtu: u16) -> u16 {
        let frame = (u32::from(mtu) + FRAME_OVERHEAD).next_multiple_of(1024);
        let room = match self {
            // The driver insists that a whole ring slot fits.
            Device::AfPacket { .. } => frame.max(af_packet_slot(mtu)),
            _ => frame,
        };
        room.clamp(SMALLEST_ROOM, u32::from(u16::MAX) & !1023) as u16
    }
}

/// Bytes per slot of an af_packet ring. Two slots must be whole pages: the driver assumes that slots lie back to back.
fn af_packet_slot(mtu: u16) -> u32 {
    (u32::from(mtu) + FRAME_OVERHEAD + AF_PACKET_SLOT_HEADER).next_multiple_of(2048)
}

fn first_word(devargs: &str) -> &str {
    devargs.split(',').next().unwrap_or(devargs)
}

/// One port as it is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The name in the configuration, for messages.
    pub name: String,
    /// Position in the configuration: makes the names of virtual devices unique.
    pub index: u16,
    /// The device.
    pub device: Device,
    /// Queue pairs wanted, 1 up to [`Device::max_queues`].
    pub queues: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

/// How DPDK is told of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The name DPDK will know the port by.
    pub name: String,
    /// The full device arguments: name, then arguments.
    pub devargs: String,
    /// On the PCI bus: goes to the EAL at start (`-a`). Others are attached later, one by one, for better messages.
    pub pci: bool,
}

impl PortSpec {
    /// The DPDK name and device arguments for this port.
    pub fn attachment(&self) -> Attachment {
        let virtual_device = |driver: &str, args: String| {
            let name = format!("net_{driver}{}", self.index);
            let devargs = if args.is_empty() {
                name.clone()
            } else {
                format!("{name},{args}")
            };
            Attachment {
                name,
                devargs,
                pci: false,
            }
        };
        match &self.device {
            Device::Pci { address, args } => Attachment {
                name: address.to_string(),
                devargs: if args.is_empty() {
                    address.to_string()
                } else {
                    format!("{address},{args}")
                },
                pci: true,
            },
            Device::AfPacket { interface } => {
                let slot = af_packet_slot(self.mtu);
                virtual_device(
                    "af_packet",
                    format!(
                        "iface={interface},qpairs={},blocksz={},framesz={slot},framecnt={AF_PACKET_SLOTS}",
                        self.queues,
                        2 * slot
                    ),
                )
            }
            Device::AfXdp { interface } if self.queues > 1 => virtual_device(
                "af_xdp",
                format!("iface={interface},queue_count={}", self.queues),
            ),
            Device::AfXdp { interface } => virtual_device("af_xdp", format!("iface={interface}")),
            Device::Tap { name } => virtual_device("tap", format!("iface={name}")),
            Device::Memif { path, role, id, .. } => {
                let role = match role {
                    MemifRole::Client => "client",
                    MemifRole::Server => "server",
                };
                virtual_device(
                    "memif",
                    format!("role={role},id={id},socket={path},socket-abstract=no"),
                )
            }
            Device::Pcap { input, output } => {
                let rx = input.iter().map(|file| format!("rx_pcap={file}"));
                let tx = output.iter().map(|file| format!("tx_pcap={file}"));
                virtual_device("pcap", rx.chain(tx).collect::<Vec<_>>().join(","))
            }
            Device::Null { size, receive } => {
                virtual_device("null", format!("size={size},no-rx={}", u8::from(!receive)))
            }
            Device::Raw { devargs } => Attachment {
                name: self.device.pci().map_or_else(
                    || first_word(devargs).to_string(),
                    |address| address.to_string(),
                ),
                devargs: devargs.clone(),
                pci: self.device.pci().is_some(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(device: &str, queues: u16, mtu: u16) -> PortSpec {
        PortSpec {
            name: "lan".into(),
            index: 3,
            device: device.parse().unwrap(),
            queues,
            mtu,
        }
    }

    #[test]
    fn every_kind_reads_and_prints_in_canonical_form() {
        for (written, canonical) in [
            ("pci:0000:3b:00.0", "pci:0000:3b:00.0"),
            ("pci:3B:0.1,rx-burst=1", "pci:0000:3b:00.1,rx-burst=1"),
            ("af_packet:eth1", "af_packet:eth1"),
            ("af_xdp:ens3f0", "af_xdp:ens3f0"),
            ("tap:nat0", "tap:nat0"),
            ("memif:/run/m.sock", "memif:/run/m.sock"),
            (
                "memif:/run/m.sock,id=0,role=server,queues=1",
                "memif:/run/m.sock",
            ),
            (
                "memif:/m,queues=2,id=7,role=client",
                "memif:/m,role=client,id=7,queues=2",
            ),
            ("pcap:a.pcap,b.pcap", "pcap:a.pcap,b.pcap"),
            ("pcap:,b.pcap", "pcap:,b.pcap"),
            ("pcap:a.pcap", "pcap:a.pcap,"),
            ("null:", "null:"),
            ("null:rx=no,size=128", "null:size=128,rx=no"),
            ("dpdk:net_ring0", "dpdk:net_ring0"),
        ] {
            let device: Device = written.parse().unwrap();
            assert_eq!(device.to_string(), canonical);
            assert_eq!(canonical.parse::<Device>().unwrap(), device);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (written, said) in [
            ("eth1", "has no device kind"),
            ("wifi:0", "is no kind of device"),
            ("pci:3b", "PCI address"),
            ("pci:0000:3b:20.0", "PCI address"),
            ("pci:0000:3b:00.8", "PCI address"),
            ("pci:0000:+b:00.0", "PCI address"),
            ("af_packet:", "interface name"),
            ("tap:a_name_far_too_long", "interface name"),
            ("af_xdp:eth0,busy=1", "interface name"),
            ("memif:", "path"),
            ("memif:/m,role=boss", "client or server"),
            ("memif:/m,queues=0", "from 1 to 16"),
            ("memif:/m,colour=red", "no option"),
            ("pcap:,", "needs a file"),
            ("pcap:a,b,c", "two files"),
            ("null:size=9", "from 14"),
            ("null:64", "KEY=VALUE"),
            ("dpdk:", "device arguments"),
        ] {
            let error = written.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(said), "{written}: {error}");
        }
    }

    #[test]
    fn attachments_are_what_the_drivers_read() {
        for (device, queues, name, devargs) in [
            ("pci:3b:00.0,a=1", 2, "0000:3b:00.0", "0000:3b:00.0,a=1"),
            (
                "af_packet:eth1",
                2,
                "net_af_packet3",
                "net_af_packet3,iface=eth1,qpairs=2,blocksz=4096,framesz=2048,framecnt=2048",
            ),
            ("af_xdp:eth1", 1, "net_af_xdp3", "net_af_xdp3,iface=eth1"),
            (
                "af_xdp:eth1",
                4,
                "net_af_xdp3",
                "net_af_xdp3,iface=eth1,queue_count=4",
            ),
            ("tap:nat0", 2, "net_tap3", "net_tap3,iface=nat0"),
            (
                "memif:/m,id=7",
                1,
                "net_memif3",
                "net_memif3,role=server,id=7,socket=/m,socket-abstract=no",
            ),
            ("pcap:a,b", 1, "net_pcap3", "net_pcap3,rx_pcap=a,tx_pcap=b"),
            ("pcap:,b", 1, "net_pcap3", "net_pcap3,tx_pcap=b"),
            ("null:rx=no", 1, "net_null3", "net_null3,size=64,no-rx=1"),
            ("dpdk:net_ring0,x=1", 1, "net_ring0", "net_ring0,x=1"),
            ("dpdk:3b:00.0,x=1", 1, "0000:3b:00.0", "3b:00.0,x=1"),
        ] {
            let attachment = spec(device, queues, 1500).attachment();
            assert_eq!(attachment.name, name);
            assert_eq!(attachment.devargs, devargs);
            assert_eq!(attachment.pci, name.starts_with("0000"), "{device}");
        }
    }

    #[test]
    fn queues_follow_the_kind() {
        for (device, most) in [
            ("pcap:a,b", 1),
            ("memif:/m", 1),
            ("memif:/m,queues=4", 4),
            ("tap:a", 16),
        ] {
            assert_eq!(device.parse::<Device>().unwrap().max_queues(), most);
        }
    }

    proptest! {
        /// A buffer holds a whole frame and a whole af_packet slot, whose ring geometry the kernel accepts.
        #[test]
        fn buffers_hold_the_largest_frame(mtu in 576u16..=9600) {
            let (packet, card) = (spec("af_packet:e", 1, mtu), spec("pci:3b:00.0", 1, mtu));
            prop_assert!(u32::from(card.device.frame_room(mtu)) >= u32::from(mtu) + 22);
            prop_assert_eq!(card.device.frame_room(mtu) % 1024, 0);
            let slot = af_packet_slot(mtu);
            prop_assert!(u32::from(packet.device.frame_room(mtu)) >= slot);
            prop_assert_eq!((2 * slot) % 4096, 0);
        }

        /// Whatever is accepted prints as something that reads back equal; nothing panics.
        #[test]
        fn any_text_is_refused_or_survives_a_round_trip(text in "(pci|memif|pcap|null|tap|dpdk|x):[ -~]{0,24}") {
            if let Ok(device) = text.parse::<Device>() {
                prop_assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
            }
        }
    }
}
