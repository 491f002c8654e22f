//! What needs the processor or the kernel by name: prefetch, SIMD tag comparison, AES rounds, huge pages.
//!
//! Outside `dpdk` this is the one module that may say `unsafe`, so it stays small, knows nothing of packets, and
//! offers only safe functions. Each instruction-set path has a portable twin that the tests hold it against:
//!
//! | item | x86-64 | elsewhere |
//! |---|---|---|
//! | [`prefetch_read`], [`prefetch_index`], [`prefetch_lines`] | `PREFETCHT0` | nothing |
//! | [`match_tags`] | SSE2, part of the base instruction set | [`match_tags_portable`] |
//! | [`Aes`] | AESENC when the running processor has it | never there; `flow::hash` multiplies instead |
//! | [`cycles`] | RDTSC | 0 |
//! | [`HugeVec`] | `mmap` with 1 GiB or 2 MiB pages | the same |
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::convert::Infallible;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Asks the processor to bring the line of `value`'s first byte into its caches. Never waits, never faults.
#[inline(always)]
pub fn prefetch_read<T>(value: &T) {
    prefetch_line(std::ptr::from_ref(value));
}

/// Prefetches the line where element `index` starts. An index past the end is harmless: the hint then names
/// memory nobody reads, so callers need no bounds check here.
#[inline(always)]
pub fn prefetch_index<T>(slice: &[T], index: usize) {
    prefetch_line(slice.as_ptr().wrapping_add(index));
}

/// Prefetches `lines` lines from where element `index` starts. As harmless as [`prefetch_index`].
#[inline(always)]
pub fn prefetch_lines<T>(slice: &[T], index: usize, lines: usize) {
    let first = slice.as_ptr().wrapping_add(index).cast::<u8>();
    for line in 0..lines {
        prefetch_line(first.wrapping_add(line * CACHE_LINE));
    }
}

/// Bytes of a cache line.
pub const CACHE_LINE: usize = 64;

#[inline(always)]
fn prefetch_line<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: PREFETCHT0 is a hint. It does not access memory in the sense of the language, and does not
        // fault on any address, mapped or not.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The time stamp counter, for benchmarks: cycles of a constant clock, not of the core. 0 where there is none.
#[inline(always)]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC belongs to every x86-64 processor and touches no memory.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Compares `tag` with ten tags at once. Bit i of the result is set when `tags[i] == tag`; bits 10 and up are 0.
#[inline(always)]
pub fn match_tags(tags: &[u16; 10], tag: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 belongs to every x86-64 processor.
    unsafe {
        match_tags_sse2(tags, tag)
    }
    #[cfg(not(target_arch = "x86_64"))]
    match_tags_portable(tags, tag)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn match_tags_sse2(tags: &[u16; 10], tag: u16) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16,
        _mm_set1_epi16,
    };
    let start = tags.as_ptr();
    // SAFETY: both loads read 16 bytes inside the 20-byte array, tags 0..8 and 2..10, and may be unaligned.
    let (first, last) = unsafe {
        (
            _mm_loadu_si128(start.cast::<__m128i>()),
            _mm_loadu_si128(start.add(2).cast::<__m128i>()),
        )
    };
    let wanted = _mm_set1_epi16(tag.cast_signed());
    // One byte per compared tag: 0..8 in the low half, 2..10 in the high half, of which only 8 and 9 are new.
    let equal = _mm_packs_epi16(
        _mm_cmpeq_epi16(first, wanted),
        _mm_cmpeq_epi16(last, wanted),
    );
    let bits = _mm_movemask_epi8(equal).cast_unsigned();
    (bits & 0x0ff) | ((bits >> 6) & 0x300)
}

/// What [`match_tags`] means, without SIMD.
#[inline]
pub fn match_tags_portable(tags: &[u16; 10], tag: u16) -> u32 {
    let bit = |(i, &t): (usize, &u16)| u32::from(t == tag) << i;
    tags.iter().enumerate().map(bit).sum()
}

/// A whitening key and three round keys. They come from a secret; see `flow::hash`.
pub type RoundKeys = [u128; 4];

/// What an [`Aes`] value holds: nothing where AESENC may exist, the impossible where it cannot.
#[cfg(target_arch = "x86_64")]
type AesProof = ();
#[cfg(not(target_arch = "x86_64"))]
type AesProof = std::convert::Infallible;

