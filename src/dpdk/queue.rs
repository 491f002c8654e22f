//! The queues of a port: one call into C per burst.
//!
//! A handle exists once and bursts take `&mut self`, so that no two threads can be in one queue. Buffers change hands
//! wholesale: what the device takes leaves the caller's array without being dropped, what it refuses stays in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::ffi;
use super::mbuf::Mbuf;
use super::port::PortInner;

/// Bursts the packet path works in.
pub const BURST: usize = 64;

/// The one handle of a receive queue. Dropping it gives the queue back to its port.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<PortInner>,
    id: u16,
    queue: u16,
}

/// The one handle of a transmit queue. Dropping it gives the queue back to its port.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<PortInner>,
    id: u16,
    queue: u16,
}

impl RxQueue {
    pub(super) fn new(port: Arc<PortInner>, queue: u16) -> RxQueue {
        RxQueue {
            id: port.id(),
            port,
            queue,
        }
    }

    /// Appends waiting packets to `out` up to its capacity and returns how many came. VLAN tags are in the frame, also
    /// on devices that take them out.
    #[inline]
    pub fn rx<const N: usize>(&mut self, out: &mut ArrayVec<Mbuf, N>) -> usize {
        let length = out.len();
        let room = (N - length).min(usize::from(u16::MAX)) as u16;
        // SAFETY: the port is started, because the handle exists, and the handle makes us alone in the queue. The shim
        // writes at most `room` pointers behind the first `length`, each to a buffer that is now ours; `Mbuf` is a
        // pointer.
        unsafe {
            let slots = out.as_mut_ptr().add(length).cast();
            let received = usize::from(ffi::ng_rx_burst(self.id, self.queue, slots, room));
            out.set_len(length + received);
            received
        }
    }

    /// Position among the port's receive queues.
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

impl Drop for RxQueue {
    fn drop(&mut self) {
        self.port
            .rx_taken(self.queue)
            .store(false, Ordering::Release);
    }
}

impl TxQueue {
    pub(super) fn new(port: Arc<PortInner>, queue: u16) -> TxQueue {
        TxQueue {
            id: port.id(),
            port,
            queue,
        }
    }

    /// Sends `mbufs` from the front and returns how many the device took. Those are gone from the array; a refused tail
    /// stays in it, in order, for the caller to retry or free.
    #[inline]
    pub fn tx<const N: usize>(&mut self, mbufs: &mut ArrayVec<Mbuf, N>) -> usize {
        let count = mbufs.len().min(usize::from(u16::MAX));
        let length = mbufs.len();
        // SAFETY: the port is started, because the handle exists, and the handle makes us alone in the queue. The array
        // gives all buffers up before the shim takes some and gets back exactly those it left, so none has two owners
        // or none. `Mbuf` is a pointer.
        unsafe {
            mbufs.set_len(0);
            let first = mbufs.as_mut_ptr();
            let sent = usize::from(ffi::ng_tx_burst(
                self.id,
                self.queue,
                first.cast(),
                count as u16,
            ));
            if sent < length {
                std::ptr::copy(first.add(sent), first, length - sent);
            }
            mbufs.set_len(length - sent);
            sent
        }
    }

    /// Position among the port's transmit queues.
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        self.port
            .tx_taken(self.queue)
            .store(false, Ordering::Release);
    }
}
