//! Ports across a loss of state: which are busy, so that it can be written down, and making them rest at the next start
//! (RFC 6888 REQ-8 counts a restart as state loss).

use super::external::External;
use super::{BlockIndex, BlockPorts, Layout, PortSpace, SinglePorts};
use crate::base::{Tick, WorkerId};

impl External {
    /// The ports of a space that are in use or rest, in windows of 64: the first port of each, and a bit for every port.
    /// Windows without any are left out. The ports that deterministic hosts have of their own are: the same host gets them
    /// again (REQ-8 b).
    pub fn busy(&self, space: PortSpace) -> Vec<(u16, u64)> {
        let mut windows: Vec<(u16, u64)> = Vec::new();
        let mut add = |port: u16| {
            let (window, bit) = (port & !63, 1 << (port % 64));
            match windows.last_mut().filter(|(at, _)| *at == window) {
                Some((_, bits)) => *bits |= bit,
                None => windows.push((window, bit)),
            }
        };
        match (self.single(), self.blocks()) {
            (Some(single), _) => {
                let windows = (0..1024u16).map(|n| (n * 64, !single.free_in(space, n * 64)));
                return windows.filter(|(_, busy)| *busy != 0).collect();
            }
            (None, Some(blocks)) => {
                let usable = match self.layout() {
                    Layout::Blocks { ranges, .. } => ranges,
                    Layout::Planned(plan) => &plan.ports,
                    Layout::Ports => return windows,
                };
                let own = u32::from(blocks.first_open());
                for block in (own..blocks.count()).map(|n| BlockIndex(n as u16)) {
                    if blocks.busy(block, space) == 0 {
                        continue;
                    }
                    let ports = blocks.ports_of(block).into_iter();
                    let ports = ports.flat_map(|ports| ports.first..=ports.last);
                    ports
                        .filter(|&port| usable.contains(port) && blocks.is_busy(space, port))
                        .for_each(&mut add);
                }
            }
            (None, None) => {}
        }
        windows
    }

    /// Makes a free port rest; false if it is not free or does not exist. `worker` is to end the rest of a single port;
    /// ports of blocks rest for the hold time of whoever gets the block, from `now` on.
    pub fn rest(&self, space: PortSpace, port: u16, worker: WorkerId, now: Tick) -> Rest {
        match (self.single(), self.blocks()) {
            (Some(single), _) if single.rest(space, port, worker) => Rest::UntilReleased,
            (None, Some(blocks)) if blocks.rest_port(space, port, now) => Rest::ByItself,
            _ => Rest::Not,
        }
    }
}

/// What became of a port that was to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It does not: it is in use or no port of the address.
    Not,
    /// It rests, and its block lets it go.
    ByItself,
    /// It rests until its worker releases it.
    UntilReleased,
}

impl SinglePorts {
    fn rest(&self, space: PortSpace, port: u16, worker: WorkerId) -> bool {
        self.claim(space, port, worker) && self.hold(space, port)
    }
}

impl BlockPorts {
    /// Whether a usable port of some block is in use or rests.
    fn is_busy(&self, space: PortSpace, port: u16) -> bool {
        let block = self.block_of(port);
        let ports = block.and_then(|block| Some((block, self.ports_of(block)?)));
        ports.is_some_and(|(block, ports)| {
            let offset = port - ports.first;
            let free = self.free_in(block, space, usize::from(offset / 64));
            free >> (offset % 64) & 1 == 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Allowed, Claim, PortMask, PortRanges, Preference};
    use super::*;
    use crate::base::{PoolId, Random};
    use std::net::IpAddr;

    const W: WorkerId = WorkerId(0);

    fn external(layout: Layout) -> External {
        External::new(IpAddr::from([203, 0, 113, 1]), layout)
    }

    #[test]
    fn single_ports_are_busy_and_rest_as_they_were() {
        let before = external(Layout::Ports);
        let single = before.single().unwrap();
        for port in [0, 63, 64, 65535] {
            assert!(single.claim(PortSpace::Udp, port, W));
        }
        assert!(single.hold(PortSpace::Udp, 64));
        let busy = before.busy(PortSpace::Udp);
        assert_eq!(busy, [(0, 1 | 1 << 63), (64, 1), (65472, 1 << 63)]);
        assert_eq!(before.busy(PortSpace::Tcp), []);
        let after = external(Layout::Ports);
        for (window, bits) in busy {
            for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
                let rest = after.rest(PortSpace::Udp, window + bit, WorkerId(3), Tick(5));
                assert_eq!(rest, Rest::UntilReleased);
            }
        }
        let usage = after.usage(PortSpace::Udp);
        assert_eq!((usage.in_use, usage.held), (0, 4));
        let single = after.single().unwrap();
        assert!(!single.claim(PortSpace::Udp, 63, W), "it rests");
        assert_eq!(after.owner(PortSpace::Udp, 63), Some(WorkerId(3)));
        single.release_held(PortSpace::Udp, 63);
        assert!(single.claim(PortSpace::Udp, 63, W));
        assert_eq!(
            after.rest(PortSpace::Udp, 63, W, Tick(5)),
            Rest::Not,
            "it is in use again"
        );
        assert_eq!(after.errors(), 0);
    }

    #[test]
    fn ports_of_blocks_rest_until_their_hold_time_is_over() {
        let ranges = PortRanges::single(2000, 2099);
        let layout = Layout::Blocks { size: 50, ranges };
        let (before, after) = (external(layout.clone()), external(layout));
        let claim = |now| Claim {
            worker: W,
            subscriber: 1,
            pool: PoolId(0),
            preference: Preference {
                shift: 9,
                workers: 1,
            },
            now: Tick(now),
        };
        let allowed = Allowed::all(PortMask::none(), PortSpace::Tcp);
        let mut random = Random::from_seed(1);
        let mut take = |on: &External, count: u16, now: u32| {
            let blocks = on.blocks().unwrap();
            let block = blocks.claim_block(&claim(now), &allowed, &mut random);
            let block = block.unwrap();
            let takes = |_| blocks.allocate(block, None, &allowed, &mut random, Tick(now), 480);
            let got = (0..count).map_while(takes).count();
            (block, got)
        };
        let (block, _) = take(&before, 30, 10);
        let used = before.blocks().unwrap().ports_of(block).unwrap();
        for (window, bits) in before.busy(PortSpace::Tcp) {
            for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
                assert!(used.contains(window + bit));
                let rest = after.rest(PortSpace::Tcp, window + bit, W, Tick(0));
                assert_eq!(rest, Rest::ByItself);
            }
        }
        assert_eq!(after.usage(PortSpace::Tcp).held, 30);
        assert_eq!(after.rest(PortSpace::Tcp, 1999, W, Tick(0)), Rest::Not);
        let mut got = [take(&after, 50, 400).1, take(&after, 50, 400).1];
        got.sort_unstable();
        assert_eq!(got, [20, 50], "thirty rest");
        let blocks = after.blocks().unwrap();
        let late = blocks.allocate(block, None, &allowed, &mut random, Tick(800), 480);
        assert!(
            late.is_some_and(|port| used.contains(port)),
            "rested by now"
        );
        assert_eq!(after.errors(), 0);
    }
}