/// Proof that the running processor executes AESENC: [`Aes::detect`] is the only way to get one, so the digest
/// needs no check of its own.
#[derive(Clone, Copy, Debug)]
pub struct Aes(AesProof);

impl Aes {
    /// Looks at the processor, once per construction of a hasher.
    pub fn detect() -> Option<Aes> {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("aes") {
            return Some(Aes(()));
        }
        None
    }

    /// A keyed 64-bit digest of `blocks`: whitening with the first key, then per block three AES rounds.
    ///
    /// Three rounds let every input bit reach every output bit through S-boxes an outsider cannot predict. This
    /// is a hash for tables under attack by colliding keys, not a message authentication code.
    #[inline(always)]
    pub fn digest<const N: usize>(self, keys: &RoundKeys, blocks: [u128; N]) -> u64 {
        let mut state = keys[0];
        for block in blocks {
            state = self.rounds(keys, state ^ block);
        }
        state as u64 ^ (state >> 64) as u64
    }

    /// [`Aes::digest`] of many in one call: the blocks of each go with the place for its digest.
    #[inline]
    pub fn digest_each<'a, const N: usize>(
        self,
        keys: &RoundKeys,
        digests: impl Iterator<Item = (&'a [u128; N], &'a mut u64)>,
    ) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a value of this type exists only after `detect` found the `aes` feature.
        unsafe {
            aes_digest_each(keys, digests)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (keys, digests);
            match self.0 {}
        }
    }

    #[inline(always)]
    fn rounds(self, keys: &RoundKeys, state: u128) -> u128 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a value of this type exists only after `detect` found the `aes` feature.
        unsafe {
            aes_rounds(keys, state)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (keys, state);
            match self.0 {}
        }
    }
}

/// Three AES rounds. Not inlined where the build does not assume AES, so the state travels as two integers in
/// registers: through memory it would be stored in halves and loaded whole, which stalls (measured: 10 ns a key against 1.4).
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "aes")]
fn aes_rounds(keys: &RoundKeys, state: u128) -> u128 {
    use std::arch::x86_64::{
        __m128i, _mm_aesenc_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_unpackhi_epi64,
    };
    let vector = |x: u128| _mm_set_epi64x((x >> 64) as i64, x as i64);
    let low = |x: __m128i| u128::from(_mm_cvtsi128_si64(x).cast_unsigned());
    let mut state = vector(state);
    for &key in &keys[1..] {
        state = _mm_aesenc_si128(state, vector(key));
    }
    low(state) | low(_mm_unpackhi_epi64(state, state)) << 64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "aes")]
fn aes_digest_each<'a, const N: usize>(
    keys: &RoundKeys,
    digests: impl Iterator<Item = (&'a [u128; N], &'a mut u64)>,
) {
    for (blocks, digest) in digests {
        let mut state = keys[0];
        for block in blocks {
            state = aes_rounds(keys, state ^ block);
        }
        *digest = state as u64 ^ (state >> 64) as u64;
    }
}

/// Size of a huge page in bytes.
pub const HUGE_PAGE: usize = 2 << 20;

/// Size of the largest pages in bytes.
const GIANT_PAGE: usize = 1 << 30;

/// Size of an ordinary page in bytes: what a small array is rounded to.
const SMALL_PAGE: usize = 4096;

/// Where the pages of a [`HugeVec`] come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// The kernel's transparent huge pages: no set-up by the operator, but only a request.
    #[default]
    Transparent,
    /// Pages the operator reserved: of 1 GiB where the array nearly fills them, else of 2 MiB (`vm.nr_hugepages`); where too
    /// few are free, transparent ones.
    Reserved,
}

/// Bytes of arrays written so far.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Bytes of [`HugeVec`]s written by this process since its start: how far the construction of large ones is.
pub fn written_bytes() -> u64 {
    WRITTEN.load(Ordering::Relaxed)
}

/// What one thread writes at a time while an array is constructed.
const PIECE: usize = 32 << 20;

