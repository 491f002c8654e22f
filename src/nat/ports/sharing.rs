//! Choosing a port that others may use already, with other remotes.
//!
//! The order is that of exclusive ports, and so is the promise: a drawn port, then the next one; none is refused while one
//! of the allowed ports, free or shared by this worker, is left for the remote. Windows of 64 ports are looked at, at most
//! 1024 of them, and nearly always the first one has what is wanted.

use super::bitmap::set_bits;
use super::shared::{SharedPorts, View};
use super::{Allowed, BlockIndex, BlockPorts, Preference, SinglePorts};
use crate::base::{Random, Tick, WorkerId};

/// Windows of an address with single ports.
const WINDOWS: u32 = 1024;

/// Where single ports are looked for.
pub(super) struct SingleSearch<'a> {
    pub(super) single: &'a SinglePorts,
    pub(super) worker: WorkerId,
    pub(super) preference: Preference,
    pub(super) allowed: &'a Allowed<'a>,
    pub(super) view: &'a View,
}

impl SingleSearch<'_> {
    /// Takes this very port, if it is left for the remote.
    pub(super) fn take_port(&self, shared: &mut SharedPorts, port: u16) -> bool {
        let wanted = 1 << (port % 64);
        self.allowed.contains(port) && self.take_in(shared, port & !63, wanted, true).is_some()
    }

    /// Takes the first port left for the remote from `start` on, around the end. Ports whose replies the network card
    /// brings to this worker come first, wherever they lie; then those that this worker has from elsewhere; then those that
    /// nobody has, because once taken they are lost to the worker whose home they are.
    pub(super) fn take_from(&self, shared: &mut SharedPorts, start: u16) -> Option<u16> {
        let first = u32::from(start) / 64;
        let from_start = u64::MAX << (start % 64);
        for (at_home, fresh) in [(true, true), (false, false), (false, true)] {
            for turn in 0..=WINDOWS {
                // Around the end, where 16 bits do.
                let window = ((first + turn) * 64) as u16;
                let home = self.preference.home(self.worker, window) == window;
                if home != at_home {
                    continue;
                }
                let part = match turn {
                    0 => from_start,
                    _ => u64::MAX,
                };
                let port = self.take_in(shared, window, part, fresh);
                if port.is_some() {
                    return port;
                }
            }
        }
        None
    }

    /// Takes the lowest port of a window that is left for the remote and in `among`; `fresh`: also one that nobody has.
    fn take_in(
        &self,
        shared: &mut SharedPorts,
        window: u16,
        among: u64,
        fresh: bool,
    ) -> Option<u16> {
        let space = self.view.space;
        let allowed = self.allowed.bits_at(window) & among;
        if allowed == 0 {
            return None;
        }
        let leased = shared.leased(self.view, window);
        let free = match fresh {
            true => self.single.free_in(space, window),
            false => 0,
        };
        let left = allowed & (free | leased) & !shared.taken(self.view, window);
        for bit in set_bits(left) {
            let port = window + bit as u16;
            let ours = leased >> bit & 1 == 1;
            // Unless another worker was faster.
            if ours || self.single.claim(space, port, self.worker) {
                if shared.begin(self.view, window, port).is_ok() {
                    return Some(port);
                }
                if !ours {
                    self.single.release(space, port);
                }
                return None;
            }
        }
        None
    }
}

/// Where ports of a subscriber's blocks are looked for.
pub(super) struct BlockSearch<'a> {
    pub(super) blocks: &'a BlockPorts,
    pub(super) allowed: &'a Allowed<'a>,
    pub(super) view: &'a View,
    pub(super) now: Tick,
    pub(super) hold: u32,
}

impl BlockSearch<'_> {
    /// Whether a port of the block is left for the remote.
    pub(super) fn has_room(&self, shared: &SharedPorts, block: BlockIndex) -> bool {
        self.blocks.rest(block, self.now, self.hold);
        (0..self.blocks.words(block)).any(|word| self.left(shared, block, word).1 != 0)
    }

    /// Whether this very port of the block is left for the remote.
    pub(super) fn has_port(&self, shared: &SharedPorts, block: BlockIndex, port: u16) -> bool {
        let ports = self.blocks.ports_of(block).filter(|p| p.contains(port));
        ports.is_some_and(|ports| {
            let offset = port - ports.first;
            let (_, left) = self.left(shared, block, usize::from(offset / 64));
            left >> (offset % 64) & 1 == 1
        })
    }

    /// Takes a port of the block that is left for the remote: `wanted`, or else a random one.
    pub(super) fn take(
        &self,
        shared: &mut SharedPorts,
        block: BlockIndex,
        wanted: Option<u16>,
        random: &mut Random,
    ) -> Option<u16> {
        let ports = self.blocks.ports_of(block)?;
        self.blocks.rest(block, self.now, self.hold);
        let wanted = wanted.filter(|&port| self.has_port(shared, block, port));
        let start = match wanted {
            Some(port) => u32::from(port - ports.first),
            None => random.below(ports.size()),
        };
        let first = start as usize / 64;
        let words = self.blocks.words(block);
        for i in 0..words {
            let word = (first + i) % words;
            let (window, left) = self.left(shared, block, word);
            if left == 0 {
                continue;
            }
            let bit = (left.rotate_right(start).trailing_zeros() + start) % 64;
            let port = window + bit as u16;
            let ours = shared.leased(self.view, window) >> bit & 1 == 1;
            if shared.begin(self.view, window, port).is_err() {
                return None;
            }
            if ours {
                self.blocks.touch(block, self.now);
            } else {
                self.blocks
                    .take_port(block, port, self.view.space, self.now);
            }
            return Some(port);
        }
        None
    }

    /// The first port of one word of a block, and which of its ports are left for the remote.
    fn left(&self, shared: &SharedPorts, block: BlockIndex, word: usize) -> (u16, u64) {
        let Some(ports) = self.blocks.ports_of(block) else {
            return (0, 0);
        };
        let window = ports.first + word as u16 * 64;
        let free = self.blocks.free_in(block, self.view.space, word);
        let ours = free | shared.leased(self.view, window);
        let allowed = self.allowed.bits_at(window);
        (window, ours & allowed & !shared.taken(self.view, window))
    }
}
