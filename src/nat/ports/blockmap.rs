//! Where the blocks of an address lie: from the low end of each range of ports, without gaps.

use super::{BlockIndex, HostPlan, PortRange, PortRanges};

/// A run of blocks of equal size.
struct Segment {
    ports: PortRange,
    size: u16,
    first_block: u32,
}

/// Translates between ports and blocks of one address.
pub(super) struct BlockMap {
    size: u16,
    count: u32,
    segments: Box<[Segment]>,
}

impl BlockMap {
    /// Blocks of `size` ports (0 counts as 1) in these ranges; what is left of a range behind its last whole block is
    /// unused.
    pub(super) fn new(size: u16, ranges: &PortRanges) -> BlockMap {
        let mut map = BlockMap {
            size: size.max(1),
            count: 0,
            segments: Box::default(),
        };
        map.segments = map.cut(size.max(1), ranges.ranges()).into();
        map
    }

    /// The blocks of a deterministic pool: first one for each host, then those for overflow. The block of a host reaches
    /// across ports reserved inside it.
    pub(super) fn planned(plan: &HostPlan) -> BlockMap {
        let mut map = BlockMap {
            size: plan.overflow.unwrap_or(1).max(1),
            count: 0,
            segments: Box::default(),
        };
        let mut segments: Vec<Segment> = Vec::new();
        for slot in 0..plan.hosts {
            let own = plan.own_ports(slot);
            let (Some(first), Some(last)) = (own.first(), own.last()) else {
                break;
            };
            let ports = PortRange::new(first.first, last.last);
            let size = ports.size().min(u32::from(u16::MAX)) as u16;
            map.size = map.size.max(size);
            map.count += 1;
            match segments.last_mut() {
                Some(run)
                    if run.size == size && run.ports.last.checked_add(1) == Some(ports.first) =>
                {
                    run.ports.last = ports.last;
                }
                _ => segments.push(Segment {
                    ports,
                    size,
                    first_block: map.count - 1,
                }),
            }
        }
        if let Some(size) = plan.overflow {
            segments.extend(map.cut(size.max(1), &plan.rest()));
        }
        map.segments = segments.into();
        map
    }

    /// Cuts ranges into blocks and counts these.
    fn cut(&mut self, size: u16, ranges: &[PortRange]) -> Vec<Segment> {
        let mut segments = Vec::new();
        for range in ranges {
            let here = range.size() / u32::from(size);
            if here > 0 {
                let last = u32::from(range.first) + here * u32::from(size) - 1;
                segments.push(Segment {
                    ports: PortRange::new(range.first, last as u16),
                    size,
                    first_block: self.count,
                });
                self.count += here;
            }
        }
        segments
    }

    /// Ports in a block; in the largest, where sizes differ.
    #[inline]
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Number of blocks.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The block `port` lies in.
    #[inline]
    pub(super) fn block_of(&self, port: u16) -> Option<BlockIndex> {
        let segment = self.segments.iter().find(|s| s.ports.contains(port))?;
        let within = u32::from((port - segment.ports.first) / segment.size);
        Some(BlockIndex((segment.first_block + within) as u16))
    }

    /// The ports of a block.
    #[inline]
    pub(super) fn ports_of(&self, block: BlockIndex) -> Option<PortRange> {
        let number = u32::from(block.0);
        let segment = self.segments.iter().rfind(|s| s.first_block <= number)?;
        let offset = (number - segment.first_block) * u32::from(segment.size);
        let first = u32::from(segment.ports.first) + offset;
        let last = first + u32::from(segment.size) - 1;
        (last <= u32::from(segment.ports.last)).then(|| PortRange::new(first as u16, last as u16))
    }

    /// For each segment the lowest and highest number of the blocks whose first port lies in `ports`.
    pub(super) fn starting_in(&self, ports: PortRange) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.segments.iter().filter_map(move |segment| {
            let size = u32::from(segment.size);
            let part = segment.ports.intersect(ports)?;
            let offset = |port: u16| u32::from(port - segment.ports.first);
            let (first, last) = (offset(part.first).div_ceil(size), offset(part.last) / size);
            (first <= last).then_some((segment.first_block + first, segment.first_block + last))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_blocks_agree() {
        for (size, text, count) in [
            (512, "1024-65535", 126),
            (4, "1000-1010,2000-2002,3000-3003", 3),
            (100, "0-65535", 655),
            (65535, "0-65535", 1),
            (1, "0-65535", 65536),
        ] {
            let map = BlockMap::new(size, &text.parse().unwrap());
            assert_eq!(map.count(), count, "{size} in {text}");
            let mut covered = 0;
            for number in 0..count {
                let block = BlockIndex(number as u16);
                let ports = map.ports_of(block).unwrap();
                assert_eq!(ports.size(), u32::from(size));
                assert_eq!(map.block_of(ports.first), Some(block));
                assert_eq!(map.block_of(ports.last), Some(block));
                covered += ports.size();
            }
            let owned = (0..=u16::MAX).filter(|&p| map.block_of(p).is_some());
            assert_eq!(owned.count() as u32, covered);
            if count < 65536 {
                assert_eq!(map.ports_of(BlockIndex(count as u16)), None);
            }
        }
    }

    #[test]
    fn superblocks_find_the_blocks_that_start_in_them() {
        let map = BlockMap::new(100, &"1024-20000,30000-65535".parse().unwrap());
        for shift in [8, 10, 16] {
            let mut seen = Vec::new();
            for first in (0..65536u32).step_by(1 << shift) {
                let ports = PortRange::new(first as u16, (first + (1 << shift) - 1) as u16);
                for (low, high) in map.starting_in(ports) {
                    for number in low..=high {
                        let block = map.ports_of(BlockIndex(number as u16)).unwrap();
                        assert!(ports.contains(block.first));
                        seen.push(number);
                    }
                }
            }
            assert_eq!(seen, (0..map.count()).collect::<Vec<_>>());
        }
    }
}