/// Hands pieces of `length` elements to as many threads as there are cores for the calling one, until one fails.
fn in_pieces<T: Send, E: Send>(
    room: &mut [MaybeUninit<T>],
    length: usize,
    work: impl Fn(&mut [MaybeUninit<T>]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let pieces = room.len().div_ceil(length.max(1));
    let helpers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let rest = Mutex::new(room.chunks_mut(length.max(1)));
    let failure = Mutex::new(None);
    let take_turns = || {
        loop {
            let piece = rest.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(piece) = piece else { return };
            if let Err(error) = work(piece) {
                failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..helpers.min(pieces) {
            // Without a thread the others do its part.
            let _ = std::thread::Builder::new().spawn_scoped(scope, take_turns);
        }
        take_turns();
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), Err)
}

/// Memory for a table could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot reserve {bytes} bytes of memory: {reason}")]
pub struct OutOfMemory {
    /// The size asked for in bytes (`usize::MAX` if it exceeds the address space).
    pub bytes: usize,
    /// The kernel's answer or the limit that was hit.
    pub reason: String,
}

/// A fixed-length array on huge pages, written once at construction so that no page fault is left for the packet path. All
/// cores that the constructing thread may use take part, and the first touch puts the array on their memory node.
///
/// Elements are plain data (`Copy`): they have no destructor, and moving them is copying bytes. Arrays below one
/// huge page take ordinary pages. The length never changes.
pub struct HugeVec<T: Copy> {
    /// First element; `length` initialised elements follow.
    start: NonNull<T>,
    length: usize,
    /// Bytes of whole pages behind the elements.
    bytes: usize,
    /// The mapping `start` lies in, as `munmap` needs it.
    mapping: NonNull<c_void>,
    mapped: usize,
}

// SAFETY: a HugeVec owns its elements alone, as a Vec does; handing it to another thread hands them over.
unsafe impl<T: Copy + Send> Send for HugeVec<T> {}
// SAFETY: a shared HugeVec gives out only shared references to its elements.
unsafe impl<T: Copy + Sync> Sync for HugeVec<T> {}

impl<T: Copy + Default + Send + Sync> HugeVec<T> {
    /// `length` elements, each `T::default()`.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the kernel refuses the mapping.
    pub fn new(length: usize, pages: Pages) -> Result<HugeVec<T>, OutOfMemory> {
        HugeVec::filled(length, T::default(), pages)
    }
}

impl<T: Copy> HugeVec<T> {
    /// Memory taken in bytes, whole pages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<T: Copy + Send + Sync> HugeVec<T> {
    /// `length` copies of `value`.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the kernel refuses the mapping.
    pub fn filled(length: usize, value: T, pages: Pages) -> Result<HugeVec<T>, OutOfMemory> {
        const { assert!(align_of::<T>() <= SMALL_PAGE && size_of::<T>() > 0) };
        let wanted = length.saturating_mul(size_of::<T>());
        let page = if wanted < HUGE_PAGE {
            SMALL_PAGE
        } else {
            HUGE_PAGE
        };
        let bytes = wanted.max(1).checked_next_multiple_of(page);
        let bytes = bytes.filter(|&b| b < isize::MAX as usize - HUGE_PAGE);
        let bytes = bytes.ok_or_else(|| OutOfMemory {
            bytes: wanted,
            reason: "larger than the address space".to_owned(),
        })?;
        let Mapping {
            whole: mapping,
            length: mapped,
            start,
            page,
        } = map(bytes, page, pages)?;
        let start = start.cast::<T>();
        // SAFETY: `map` returned `bytes` writable bytes aligned to a page, hence to T, that nobody else knows, and
        // `length * size_of::<T>() <= bytes`. They need not be initialised for this type.
        let room = unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), length) };
        let write = |piece: &mut [MaybeUninit<T>]| {
            piece.fill(MaybeUninit::new(value));
            WRITTEN.fetch_add(size_of_val(piece) as u64, Ordering::Relaxed);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = in_pieces(room, PIECE / size_of::<T>(), write);
        Ok(HugeVec {
            start,
            length,
            bytes: bytes.next_multiple_of(page),
            mapping,
            mapped,
        })
    }
}

/// Memory from the kernel.
struct Mapping {
    /// As `munmap` needs it.
    whole: NonNull<c_void>,
    length: usize,
    /// The first usable byte.
    start: NonNull<u8>,
    /// Size of its pages, or what is asked for.
    page: usize,
}

