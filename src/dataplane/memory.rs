//! Buffers and a sink in plain memory: tests, fuzz targets, golden rows and the core benchmark run on them.

use std::collections::VecDeque;

use crate::base::{PortId, WorkerId};
use crate::dataplane::buffer::{Buffer, Heard, Message, Sink};

/// Free bytes in front of a fresh buffer: a VLAN tag fits, and so does a second one.
const HEADROOM: usize = 64;

/// Largest frame a buffer holds.
const ROOM: usize = 9216;

/// A packet in a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Default for MemoryBuffer {
    fn default() -> Self {
        MemoryBuffer::from_frame(&[])
    }
}

impl MemoryBuffer {
    /// A buffer that holds a copy of `frame`.
    pub fn from_frame(frame: &[u8]) -> MemoryBuffer {
        let mut bytes = vec![0; HEADROOM];
        bytes.extend_from_slice(frame);
        MemoryBuffer {
            bytes,
            start: HEADROOM,
        }
    }
}

impl Buffer for MemoryBuffer {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    fn prepend(&mut self, count: usize) -> bool {
        match self.start.checked_sub(count) {
            Some(start) => {
                self.start = start;
                true
            }
            None => false,
        }
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= self.bytes.len() - self.start;
        if fits {
            self.start += count;
        }
        fits
    }

    fn set_len(&mut self, length: usize) -> bool {
        if length <= ROOM {
            self.bytes.resize(self.start + length, 0);
        }
        length <= ROOM
    }
}

/// Collects what a shard sends.
#[derive(Debug, Default)]
pub struct MemorySink {
    /// Frames sent, in order, with their port.
    pub sent: Vec<(PortId, Vec<u8>)>,
    /// Messages for other workers, in order.
    pub messages: VecDeque<(WorkerId, Message<MemoryBuffer>)>,
    /// What management was told.
    pub heard: Vec<Heard>,
    /// What it may still be told; `None` is no limit.
    pub hearing_left: Option<u64>,
    /// Buffers let go.
    pub discarded: u64,
    /// Buffers that may still be allocated; `None` is no limit.
    pub allocations_left: Option<u64>,
}

impl Sink<MemoryBuffer> for MemorySink {
    fn allocate(&mut self) -> Option<MemoryBuffer> {
        if let Some(left) = &mut self.allocations_left {
            *left = left.checked_sub(1)?;
        }
        Some(MemoryBuffer::default())
    }

    fn transmit(&mut self, port: PortId, buffer: MemoryBuffer) {
        self.sent.push((port, buffer.bytes().to_vec()));
    }

    fn discard(&mut self, _buffer: MemoryBuffer) {
        self.discarded += 1;
    }

    fn hand_over(
        &mut self,
        to: WorkerId,
        message: Message<MemoryBuffer>,
    ) -> Result<(), Message<MemoryBuffer>> {
        self.messages.push_back((to, message));
        Ok(())
    }

    fn tell_control(&mut self, heard: Heard) -> bool {
        if let Some(left) = &mut self.hearing_left {
            let Some(fewer) = left.checked_sub(1) else {
                return false;
            };
            *left = fewer;
        }
        self.heard.push(heard);
        true
    }
}
