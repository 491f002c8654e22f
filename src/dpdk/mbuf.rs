//! One packet buffer, owned.
//!
//! ```text
//!   header 128 | meta 64 | headroom … | data …                | tailroom …
//!                                     ^ bytes() = data_len bytes
//! ```
//!
//! An [`Mbuf`] is a pointer to its header. It moves, is never copied, and goes back to its pool when dropped. Bursts
//! move many at once without dropping any ([`super::RxQueue::rx`], [`super::TxQueue::tx`], [`Mbuf::free_bulk`]).

use std::fmt;
use std::ptr::NonNull;

use arrayvec::ArrayVec;

use super::ffi;

/// Bytes of metadata every buffer carries for its owner.
pub const META_BYTES: usize = ffi::NG_META_BYTES as usize;

/// What the device found out about a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: software must look.
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
}

/// An owned packet buffer. Dropping it returns it to its pool.
#[repr(transparent)]
pub struct Mbuf(NonNull<ffi::ng_mbuf>);

// SAFETY: an `Mbuf` is the only owner of its buffer, and pools take buffers back from any thread.
unsafe impl Send for Mbuf {}
// SAFETY: nothing is changed through a shared reference.
unsafe impl Sync for Mbuf {}

impl Mbuf {
    #[inline]
    fn header(&self) -> &ffi::ng_mbuf {
        // SAFETY: we own the buffer; its header and private area were initialised when the pool was made, and
        // shim.c asserts that the mirror's layout is DPDK's.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn header_mut(&mut self) -> &mut ffi::ng_mbuf {
        // SAFETY: as in `header`, and `&mut self` makes the access exclusive.
        unsafe { self.0.as_mut() }
    }

    /// The frame.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let header = self.header();
        // SAFETY: data_off + data_len lies within the buffer: drivers and the methods below keep it so. The memory
        // is ours while we live, and it was zeroed or written before.
        unsafe {
            std::slice::from_raw_parts(
                header.buf_addr.add(usize::from(header.data_off)),
                usize::from(header.data_len),
            )
        }
    }

    /// The frame, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let header = self.header();
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(
                header.buf_addr.add(usize::from(header.data_off)),
                usize::from(header.data_len),
            )
        }
    }

    /// Bytes of frame.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.header().data_len)
    }

    /// Whether the frame has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Address of the first byte, for prefetching. Reading the header for it costs a cache line.
    #[inline]
    pub fn data_ptr(&self) -> *const u8 {
        let header = self.header();
        header.buf_addr.wrapping_add(usize::from(header.data_off))
    }

    /// Address of the header, for prefetching.
    #[inline]
    pub fn header_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast_const().cast()
    }

    /// Free bytes in front of the frame.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.header().data_off)
    }

    /// Free bytes behind the frame.
    #[inline]
    pub fn tailroom(&self) -> usize {
        let header = self.header();
        usize::from(header.buf_len)
            .saturating_sub(usize::from(header.data_off) + usize::from(header.data_len))
    }

    /// Buffers the frame is spread over. Natgate asks no device to spread frames: one that is (not 1) must be dropped,
    /// [`Mbuf::bytes`] shows only its beginning and nothing can change its length.
    #[inline]
    pub fn segments(&self) -> u16 {
        self.header().nb_segs
    }

    /// Puts `count` bytes in front of the frame; what they hold is left from earlier. False, and nothing changed, when
    /// there is no room or the frame is spread.
    #[inline]
    #[must_use]
    pub fn prepend(&mut self, count: usize) -> bool {
        if count > self.headroom()
            || self.len() + count > usize::from(u16::MAX)
            || self.segments() != 1
        {
            return false;
        }
        let header = self.header_mut();
        header.data_off -= count as u16;
        header.data_len += count as u16;
        header.pkt_len = u32::from(header.data_len);
        true
    }

    /// Takes `count` bytes off the front. False, and nothing changed, when the frame is shorter or spread.
    #[inline]
    #[must_use]
    pub fn adj(&mut self, count: usize) -> bool {
        if count > self.len() || self.segments() != 1 {
            return false;
        }
        let header = self.header_mut();
        header.data_off += count as u16;
        header.data_len -= count as u16;
        header.pkt_len = u32::from(header.data_len);
        true
    }

    /// Makes the frame `length` bytes long, cutting or growing its end; new bytes hold what was there before. False, and
    /// nothing changed, when there is no room or the frame is spread.
    #[inline]
    #[must_use]
    pub fn set_len(&mut self, length: usize) -> bool {
        if length > self.len() + self.tailroom() || self.segments() != 1 {
            return false;
        }
        let header = self.header_mut();
        header.data_len = length as u16;
        header.pkt_len = length as u32;
        true
    }

    /// Makes `frame` the contents. False when it does not fit.
    #[must_use]
    pub fn fill(&mut self, frame: &[u8]) -> bool {
        if !self.set_len(frame.len()) {
            return false;
        }
        self.bytes_mut().copy_from_slice(frame);
        true
    }

    /// The hash the device computed to choose the queue, if it says so.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        let header = self.header();
        (header.ol_flags & u64::from(ffi::NG_RX_RSS_HASH) != 0).then_some(header.rss_hash)
    }

    /// The IPv4 header checksum, as far as the device looked.
    #[inline]
    pub fn ip_checksum(&self) -> Checksum {
        self.verdict(ffi::NG_RX_IP_GOOD, ffi::NG_RX_IP_BAD)
    }

    /// The TCP or UDP checksum, as far as the device looked.
    #[inline]
    pub fn l4_checksum(&self) -> Checksum {
        self.verdict(ffi::NG_RX_L4_GOOD, ffi::NG_RX_L4_BAD)
    }

    #[inline]
    fn verdict(&self, good: u32, bad: u32) -> Checksum {
        let flags = self.header().ol_flags;
        match (flags & u64::from(good) != 0, flags & u64::from(bad) != 0) {
            (true, false) => Checksum::Good,
            (false, true) => Checksum::Bad,
            // Both: DPDK's way to say that the data is sound although the field is not filled in.
            _ => Checksum::Unknown,
        }
    }

    /// The metadata: whatever the last owner wrote. Neither receiving nor freeing clears it.
    #[inline]
    pub fn meta(&self) -> &[u8; META_BYTES] {
        &self.header().meta
    }

    /// The metadata, to be written. It travels with the buffer to another thread.
    #[inline]
    pub fn meta_mut(&mut self) -> &mut [u8; META_BYTES] {
        &mut self.header_mut().meta
    }

    /// Returns all buffers to their pools in one call, leaving the array empty.
    #[inline]
    pub fn free_bulk<const N: usize>(mbufs: &mut ArrayVec<Mbuf, N>) {
        let count = mbufs.len();
        // SAFETY: the array gives its `count` buffers up before the shim takes them, so none is freed twice. `Mbuf` is
        // a pointer, so the array is one of pointers.
        unsafe {
            mbufs.set_len(0);
            ffi::ng_free_bulk(mbufs.as_mut_ptr().cast(), count as u32);
        }
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we are the only owner and never used again.
        unsafe { ffi::ng_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("segments", &self.segments())
            .finish_non_exhaustive()
    }
}
