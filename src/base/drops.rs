//! Why a packet was dropped: the one list behind the counter, the metric label, the CLI column and the documentation.

use std::fmt;

/// Expands the one list into the enum, the names and the advice.
macro_rules! drop_reasons {
    ($($variant:ident $name:literal $advice:literal;)*) => {
        /// The single reason a packet was dropped for. Every lost packet increments exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $advice] $variant,)*
        }

        impl DropReason {
            /// Every reason, in counter order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),*];

            /// Number of reasons: the length of a counter array.
            pub const COUNT: usize = Self::ALL.len();

            /// The snake-case name: metric label, CLI column, test expectation.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// One sentence for the operator: what happened and what to look at.
            pub const fn advice(self) -> &'static str {
                match self { $(DropReason::$variant => $advice,)* }
            }
        }
    };
}

drop_reasons! {
    FrameShort "frame_short" "The frame ends inside its Ethernet or IP header; look for a broken sender or cable.";
    FrameLong "frame_long" "The frame is longer than the port's mtu allows for; make both ends agree, or raise port.mtu.";
    FrameType "frame_type" "The EtherType is none of IPv4, IPv6, ARP; natgate forwards nothing else.";
    UnknownVlan "unknown_vlan" "No interface is configured for this VLAN tag on this port.";
    FrameMac "frame_mac" "The frame is for another station's MAC address, or its source is a group address.";
    IpVersion "ip_version" "The IP version does not match the EtherType.";
    IpHeaderLength "ip_header_length" "The IPv4 header length is below 20 bytes or runs past the packet.";
    IpTotalLength "ip_total_length" "The IP length field runs past the frame, or is shorter than the header.";
    IpChecksum "ip_checksum" "The IPv4 header checksum is wrong.";
    IpSourceRoute "ip_source_route" "The packet carries a source-route option (RFC 7126), which is refused.";
    MartianSource "martian_source" "The source can never be a sender: loopback, multicast, broadcast, unspecified, or our own address.";
    MartianDestination "martian_destination" "The destination can never be forwarded to: loopback, unspecified, link-local or reserved space.";
    Urpf "urpf" "Source verification: no route back to the source, or, with urpf = \"strict\", one through another interface.";
    ForwardDisabled "forward_disabled" "The receiving interface has forward = false, so it carries no transit traffic.";
    TtlExpired "ttl_expired" "TTL or hop limit ran out here; the sender was told unless the rate limit forbade it.";
    MtuDf "mtu_df" "Larger than the next link's MTU and not to be fragmented; the sender was told the MTU.";
    NoRoute "no_route" "No route to the destination; the sender was told unless the rate limit forbade it.";
    NeighbourUnresolved "neighbour_unresolved" "The next hop does not answer ARP or neighbour discovery.";
    NeighbourQueueFull "neighbour_queue_full" "Too many packets wait for the same next hop to answer ARP or neighbour discovery.";
    Multicast "multicast" "Multicast or broadcast that is not for the gateway itself is not forwarded.";
    PolicyFilter "policy_filter" "A filter rule, or the filter's default, refused the packet; natgate show filter counts by rule.";
    L4Truncated "l4_truncated" "The packet ends inside its TCP, UDP, SCTP or ICMP header.";
    L4Length "l4_length" "The UDP length field contradicts the IP length.";
    L4Checksum "l4_checksum" "The network card reported a wrong TCP or UDP checksum.";
    TcpFlags "tcp_flags" "The TCP flag combination is impossible (SYN with FIN or RST, or none).";
    NoPortConflict "no_port_conflict" "A protocol without ports can be translated for one inside host per remote at a time; another host holds it.";
    FragmentTiny "fragment_tiny" "A first fragment too short to hold the transport header, or an offset that would overwrite it (RFC 1858).";
    FragmentOverlap "fragment_overlap" "A fragment that brings other bytes for a place another one has filled, or one of the same datagram (RFC 5722).";
    FragmentOversize "fragment_oversize" "A fragment that ends beyond 65,535 bytes.";
    FragmentTimeout "fragment_timeout" "The first fragment of the datagram, or of SCTP the last one, did not arrive in time.";
    FragmentNoFirst "fragment_no_first" "A later fragment of a datagram whose first fragment was not forwarded.";
    FragmentBudget "fragment_budget" "Too many fragmented datagrams, or too many held fragments of one, at a time; raise system.fragments if legitimate.";
    FragmentSource "fragment_source" "One source has as many fragmented datagrams, or fragments waiting, as there is room left for everybody else; raise system.fragments if legitimate.";
    NoMapping "no_mapping" "An outside packet to an external address for which there is no mapping.";
    Filtered "filtered" "An outside packet to a mapped port from a remote the filtering behaviour does not admit.";
    VipUnmatched "vip_unmatched" "A packet to a service's virtual address for a port or protocol that no service there has, or a ping while ping = false.";
    NoBackend "no_backend" "The service has no backend that takes new flows: none is listed, all are drained, or none is healthy; natgate show services says which.";
    NoAddress "no_address" "The outgoing interface has no address to masquerade with, or the host is not in the `inside` of a deterministic pool.";
    PoolDraining "pool_draining" "Every address of the pool the flow could use is under drain or quarantine.";
    NoPort "no_port" "Every external port the flow may use is taken; add pool addresses or ports.";
    NoBlock "no_block" "No free port block is left in the pool; add addresses or use smaller blocks.";
    QuotaBlocks "quota_blocks" "The subscriber holds block.max_per_host blocks and all their ports are taken.";
    SessionLimit "session_limit" "The subscriber has system.sessions_per_host sessions already.";
    QuotaRate "quota_rate" "The subscriber opens more than system.new_sessions_per_host sessions a second.";
    QuotaHalfOpen "quota_half_open" "The subscriber has system.half_open_per_host TCP connections that are not established yet.";
    TableFull "table_full" "The session table is full; raise system.sessions.";
    SubscriberLimit "subscriber_limit" "The table of subscribers is full.";
    MappingConflict "mapping_conflict" "The answers to the flow would be indistinguishable from those of a living one, or from itself, and its source port cannot be another.";
    TcpNoSession "tcp_no_session" "A TCP segment in mid-connection that belongs to no known session.";
    TcpSynCrossed "tcp_syn_crossed" "An unsolicited SYN from outside waited for its answer, and the inside host called the same remote meanwhile (RFC 5382 REQ-4).";
    HelperUnfit "helper_unfit" "A packet whose text a helper cannot change: of FTP part of a line, an old one once more, or one of too many connections at a time; of SIP a fragment, or more than is looked at; of PPTP part of a message; of RTSP part of a header, or an old one once more. TCP repeats it.";
    IcmpChecksum "icmp_checksum" "An ICMP error with a wrong checksum (RFC 5508 REQ-3).";
    IcmpInnerChecksum "icmp_inner_checksum" "An ICMP error whose embedded IP header has a wrong checksum (RFC 5508 REQ-3).";
    IcmpInnerShort "icmp_inner_short" "An ICMP error that quotes too little to find the flow.";
    IcmpNoSession "icmp_no_session" "An ICMP error about a flow that does not exist (RFC 5508 REQ-4, REQ-5).";
    IcmpType "icmp_type" "An ICMP type that is neither a query nor an error natgate translates.";
    HairpinLoop "hairpin_loop" "A packet came back to the translator more often than a hairpin can.";
    OwnService "own_service" "A packet to the gateway's own address for a service it does not offer.";
    ControlFull "control_full" "A DHCP message came while the last ones had not been looked at yet; somebody floods the link, or the gateway's management is stuck.";
    HandoffFull "handoff_full" "The ring to the worker that owns the flow was full.";
    TxFull "tx_full" "The transmit queue refused the packet twice; the link is slower than the traffic.";
    LinkDown "link_down" "The outgoing port has no link.";
    MbufExhausted "mbuf_exhausted" "No packet buffer was free for a copy, a fragment or a generated packet.";
    ConfigChanged "config_changed" "The packet was in flight to an interface or address the new configuration no longer has.";
    Shutdown "shutdown" "Held packets let go when the gateway stopped.";
    Internal "internal" "A state that must not occur; report it.";
}

impl DropReason {
    /// Position in a counter array.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason with this name, as tests and filters write it.
    pub fn from_name(name: &str) -> Option<DropReason> {
        Self::ALL.iter().copied().find(|r| r.name() == name)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for &reason in DropReason::ALL {
            assert_eq!(DropReason::from_name(reason.name()), Some(reason));
            assert!(
                reason.advice().ends_with('.'),
                "{reason}: advice is a sentence"
            );
        }
        assert_eq!(DropReason::from_name("nonsense"), None);
    }
}
