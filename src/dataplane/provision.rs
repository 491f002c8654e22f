//! How many packet buffers a configuration needs, and how much memory they take.
//!
//! Pure arithmetic, so that `natgate check` says on any machine what `natgate run` will ask DPDK for.

use super::buffer::BURST;
use super::device::Device;

/// Buffers each worker's cache may keep.
pub const CACHE: u32 = 256;

/// Buffers a worker may hold between bursts: waiting for neighbours or fragments, in rings, in flight.
const HELD_PER_WORKER: u32 = 4096;

/// Bytes around the frame in a packet buffer: pool header, packet header with natgate's own line, headroom.
const BUFFER_HEADER: u64 = 64 + 192 + 128;

/// What one port contributes.
#[derive(Clone, Copy, Debug)]
pub struct PortBuffers<'a> {
    /// Its device.
    pub device: &'a Device,
    /// Receive queues.
    pub queues: u16,
    /// Descriptors of each queue.
    pub descriptors: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

/// The one pool that all ports share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketBuffers {
    /// Buffers, 2ⁿ − 1.
    pub count: u32,
    /// Bytes of frame each one holds.
    pub room: u16,
}

impl PacketBuffers {
    /// Every descriptor can hold a buffer, and so can every cache and every worker's hands. Members of a bond have rings of
    /// their own.
    pub fn of<'a>(ports: impl Iterator<Item = PortBuffers<'a>>, workers: u8) -> PacketBuffers {
        let workers = u32::from(workers);
        let hands = workers * (HELD_PER_WORKER + CACHE * 2 + 4 * BURST as u32);
        let (mut count, mut room) = (hands, Device::IDLE.frame_room(0));
        for port in ports {
            let rings = (u32::from(port.queues) + workers) * port.device.parts().len() as u32;
            count += u32::from(port.descriptors) * rings;
            room = room.max(port.device.frame_room(port.mtu));
        }
        PacketBuffers {
            count: count.next_power_of_two() - 1,
            room,
        }
    }

    /// Bytes of memory the pool takes, rounded up: what to give DPDK.
    pub fn bytes(&self) -> u64 {
        // DPDK pads objects so that their beginnings spread over the memory channels.
        let object = (BUFFER_HEADER + u64::from(self.room)).next_multiple_of(64) + 64;
        // No object crosses a huge page; the ring behind the pool has a slot for each.
        let object = object + object / 32 + 16;
        u64::from(self.count) * object + (2 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::device::BondMode;

    #[test]
    fn every_ring_and_hand_can_be_full_at_once() {
        let port = |device, mtu| PortBuffers {
            device,
            queues: 2,
            descriptors: 1024,
            mtu,
        };
        let (card, packet) = (
            "pci:3b:00.0".parse().unwrap(),
            "af_packet:eth0".parse().unwrap(),
        );
        let small = PacketBuffers::of([port(&card, 1500), port(&card, 1500)].into_iter(), 2);
        // Eight rings of 1024, and 4864 for each worker: 17 920.
        assert_eq!((small.count, small.room), (32_767, 2048));
        let large = PacketBuffers::of([port(&card, 1500), port(&packet, 9000)].into_iter(), 2);
        assert_eq!((large.count, large.room), (32_767, 10_240));
        assert!(large.bytes() > 4 * small.bytes());
        assert_eq!(PacketBuffers::of([].into_iter(), 1).count, 8191);
        let bond = Device::Bond {
            mode: BondMode::Balance,
            members: vec![card.clone(); 8],
        };
        // 32 rings, and the two workers' hands: 42 496.
        let bonded = PacketBuffers::of([port(&bond, 1500)].into_iter(), 2);
        assert_eq!(bonded.count, 65_535);
    }
}
