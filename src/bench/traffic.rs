//! Generated traffic: flows are computed, not stored, so that the generator touches no memory of its own per flow.

use crate::flow::key::Tuple;
use crate::wire::checksum;
use crate::wire::{ETHERTYPE_IPV4, MacAddr, UDP, write_u16, write_u32};

/// The first inside host: 10.0.0.0 and up.
const FIRST_HOST: u32 = 0x0a00_0000;
/// The first remote: 198.18.0.0 and up (RFC 2544 benchmarking space).
const FIRST_REMOTE: u32 = 0xc612_0000;
/// The first source port of every host.
const FIRST_PORT: u16 = 1024;
/// Destination port of every flow.
const REMOTE_PORT: u16 = 4321;

/// Ethernet header, IPv4 header, UDP header, flow number.
pub const HEADERS: usize = 14 + 20 + 8 + 8;

/// A population of UDP flows: `hosts` inside hosts with `ports` flows each.
#[derive(Clone, Copy, Debug)]
pub struct Population {
    /// Flows a host has.
    pub ports_per_host: u32,
    /// Remote addresses they go to.
    pub remotes: u32,
}

impl Default for Population {
    fn default() -> Self {
        // 63 flows a host is the scale of the public NAT benchmarks (64,512, 1,032,192, … flows).
        Population {
            ports_per_host: 63,
            remotes: 1024,
        }
    }
}

impl Population {
    /// The inside host of a flow.
    pub fn host(&self, flow: u32) -> u32 {
        FIRST_HOST + flow / self.ports_per_host
    }

    /// The tuple of a flow's packets as they leave the inside host.
    #[inline]
    pub fn tuple(&self, flow: u32) -> Tuple<u32> {
        Tuple {
            source: self.host(flow),
            destination: FIRST_REMOTE + flow.wrapping_mul(0x9e37_79b1) % self.remotes,
            source_port: FIRST_PORT + (flow % self.ports_per_host) as u16,
            destination_port: REMOTE_PORT,
        }
    }
}

/// The order in which flows are visited: every flow once per turn, pseudo-randomly, without a table.
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    flows: u32,
    mask: u32,
    next: u32,
}

impl Shuffle {
    /// An order over `flows` flows.
    pub fn new(flows: u32) -> Shuffle {
        Shuffle {
            flows,
            mask: flows.max(2).next_power_of_two() - 1,
            next: 0,
        }
    }

    /// The next flow. A full-period linear congruential generator modulo a power of two (multiplier ≡ 1 mod 4, odd
    /// increment) visits every number below it once; those beyond the population are passed over.
    #[inline]
    pub fn next_flow(&mut self) -> u32 {
        loop {
            self.next = self
                .next
                .wrapping_mul(0x0019_660d)
                .wrapping_add(0x3c6e_f35f)
                & self.mask;
            // The low bits of such a sequence alternate; folding the high ones in keeps it a permutation.
            let flow =
                self.next ^ (self.next >> (16 - self.mask.leading_zeros() / 2).min(15)) & self.mask;
            if flow < self.flows {
                return flow;
            }
        }
    }
}

/// Writes a UDP frame for `tuple` that carries `flow` as its payload, and returns nothing: the frame is `frame`'s length.
#[inline]
pub fn write_frame(frame: &mut [u8], to: MacAddr, from: MacAddr, tuple: &Tuple<u32>, flow: u32) {
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    write_u16(frame, 12, ETHERTYPE_IPV4);
    let ip_length = (frame.len() - 14) as u16;
    frame[14..24].copy_from_slice(&[
        0x45,
        0,
        (ip_length >> 8) as u8,
        ip_length as u8,
        0,
        0,
        0x40,
        0,
        64,
        UDP,
    ]);
    write_u16(frame, 24, 0);
    write_u32(frame, 26, tuple.source);
    write_u32(frame, 30, tuple.destination);
    let sum = checksum::ipv4_header(&frame[14..34]);
    write_u16(frame, 24, sum);
    write_u16(frame, 34, tuple.source_port);
    write_u16(frame, 36, tuple.destination_port);
    write_u16(frame, 38, ip_length - 20);
    // Checksum 0 is "none": the generator would otherwise cost more than the translation it measures.
    write_u16(frame, 40, 0);
    write_u32(frame, 42, flow);
}

/// The flow number a frame carries.
#[inline]
pub fn flow_of(frame: &[u8]) -> u32 {
    crate::wire::read_u32(frame, 42)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_is_visited_once_a_turn() {
        for flows in [1, 2, 63, 1000, 64_512] {
            let mut order = Shuffle::new(flows);
            let mut seen = vec![false; flows as usize];
            for _ in 0..flows {
                let flow = order.next_flow() as usize;
                assert!(!seen[flow], "flow {flow} of {flows} came twice in one turn");
                seen[flow] = true;
            }
        }
    }

    #[test]
    fn frames_are_valid_and_distinct() {
        let population = Population::default();
        let mut tuples = std::collections::HashSet::new();
        for flow in 0..10_000 {
            let tuple = population.tuple(flow);
            assert!(tuples.insert((tuple.source, tuple.source_port)));
            let mut frame = [0; 60];
            write_frame(&mut frame, MacAddr([2; 6]), MacAddr([4; 6]), &tuple, flow);
            let parsed = crate::wire::parse::parse(&frame).unwrap();
            assert_eq!(
                (parsed.source, parsed.source_port),
                (tuple.source, tuple.source_port)
            );
            assert_eq!(flow_of(&frame), flow);
        }
    }
}
