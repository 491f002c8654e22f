//! Pools of packet buffers.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::dataplane::machine::Memory;
use crate::dataplane::provision::PacketBuffers;

use super::eal::Eal;
use super::error::{Error, refused};
use super::ffi;
use super::mbuf::Mbuf;

/// The largest per-thread cache a pool can have.
pub const MAX_CACHE: u32 = 512;

/// A pool of packet buffers of one size. Clones share it. The memory stays until every buffer is back.
#[derive(Clone, Debug)]
pub struct Mempool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: NonNull<ffi::ng_pool>,
    capacity: u32,
    frame_room: u16,
    eal: Option<Eal>,
}

// SAFETY: DPDK's pools are multi-producer, multi-consumer; all other fields are immutable.
unsafe impl Send for Inner {}
// SAFETY: as above: every operation on the pool is safe from any thread at any time.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Makes a pool of `count` buffers (best 2ⁿ − 1) that hold a frame of `frame_room` bytes each, behind the headroom.
    ///
    /// Each registered thread keeps up to one and a half times `cache` (at most [`MAX_CACHE`]) buffers at hand, so
    /// `count` must exceed what all queues and caches hold together. `node` is the NUMA node; `None`: any. Names are
    /// unique in the process and have at most 25 bytes.
    ///
    /// # Errors
    /// [`Error::Memory`] says how much is needed and where it would come from; [`Error::Dpdk`] otherwise.
    pub fn create(
        eal: &Eal,
        name: &str,
        count: u32,
        frame_room: u16,
        cache: u32,
        node: Option<u32>,
    ) -> Result<Mempool, Error> {
        let what = || format!("cannot create the packet buffer pool {name:?} of {count}");
        let bad = |why: &str| Error::Device(format!("{}: {why}", what()));
        let data_room = u32::from(frame_room) + ffi::NG_HEADROOM;
        let data_room =
            u16::try_from(data_room).map_err(|_| bad("buffers hold at most 65407 bytes"))?;
        if cache > MAX_CACHE || u64::from(cache) * 3 / 2 > u64::from(count) {
            return Err(bad(
                "the cache is larger than 512 or than two thirds of the pool",
            ));
        }
        let c_name = CString::new(name).map_err(|_| bad("its name contains a NUL byte"))?;
        let node = node.map_or(-1, |node| node as i32);
        let mut code = 0;
        // SAFETY: the environment is initialised, because `eal` exists; the name outlives the call, which copies it.
        let pool = unsafe {
            ffi::ng_pool_create(c_name.as_ptr(), count, cache, data_room, node, &mut code)
        };
        let Some(pool) = NonNull::new(pool) else {
            return Err(match code {
                code if code == -nix::libc::ENOMEM || code == -nix::libc::ENOBUFS => {
                    too_little_memory(count, frame_room)
                }
                code => refused(what(), code),
            });
        };
        Ok(Mempool {
            inner: Arc::new(Inner {
                pool,
                capacity: count,
                frame_room,
                eal: Some(eal.clone()),
            }),
        })
    }

    /// Buffers not in use, those in threads' caches included. Slow and, while packets move, approximate.
    pub fn available(&self) -> u32 {
        self.inner.available()
    }

    /// Buffers in all.
    pub fn capacity(&self) -> u32 {
        self.inner.capacity
    }

    /// Bytes of frame a buffer holds.
    pub fn frame_room(&self) -> u16 {
        self.inner.frame_room
    }

    /// One empty buffer, or none.
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut one = ArrayVec::<Mbuf, 1>::new();
        self.alloc_bulk(1, &mut one);
        one.pop()
    }

    /// Appends `count` empty buffers to `out`: all or none, and none if they do not fit. Tells whether it did.
    pub fn alloc_bulk<const N: usize>(&self, count: usize, out: &mut ArrayVec<Mbuf, N>) -> bool {
        let length = out.len();
        if count > N - length {
            return false;
        }
        // SAFETY: there is room for `count` more pointers behind the first `length`, and `Mbuf` is a pointer. On
        // success the shim has written every one of them, each to a buffer that belongs to nobody else.
        unsafe {
            let slots = out.as_mut_ptr().add(length).cast();
            if ffi::ng_alloc_bulk(self.inner.pool.as_ptr(), slots, count as u32) != 0 {
                return false;
            }
            out.set_len(length + count);
        }
        true
    }

    /// For setting up receive queues.
    pub(super) fn as_ptr(&self) -> *mut ffi::ng_pool {
        self.inner.pool.as_ptr()
    }
}

impl Inner {
    fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { ffi::ng_pool_available(self.pool.as_ptr()) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.available() == self.capacity {
            // SAFETY: every buffer is back, no port holds the pool (ports own a clone), and nobody can allocate.
            unsafe { ffi::ng_pool_free(self.pool.as_ptr()) };
        } else {
            // Somebody still owns buffers of this pool: their memory, and the environment, must stay for good.
            std::mem::forget(self.eal.take());
        }
    }
}

/// The sentence for a pool that did not fit into memory.
fn too_little_memory(count: u32, frame_room: u16) -> Error {
    let pages = Memory::read().huge;
    let bytes = PacketBuffers {
        count,
        room: frame_room,
    }
    .bytes();
    let mib = bytes.div_ceil(1 << 20);
    let advice = if pages.size_kib == 0 {
        "give DPDK more memory, or take fewer buffers".to_string()
    } else {
        format!(
            "use huge pages: `sysctl vm.nr_hugepages={}`, now {} with {} MiB free",
            pages.total + pages.needed(bytes),
            pages.total,
            pages.free_bytes >> 20
        )
    };
    Error::Memory(format!(
        "too little memory for {count} packet buffers of {frame_room} bytes, which need {mib} MiB ({advice})"
    ))
}