/// Maps `bytes` of zeroed memory aligned to `page`.
fn map(bytes: usize, page: usize, pages: Pages) -> Result<Mapping, OutOfMemory> {
    let huge = page == HUGE_PAGE;
    if huge && pages == Pages::Reserved {
        let sizes = [
            (GIANT_PAGE, MapFlags::MAP_HUGE_1GB),
            (HUGE_PAGE, MapFlags::MAP_HUGE_2MB),
        ];
        // A page of which an eighth or more would lie idle is too large.
        let fitting = sizes
            .into_iter()
            .filter(|(size, _)| bytes.next_multiple_of(*size) <= bytes + bytes / 8);
        if let Some(mapping) = fitting
            .filter_map(|(size, flag)| reserved(bytes, size, flag))
            .next()
        {
            return Ok(mapping);
        }
    }
    // The kernel aligns to ordinary pages: ask for one huge page more and begin at the first boundary. What lies
    // before and behind is never touched and so costs address space, not memory.
    let mapped = if huge { bytes + HUGE_PAGE } else { bytes };
    let mapping = anonymous(mapped, MapFlags::empty()).map_err(|error| OutOfMemory {
        bytes,
        reason: error.desc().to_owned(),
    })?;
    let skip = mapping.as_ptr().cast::<u8>().align_offset(page);
    // SAFETY: `skip < page`, and a huge mapping is one page longer than `bytes`; a small one is aligned already.
    let start = unsafe { mapping.cast::<u8>().add(skip) };
    if huge {
        // SAFETY: the range lies in the mapping just made. Advice does not change its content; a kernel without
        // transparent huge pages refuses, and the array works all the same.
        let _ = unsafe { madvise(start.cast(), bytes, MmapAdvise::MADV_HUGEPAGE) };
    }
    Ok(Mapping {
        whole: mapping,
        length: mapped,
        start,
        page,
    })
}

/// Maps `bytes` on reserved pages of size `page`, each of which is there. `None`: too few are free.
fn reserved(bytes: usize, page: usize, size: MapFlags) -> Option<Mapping> {
    let length = bytes.checked_next_multiple_of(page)?;
    let mapping = anonymous(length, MapFlags::MAP_HUGETLB | size).ok()?;
    // SAFETY: exactly the mapping just made, which nobody else knows. It need not be initialised for this type.
    let room: &mut [MaybeUninit<u8>] =
        unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr().cast(), length) };
    // A page that is not there after all (a limit of the control group, the wrong memory node) would end the process at its
    // first touch; asked for like this, the kernel says so.
    let populated = in_pieces(room, PIECE.max(page), |piece| {
        let start = NonNull::from(&mut *piece).cast();
        // SAFETY: the range lies in the mapping just made and is whole pages; they get a content of zeros, which they have.
        unsafe { madvise(start, piece.len(), MmapAdvise::MADV_POPULATE_WRITE) }
    });
    // A kernel before Linux 5.14 does not know the advice.
    if matches!(populated, Ok(()) | Err(Errno::EINVAL)) {
        return Some(Mapping {
            whole: mapping,
            length,
            start: mapping.cast(),
            page,
        });
    }
    // SAFETY: exactly the mapping just made, given back once; `room` is not used any more.
    let _ = unsafe { munmap(mapping, length) };
    None
}

fn anonymous(length: usize, flags: MapFlags) -> Result<NonNull<c_void>, Errno> {
    let length = NonZeroUsize::new(length).unwrap_or(NonZeroUsize::MIN);
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private mapping at an address of the kernel's choice touches no existing memory.
    unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE | flags) }
}

impl<T: Copy> Drop for HugeVec<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `filled`, given back once; all references to it have ended.
        let _ = unsafe { munmap(self.mapping, self.mapped) };
    }
}

