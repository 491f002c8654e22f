//! The packet path does not allocate: neither for established traffic, nor for new sessions, nor when they end.
//!
//! A counting allocator stands under this test binary. It counts per thread, so that tests running beside each other do
//! not see each other's allocations. Buffers and sink are of this test's own making and recycle fixed slots.

#![allow(missing_docs, reason = "a test is no interface")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails by panicking, too"
)]
#![allow(unsafe_code, reason = "an allocator cannot be written without")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use common::*;
use etherparse::PacketBuilder;
use natgate::base::time::Now;
use natgate::base::{PortId, WorkerId};
use natgate::dataplane::buffer::{BURST, Buffer, Burst, Message, Sink};
use natgate::dataplane::maintain::Slice;
use natgate::dataplane::shard::{Shard, ShardSize};
use natgate::nat::expiry::SweepBudget;
use natgate::nat::policy::Policy;

thread_local! {
    /// Allocations of this thread. Constant and without a destructor: using it allocates nothing.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|n| n.set(n.get() + 1));
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local number only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from this allocator, that is from the system's.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count();
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator, frees included, while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

const HEADROOM: usize = 64;
const ROOM: usize = 2048;

/// A frame in a slot of fixed size.
struct Slot {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer for Slot {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    fn prepend(&mut self, count: usize) -> bool {
        let fits = count <= self.start;
        self.start -= if fits { count } else { 0 };
        fits
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= self.end - self.start;
        self.start += if fits { count } else { 0 };
        fits
    }

    fn set_len(&mut self, length: usize) -> bool {
        let fits = self.start + length <= self.bytes.len();
        if fits {
            self.end = self.start + length;
        }
        fits
    }
}

/// All slots there are; what is sent comes back at once.
struct Recycler {
    free: Vec<Slot>,
    sent: [u64; 2],
    discarded: u64,
}

impl Recycler {
    fn new() -> Recycler {
        let slot = || Slot {
            bytes: vec![0; HEADROOM + ROOM].into_boxed_slice(),
            start: HEADROOM,
            end: HEADROOM,
        };
        Recycler {
            free: (0..8 * BURST).map(|_| slot()).collect(),
            sent: [0; 2],
            discarded: 0,
        }
    }

    fn filled(&mut self, frame: &[u8]) -> Slot {
        let mut slot = self.allocate().unwrap();
        assert!(slot.set_len(frame.len()));
        slot.bytes_mut().copy_from_slice(frame);
        slot
    }
}

impl Sink<Slot> for Recycler {
    fn allocate(&mut self) -> Option<Slot> {
        let mut slot = self.free.pop()?;
        (slot.start, slot.end) = (HEADROOM, HEADROOM);
        Some(slot)
    }

    fn transmit(&mut self, port: PortId, buffer: Slot) {
        self.sent[port.index()] += 1;
        self.free.push(buffer);
    }

    fn discard(&mut self, buffer: Slot) {
        self.discarded += 1;
        self.free.push(buffer);
    }

    fn hand_over(&mut self, _to: WorkerId, message: Message<Slot>) -> Result<(), Message<Slot>> {
        Err(message)
    }
}

/// One worker with everything it needs.
struct Bench {
    shard: Shard<Slot>,
    policy: Arc<Policy>,
    now: Now,
    sink: Recycler,
}

const MASQUERADE: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n";

impl Bench {
    fn new(rules: &str) -> Bench {
        let policy = lab_policy(1, rules);
        let mut shard = Shard::new(WorkerId(0), ShardSize::small(), 1, [2, 3]).unwrap();
        let (now, mut sink) = (Now::at(1_000_000), Recycler::new());
        shard.policy_changed(&policy, now, &mut sink);
        sink.sent = [0; 2];
        Bench {
            shard,
            policy,
            now,
            sink,
        }
    }

    fn receive(&mut self, port: PortId, frames: &[Vec<u8>]) {
        let mut burst = Burst::<Slot>::new();
        for chunk in frames.chunks(BURST) {
            burst.extend(chunk.iter().map(|frame| self.sink.filled(frame)));
            self.shard
                .receive(&self.policy, self.now, port, &mut burst, &mut self.sink);
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now = Now::at(self.now.millis + millis);
        let everything = Slice {
            sweep: SweepBudget::ALL,
            sweep_v6: SweepBudget::ALL,
            neighbours: usize::MAX,
            datagrams: usize::MAX,
        };
        self.shard
            .maintain(&self.policy, self.now, everything, &mut self.sink);
    }
}

/// UDP and TCP flows `range`, of eight hosts.
fn outbound(range: std::ops::Range<u16>) -> Vec<Vec<u8>> {
    let hosts = [
        "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8",
        "10.0.0.9",
    ];
    let flow = |i: u16| {
        let from = (hosts[usize::from(i % 8)], 20_000 + i);
        match i % 3 {
            0 => tcp(LAN, from, ("203.0.113.9", 80), "S"),
            _ => udp(LAN, from, ("203.0.113.10", 5000), b"payload"),
        }
    };
    range.map(flow).collect()
}

/// The answers: masquerading keeps ports that are free, and here all are.
fn inbound(range: std::ops::Range<u16>) -> Vec<Vec<u8>> {
    let flow = |i: u16| {
        let to = ("203.0.113.1", 20_000 + i);
        match i % 3 {
            0 => tcp(WAN, ("203.0.113.9", 80), to, "SA"),
            _ => udp(WAN, ("203.0.113.10", 5000), to, b"answer"),
        }
    };
    range.map(flow).collect()
}

#[test]
fn the_count_counts() {
    let mut kept = Vec::new();
    assert_eq!(allocations(|| kept.push(1u8)), 1);
    assert_eq!(allocations(|| drop(kept)), 1, "a free is a call as well");
    assert_eq!(allocations(|| ()), 0);
}

/// The same flows over IPv6.
fn outbound_v6(range: std::ops::Range<u16>) -> Vec<Vec<u8>> {
    let flow = |i: u16| {
        let host = format!("fd00:1::{}", 2 + i % 8);
        v6(
            LAN,
            (&host, 20_000 + i),
            ("2001:db8::9", 80),
            i.is_multiple_of(3),
        )
    };
    range.map(flow).collect()
}

/// Their answers.
fn inbound_v6(range: std::ops::Range<u16>) -> Vec<Vec<u8>> {
    let flow = |i: u16| {
        let to = ("2001:db8::1", 20_000 + i);
        v6(WAN, ("2001:db8::9", 80), to, i.is_multiple_of(3))
    };
    range.map(flow).collect()
}

/// A SYN, from outside answering one, or a datagram.
fn v6(port: PortId, from: (&str, u16), to: (&str, u16), is_tcp: bool) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let builder = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8]).ipv6(
        address(from.0),
        address(to.0),
        64,
    );
    let mut frame = Vec::new();
    if is_tcp {
        let syn = builder.tcp(from.1, to.1, 1000, 1024).syn();
        let segment = if port == WAN { syn.ack(7) } else { syn };
        segment.write(&mut frame, b"").unwrap();
    } else {
        let datagram = builder.udp(from.1, to.1);
        datagram.write(&mut frame, b"payload").unwrap();
    }
    frame
}

