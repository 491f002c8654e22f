//! Packet buffers and the pools they come from.

use natgate::dataplane::provision::PacketBuffers;
use natgate::dpdk::{BURST, Checksum, EalOptions, Error, Mbuf, Mempool};

use crate::{Burst, eal, pool};

#[test]
fn buffers_change_shape_within_their_bounds() {
    let (eal, _turn) = eal();
    let pool = pool(&eal, "shape", 63);
    let mut mbuf = pool.alloc().unwrap();
    assert_eq!(
        (
            mbuf.len(),
            mbuf.headroom(),
            mbuf.tailroom(),
            mbuf.segments()
        ),
        (0, 128, 2048, 1)
    );
    assert!(mbuf.fill(b"payload"));
    assert!(mbuf.prepend(14) && mbuf.len() == 21 && &mbuf.bytes()[14..] == b"payload");
    assert!(mbuf.adj(16) && mbuf.bytes() == b"yload");
    assert!(mbuf.set_len(2) && mbuf.bytes() == b"yl");
    assert!(
        mbuf.set_len(5) && mbuf.bytes() == b"yload",
        "growing shows what was there"
    );
    let (len, headroom, tailroom) = (mbuf.len(), mbuf.headroom(), mbuf.tailroom());
    assert!(!mbuf.prepend(headroom + 1) && !mbuf.adj(len + 1) && !mbuf.set_len(len + tailroom + 1));
    assert_eq!(
        (mbuf.len(), mbuf.headroom(), mbuf.tailroom()),
        (len, headroom, tailroom)
    );
    assert!(mbuf.prepend(headroom) && mbuf.set_len(2048 + 128) && mbuf.tailroom() == 0);
    mbuf.bytes_mut().fill(0xee);
    assert_eq!(
        (mbuf.rss_hash(), mbuf.ip_checksum(), mbuf.l4_checksum()),
        (None, Checksum::Unknown, Checksum::Unknown)
    );
    assert_eq!(
        mbuf.meta(),
        &[0; 64],
        "writing the whole frame leaves the metadata alone"
    );
    mbuf.meta_mut()[..4].copy_from_slice(b"mine");
    // The metadata travels with the buffer, and any thread may free it.
    std::thread::spawn(move || assert_eq!(&mbuf.meta()[..4], b"mine"))
        .join()
        .unwrap();
    assert_eq!(pool.available(), 63);
}

#[test]
fn bulk_operations_lose_and_double_nothing() {
    let (eal, _turn) = eal();
    let pool = pool(&eal, "bulk", 100);
    let mut burst = Burst::new();
    assert!(pool.alloc_bulk(BURST, &mut burst));
    assert!(!pool.alloc_bulk(1, &mut burst), "the array is full");
    let mut rest = Burst::new();
    assert!(
        !pool.alloc_bulk(40, &mut rest) && rest.is_empty(),
        "all or none"
    );
    assert!(pool.alloc_bulk(36, &mut rest));
    assert!(pool.alloc().is_none());
    Mbuf::free_bulk(&mut burst);
    assert!(burst.is_empty());
    assert_eq!(pool.available(), 64);
    drop(rest);
    assert_eq!((pool.available(), pool.capacity()), (100, 100));
    Mbuf::free_bulk(&mut burst);
}

#[test]
fn a_pool_stays_while_one_of_its_buffers_lives() {
    let (eal, _turn) = eal();
    let pool = pool(&eal, "outlived", 15);
    let mut mbuf = pool.alloc().unwrap();
    drop(pool);
    assert!(mbuf.fill(&[7; 100]) && mbuf.bytes() == [7; 100]);
}

#[test]
fn too_little_memory_names_the_amount() {
    let (eal, _turn) = eal();
    let error = Mempool::create(&eal, "huge", 1 << 20, 2048, 0, None).unwrap_err();
    assert!(matches!(error, Error::Memory(_)), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("MiB") && error.contains("1048576 packet buffers"),
        "{error}"
    );
    assert!(matches!(
        Mempool::create(&eal, "cache", 100, 2048, 100, None),
        Err(Error::Device(_))
    ));
}

/// The estimate that sizes DPDK's memory covers what pools really take: the estimated number fits into the memory
/// the tests start with, for buffers smaller and larger than a page.
#[test]
fn the_footprint_is_an_upper_bound() {
    let (eal, _turn) = eal();
    let budget = u64::from(EalOptions::new("").memory_mb - 16) << 20;
    for (n, room) in [512u16, 2048, 9216].into_iter().enumerate() {
        let mut count = 1 << 20;
        while (PacketBuffers { count, room }).bytes() > budget {
            count -= 1024;
        }
        let made = Mempool::create(&eal, &format!("fits{n}"), count, room, 0, None);
        assert!(made.is_ok(), "{room}: {:?}", made.err());
    }
}