impl<T: Copy> Deref for HugeVec<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `length` elements from `start` were initialised at construction and live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T: Copy> DerefMut for HugeVec<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the reference unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl<T: Copy> std::fmt::Debug for HugeVec<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (length, bytes) = (self.length, self.bytes);
        write!(f, "HugeVec({length} elements, {bytes} bytes)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;

    #[test]
    fn simd_and_portable_tag_matching_agree() {
        let mut random = Random::from_seed(1);
        for _ in 0..20_000 {
            // Few distinct values, so that matches are frequent; both sign bits occur.
            let tags: [u16; 10] = std::array::from_fn(|_| (random.below(4) * 0x5555) as u16);
            let tag = (random.below(4) * 0x5555) as u16;
            assert_eq!(
                match_tags(&tags, tag),
                match_tags_portable(&tags, tag),
                "{tags:?} {tag}"
            );
        }
        let distinct: [u16; 10] = std::array::from_fn(|i| i as u16 + 1);
        for (i, &tag) in distinct.iter().enumerate() {
            assert_eq!(match_tags(&distinct, tag), 1 << i);
        }
        assert_eq!(match_tags(&[7; 10], 7), 0x3ff);
    }

    #[test]
    fn prefetching_any_index_is_harmless() {
        let data = [1u64; 4];
        prefetch_read(&data[0]);
        for index in [0, 3, 4, 1 << 40, usize::MAX] {
            prefetch_index(&data, index);
        }
    }

    /// AESENC on zero blocks: FIPS-197 gives S-box(0) = 0x63, and MixColumns keeps a constant column.
    #[test]
    fn aes_round_is_the_standard_one() {
        let Some(aes) = Aes::detect() else { return };
        // Round keys of 0x63… cancel each round's result, so the state is zero before every round but the last.
        let cancel = u128::from_ne_bytes([0x63; 16]);
        let digest = aes.digest(&[0, cancel, cancel, cancel ^ 0x1234], [0]);
        assert_eq!(digest, 0x1234);
    }

    #[test]
    fn arrays_are_filled_aligned_and_sized_in_pages() {
        for pages in [Pages::Transparent, Pages::Reserved] {
            let mut small: HugeVec<u32> = HugeVec::new(10, pages).unwrap();
            assert_eq!((small.len(), small.bytes()), (10, SMALL_PAGE));
            small[9] = 7;
            assert_eq!(small.iter().sum::<u32>(), 7);

            let big = HugeVec::filled(300_000, 5u64, pages).unwrap();
            assert_eq!(big.bytes(), 2 * HUGE_PAGE);
            assert_eq!(big.as_ptr() as usize % HUGE_PAGE, 0);
            assert!(big.iter().all(|&x| x == 5));
        }
        let empty: HugeVec<u64> = HugeVec::new(0, Pages::Transparent).unwrap();
        assert!(empty.is_empty());
    }

    #[test]
    fn impossible_sizes_are_errors() {
        for length in [usize::MAX, isize::MAX as usize / 8, 1 << 45] {
            let refused = HugeVec::<u64>::new(length, Pages::Transparent).unwrap_err();
            assert!(refused.to_string().contains("cannot reserve"), "{refused}");
        }
    }

    /// Pieces are written by several threads; none is missed, and none is behind the end.
    #[test]
    fn large_arrays_are_written_as_a_whole() {
        let before = written_bytes();
        let length = 2 * PIECE / size_of::<u64>() + 12_345;
        let large = HugeVec::filled(length, 7u64, Pages::Reserved).unwrap();
        assert_eq!(large.len(), length);
        assert!(large.iter().all(|&x| x == 7));
        assert!(written_bytes() - before >= (length * size_of::<u64>()) as u64);
        assert!(large.bytes().is_multiple_of(HUGE_PAGE));
    }

    #[test]
    fn a_piece_that_fails_fails_all() {
        let mut room = [MaybeUninit::<u8>::uninit(); 100];
        let mut left = 100;
        let done = Mutex::new(&mut left);
        let work = |piece: &mut [MaybeUninit<u8>]| {
            let mut left = done.lock().unwrap();
            **left -= piece.len();
            if **left < 50 { Err("half") } else { Ok(()) }
        };
        assert_eq!(in_pieces(&mut room, 7, work), Err("half"));
        assert_eq!(
            in_pieces(&mut [], 7, |_: &mut [MaybeUninit<u8>]| Err(1)),
            Ok(())
        );
    }

    #[test]
    fn arrays_move_between_threads() {
        let mut array: HugeVec<u64> = HugeVec::new(1000, Pages::Transparent).unwrap();
        array[1] = 1;
        let sum = std::thread::spawn(move || array.iter().sum::<u64>()).join();
        assert_eq!(sum.unwrap(), 1);
    }
}
