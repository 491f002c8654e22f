//! What DPDK is told of each device.

use super::{Device, MemifRole, af_packet_slot, first_word};

/// Slots per direction and queue of an af_packet ring.
const AF_PACKET_SLOTS: u32 = 2048;

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

/// The most members of a bond.
pub const MOST_MEMBERS: usize = 8;

impl PortSpec {
    /// The members of a bond as ports of their own, numbered beyond all ports of the configuration; none of other devices.
    pub fn members(&self) -> Vec<PortSpec> {
        let Device::Bond { members, .. } = &self.device else {
            return Vec::new();
        };
        let first = 1000 + usize::from(self.index) * MOST_MEMBERS;
        let member = |(at, device): (usize, &Device)| PortSpec {
            index: (first + at) as u16,
            device: device.clone(),
            ..self.clone()
        };
        members.iter().enumerate().map(member).collect()
    }

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
            // Made by a call, after its members; nothing is left to say.
            Device::Bond { .. } => virtual_device("bonding", String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::BondMode;
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
    fn a_bond_is_what_its_members_are() {
        let members = ["af_packet:eth1", "pci:3b:00.0"].map(|text| text.parse().unwrap());
        let mut bond = spec("null:", 2, 9000);
        assert_eq!(
            (bond.device.parts(), bond.members()),
            (&[bond.device.clone()][..], vec![])
        );
        bond.device = Device::Bond {
            mode: BondMode::Lacp,
            members: members.to_vec(),
        };
        assert_eq!(
            bond.device.to_string(),
            "bond lacp of af_packet:eth1 pci:0000:3b:00.0"
        );
        assert_eq!(bond.device.parts(), members);
        assert_eq!(
            (bond.device.pci(), bond.device.kernel_interface()),
            (None, None)
        );
        assert_eq!(bond.device.max_queues(), members[0].max_queues());
        assert_eq!(bond.device.frame_room(9000), members[0].frame_room(9000));
        assert_eq!(bond.attachment().name, "net_bonding3");
        let names: Vec<String> = bond
            .members()
            .iter()
            .map(|member| member.attachment().name)
            .collect();
        assert_eq!(names, ["net_af_packet1024", "0000:3b:00.0"]);
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
    }
}
