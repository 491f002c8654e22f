//! One neighbour: what is known of it, its ready-made Ethernet header, and how it ages.

use super::NeighbourId;
use crate::base::time::Now;
use crate::base::{InterfaceId, PortId, VlanId};
use crate::gateway::Interface;
use crate::wire::MacAddr;
use std::fmt;
use std::net::IpAddr;

/// Milliseconds between solicitations (RFC 4861 §10, RETRANS_TIMER).
pub const RETRY_MILLIS: u64 = 1000;
/// Solicitations before giving up (RFC 4861 §10, MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT).
pub const TRIES: u8 = 3;
/// Milliseconds an answer is trusted (RFC 4861 §10, REACHABLE_TIME).
pub const REACHABLE_MILLIS: u64 = 30_000;
/// Milliseconds a neighbour that never answered is not asked again.
pub const FAILED_HOLD_MILLIS: u64 = 3000;
/// What [`Neighbours::sweep`](super::Neighbours::sweep) found due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Ask for the neighbour.
    Solicit {
        /// The entry.
        id: NeighbourId,
        /// Where.
        interface: InterfaceId,
        /// Whom.
        address: IpAddr,
        /// Ask this station only; else broadcast or the solicited-node group.
        unicast_to: Option<MacAddr>,
    },
    /// It does not answer: drop the packets that wait for it.
    Failed {
        /// The entry.
        id: NeighbourId,
    },
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Asked for and not answered yet; packets wait.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Known, but not confirmed lately.
    Stale,
    /// Being confirmed because it is used; still sends.
    Probe,
    /// Does not answer.
    Failed,
    /// Configured.
    Static,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Incomplete => "incomplete",
            State::Reachable => "reachable",
            State::Stale => "stale",
            State::Probe => "probe",
            State::Failed => "failed",
            State::Static => "static",
        })
    }
}

/// An entry. What egress needs comes first, so that a look touches one or two cache lines.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Neighbour {
    header: [u8; 16],
    header_length: u8,
    pub(super) state: State,
    /// The device to send by.
    pub port: PortId,
    /// The interface it is on.
    pub interface: InterfaceId,
    /// The interface's IP MTU in bytes.
    pub mtu: u16,
    pub(super) generation: u16,
    pub(super) next: u16,
    pub(super) tries: u8,
    /// Milliseconds. When a packet was last sent to it.
    pub(super) used: u64,
    /// Milliseconds. When the next solicitation is due (Incomplete, Probe), trust ends (Reachable), asking again is
    /// allowed (Failed), or it became stale (Stale).
    pub(super) due: u64,
    pub(super) address: IpAddr,
    pub(super) mac: MacAddr,
}

impl Neighbour {
    /// An entry without MAC address, just used; generation and chain are the table's affair.
    pub(super) fn new(interface: &Interface, address: IpAddr, state: State, now: Now) -> Neighbour {
        let mut entry = Neighbour {
            header: [0; 16],
            header_length: 0,
            state,
            port: interface.port,
            interface: interface.id,
            mtu: interface.mtu,
            generation: 0,
            next: 0,
            tries: 0,
            used: now.millis,
            due: now.millis,
            address,
            mac: MacAddr::ZERO,
        };
        entry.bind(interface);
        entry
    }

    /// Bytes of the Ethernet header of a frame to this neighbour: 14, or 18 with a VLAN tag.
    #[inline(always)]
    pub fn frame_header_length(&self) -> usize {
        usize::from(self.header_length) + 2
    }

    /// Writes that header: destination, source, VLAN tag if any, EtherType. False if the frame is shorter. Only meaningful
    /// if the neighbour [is ready](Self::is_ready).
    #[inline(always)]
    pub fn write_frame_header(&self, frame: &mut [u8], ethertype: u16) -> bool {
        let [high, low] = ethertype.to_be_bytes();
        let tagged = usize::from(self.header_length) == self.header.len();
        if tagged && let Some(header) = frame.first_chunk_mut::<18>() {
            header[..16].copy_from_slice(&self.header);
            [header[16], header[17]] = [high, low];
            return true;
        }
        if !tagged && let Some(header) = frame.first_chunk_mut::<14>() {
            header[..12].copy_from_slice(&self.header[..12]);
            [header[12], header[13]] = [high, low];
            return true;
        }
        false
    }

    /// Whether the header reaches the neighbour as far as is known.
    #[inline]
    pub fn is_ready(&self) -> bool {
        !matches!(self.state, State::Incomplete | State::Failed)
    }

    /// What is known of it.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its MAC address, if it ever answered.
    pub fn mac(&self) -> Option<MacAddr> {
        (self.mac != MacAddr::ZERO).then_some(self.mac)
    }

    /// Milliseconds since a packet was last sent to it.
    pub fn idle_millis(&self, now: Now) -> u64 {
        now.millis.saturating_sub(self.used)
    }

    /// Makes the header fit the interface; says whether anything changed.
    pub(super) fn bind(&mut self, interface: &Interface) -> bool {
        let mut header = [0; 16];
        header[..6].copy_from_slice(&self.mac.0);
        header[6..12].copy_from_slice(&interface.mac.0);
        let length = match interface.vlan {
            None => 12,
            Some(VlanId(tag)) => {
                header[12..14].copy_from_slice(&[0x81, 0x00]);
                header[14..16].copy_from_slice(&(tag & 0xfff).to_be_bytes());
                16
            }
        };
        let moved = self.port != interface.port
            || self.header_length != length
            || self.header[6..] != header[6..];
        self.header = header;
        self.header_length = length;
        self.port = interface.port;
        self.interface = interface.id;
        self.mtu = interface.mtu;
        moved
    }

    pub(super) fn enter(&mut self, state: State, due: u64) {
        self.state = state;
        self.due = due;
        self.tries = 0;
    }

    /// Moves on in time; reports what is due.
    pub(super) fn advance(&mut self, id: NeighbourId, now: Now) -> Option<Event> {
        if self.state == State::Reachable && now.millis >= self.due {
            self.enter(State::Stale, self.due);
        }
        let probing = match self.state {
            State::Incomplete => false,
            State::Probe => true,
            State::Stale if self.used > self.due => {
                self.enter(State::Probe, now.millis);
                true
            }
            _ => return None,
        };
        if now.millis < self.due {
            return None;
        }
        if self.tries >= TRIES {
            // One that used to answer may have got another MAC address: ask everybody as soon as a packet wants it.
            let hold = if probing { 0 } else { FAILED_HOLD_MILLIS };
            self.enter(State::Failed, now.millis + hold);
            return Some(Event::Failed { id });
        }
        self.tries += 1;
        self.due = now.millis + RETRY_MILLIS;
        Some(Event::Solicit {
            id,
            interface: self.interface,
            address: self.address,
            unicast_to: probing.then_some(self.mac),
        })
    }
}