#[test]
fn established_traffic_does_not_allocate() {
    established(&outbound(0..64), &inbound(0..64), |shard| {
        shard.nat.sessions.len()
    });
}

#[test]
fn established_ipv6_traffic_does_not_allocate() {
    established(&outbound_v6(0..64), &inbound_v6(0..64), |shard| {
        shard.nat_v6.sessions.len()
    });
}

#[test]
fn traffic_of_both_families_does_not_allocate() {
    let mixed = |v4: Vec<Vec<u8>>, v6: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        v4.into_iter().zip(v6).flat_map(|(a, b)| [a, b]).collect()
    };
    let out = mixed(outbound(0..32), outbound_v6(0..32));
    let back = mixed(inbound(0..32), inbound_v6(0..32));
    established(&out, &back, |shard| {
        shard.nat.sessions.len() + shard.nat_v6.sessions.len()
    });
}

/// Sends 64 flows' packets again and again.
fn established(out: &[Vec<u8>], back: &[Vec<u8>], sessions: impl Fn(&Shard<Slot>) -> usize) {
    let mut bench = Bench::new(MASQUERADE);
    bench.receive(LAN, out);
    bench.receive(WAN, back);
    assert_eq!((bench.sink.sent, bench.sink.discarded), ([64, 64], 0));
    assert_eq!(sessions(&bench.shard), 64);
    let calls = allocations(|| {
        for i in 0..1000 {
            if i % 100 == 99 {
                bench.pass(50);
            }
            bench.receive(LAN, out);
            bench.receive(WAN, back);
        }
    });
    assert_eq!(
        bench.sink.sent,
        [64 * 1001; 2],
        "every packet was forwarded"
    );
    assert_eq!(
        calls, 0,
        "allocator calls for 2000 bursts of established traffic"
    );
}

