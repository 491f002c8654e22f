//! What is asked of a port, and what a device grants of it.

use super::ffi;

/// What RSS hashes over; also what a device can hash over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RssFields {
    /// IPv4 addresses, of fragments and of protocols without ports too.
    pub ipv4: bool,
    /// TCP and UDP ports of IPv4 packets besides.
    pub ipv4_ports: bool,
    /// IPv6 addresses.
    pub ipv6: bool,
    /// TCP and UDP ports of IPv6 packets besides.
    pub ipv6_ports: bool,
    /// Of the addresses only the source.
    pub source_address_only: bool,
    /// Of the addresses only the destination.
    pub destination_address_only: bool,
    /// Of the ports only the source.
    pub source_port_only: bool,
    /// Of the ports only the destination.
    pub destination_port_only: bool,
}

impl RssFields {
    /// Everything RSS commonly knows, without restriction.
    pub const ADDRESSES_AND_PORTS: RssFields = RssFields {
        ipv4: true,
        ipv4_ports: true,
        ipv6: true,
        ipv6_ports: true,
        source_address_only: false,
        destination_address_only: false,
        source_port_only: false,
        destination_port_only: false,
    };

    fn pairs(&mut self) -> [(u32, &mut bool); 8] {
        [
            (ffi::NG_RSS_IPV4, &mut self.ipv4),
            (ffi::NG_RSS_IPV4_L4, &mut self.ipv4_ports),
            (ffi::NG_RSS_IPV6, &mut self.ipv6),
            (ffi::NG_RSS_IPV6_L4, &mut self.ipv6_ports),
            (ffi::NG_RSS_L3_SRC_ONLY, &mut self.source_address_only),
            (ffi::NG_RSS_L3_DST_ONLY, &mut self.destination_address_only),
            (ffi::NG_RSS_L4_SRC_ONLY, &mut self.source_port_only),
            (ffi::NG_RSS_L4_DST_ONLY, &mut self.destination_port_only),
        ]
    }

    pub(super) fn bits(mut self) -> u32 {
        self.pairs()
            .iter()
            .fold(0, |bits, (bit, set)| if **set { bits | bit } else { bits })
    }

    pub(super) fn from_bits(bits: u32) -> RssFields {
        let mut fields = RssFields::default();
        for (bit, set) in fields.pairs() {
            *set = bits & bit != 0;
        }
        fields
    }
}

/// How received packets spread over queues in hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RssConfig {
    /// Toeplitz key; taken only if it has the device's length ([`PortInfo::hash_key_size`](super::PortInfo::hash_key_size)). Empty: the driver's own.
    pub key: Vec<u8>,
    /// Fields hashed; what the device lacks is left out.
    pub fields: RssFields,
    /// Redirection table: queue by low hash bits, [`PortInfo::reta_size`](super::PortInfo::reta_size) entries. Empty: the driver's own.
    pub reta: Vec<u16>,
}

/// Settings of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Receive queues, at least 1.
    pub rx_queues: u16,
    /// Transmit queues, at least 1.
    pub tx_queues: u16,
    /// Descriptors per receive queue; brought into the device's bounds.
    pub rx_descriptors: u16,
    /// Descriptors per transmit queue; brought into the device's bounds.
    pub tx_descriptors: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Receive frames for every MAC address. Otherwise only the port's own and multicast.
    pub promiscuous: bool,
    /// Hardware spreading; without effect with one queue or on devices that have none.
    pub rss: Option<RssConfig>,
    /// Let the device check received checksums where it can.
    pub checksum_offload: bool,
}

impl Default for PortConfig {
    fn default() -> PortConfig {
        PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            promiscuous: true,
            rss: None,
            checksum_offload: true,
        }
    }
}

/// What became of the wishes a device may decline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// The RSS fields in force; all false without RSS.
    pub rss: RssFields,
    /// The wanted key is in force.
    pub rss_key: bool,
    /// The wanted redirection table is in force (known after [`Port::start`](super::Port::start)).
    pub reta: bool,
    /// IPv4 header checksums are checked on receive.
    pub ip_checksum: bool,
    /// TCP and UDP checksums are checked on receive.
    pub l4_checksum: bool,
    /// Other stations' frames are received.
    pub promiscuous: bool,
}
