//! Packet buffers of the generator.

use crate::bench::traffic::LARGEST;
use crate::dataplane::buffer::Buffer;

/// A frame in a slot of its own. One word to move about, like an mbuf.
#[derive(Debug)]
pub struct SlotBuffer(Box<Slot>);

/// The frame begins on a line of its own, as in an mbuf.
#[derive(Debug)]
#[repr(C, align(64))]
struct Slot {
    start: usize,
    end: usize,
    /// Something other than a template may have been written.
    soiled: bool,
    bytes: [u8; HEADROOM + ROOM],
}

/// Room in front of the frame: with the fields before it two lines.
const HEADROOM: usize = 128 - 17;

/// Room for a frame.
const ROOM: usize = LARGEST + 22;

impl Default for SlotBuffer {
    fn default() -> Self {
        SlotBuffer(Box::new(Slot {
            start: HEADROOM,
            end: HEADROOM,
            soiled: false,
            bytes: [0; HEADROOM + ROOM],
        }))
    }
}

impl SlotBuffer {
    /// Makes it a frame of `length` bytes, of which those behind the first 60 are zero.
    #[inline]
    pub fn reset(&mut self, length: usize) {
        if self.0.soiled {
            self.0.bytes.fill(0);
            self.0.soiled = false;
        }
        self.0.start = HEADROOM;
        self.0.end = (HEADROOM + length).min(self.0.bytes.len());
    }

    /// From now on anything may be written.
    pub fn soil(&mut self) {
        self.0.soiled = true;
    }
}

impl Buffer for SlotBuffer {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.0.bytes[self.0.start..self.0.end]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0.bytes[self.0.start..self.0.end]
    }

    fn prepend(&mut self, count: usize) -> bool {
        let fits = count <= self.0.start;
        if fits {
            self.0.start -= count;
        }
        fits
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= self.0.end - self.0.start;
        if fits {
            self.0.start += count;
        }
        fits
    }

    fn set_len(&mut self, length: usize) -> bool {
        let fits = self.0.start + length <= self.0.bytes.len();
        if fits {
            self.0.end = self.0.start + length;
        }
        fits
    }
}