#[test]
fn sessions_come_and_go_without_allocating() {
    let mut bench = Bench::new(MASQUERADE);
    let frames = outbound(0..3200);
    // From the very first session on: nothing is filled lazily.
    let calls = allocations(|| bench.receive(LAN, &frames));
    assert_eq!(bench.sink.sent[1], 3200, "every flow was opened");
    assert_eq!(bench.shard.nat.sessions.len(), 3200);
    assert_eq!(calls, 0, "allocator calls for 3200 new sessions");
    for round in 0..3 {
        let calls = allocations(|| {
            for _ in 0..4 {
                bench.pass(3_600_000);
            }
        });
        assert_eq!(bench.shard.nat.sessions.len(), 0, "all have ended");
        assert_eq!(
            calls, 0,
            "allocator calls for 3200 ended sessions, round {round}"
        );
        let calls = allocations(|| bench.receive(LAN, &frames));
        assert_eq!(bench.shard.nat.sessions.len(), 3200);
        assert_eq!(
            calls, 0,
            "allocator calls for sessions made again, round {round}"
        );
    }
}

/// What is neither: fragments that wait, unknown neighbours, errors, forwards, services, hairpins, refused packets.
#[test]
fn the_uncommon_does_not_allocate() {
    let forward = "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"9000-9002\"\nto = \"10.0.0.2:20-22\"\n";
    let service = "[[service]]\naddress = \"198.18.0.2\"\nport = 80\nlb = \"maglev\"\naffinity = \"client\"\nbackends = [{ to = \"10.0.0.2\" }, { to = \"10.0.0.3\" }]\n";
    let mut bench = Bench::new(&format!("{MASQUERADE}{forward}{service}"));
    let mut frames = [
        udp_ttl(LAN, ("10.0.0.2", 1000), ("203.0.113.9", 1), 1),
        udp(
            LAN,
            ("10.0.0.2", 1001),
            ("203.0.113.77", 1),
            b"nobody there",
        ),
        udp(LAN, ("10.0.0.2", 1002), ("203.0.113.9", 1), &[1; 1800]),
        tcp(LAN, ("10.0.0.3", 1003), ("203.0.113.1", 9000), "S"),
        ping(LAN, "10.0.0.2", "10.0.0.1", 1),
        ping(LAN, "10.0.0.2", "203.0.113.9", 2),
        vec![0; 20],
    ]
    .to_vec();
    let mut later = udp(LAN, ("10.0.0.2", 1004), ("203.0.113.9", 1), &[1; 64]);
    natgate::wire::ipv4::set_flags_offset(&mut later, 14, 9);
    natgate::wire::ipv4::fill_checksum(&mut later, 14);
    frames.push(later);
    let outside = [
        tcp(WAN, ("203.0.113.10", 7000), ("203.0.113.1", 9001), "S"),
        tcp(WAN, ("203.0.113.10", 7001), ("198.18.0.2", 80), "S"),
        tcp(WAN, ("203.0.113.10", 7002), ("198.18.0.2", 81), "S"),
        udp(
            WAN,
            ("203.0.113.10", 7000),
            ("203.0.113.1", 7),
            b"own service",
        ),
    ]
    .to_vec();
    let calls = allocations(|| {
        for _ in 0..50 {
            bench.receive(LAN, &frames);
            bench.receive(WAN, &outside);
            bench.pass(700);
        }
    });
    assert!(
        bench.sink.sent[0] > 50 && bench.sink.sent[1] > 100,
        "{:?}",
        bench.sink.sent
    );
    assert!(bench.shard.counters.looped > 0 && bench.shard.counters.icmp_errors > 0);
    assert_eq!(calls, 0, "allocator calls on uncommon ways");
}
