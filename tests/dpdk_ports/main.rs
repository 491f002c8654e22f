//! Ports, queues and buffers on DPDK's software devices: no network card, no huge pages.
//!
//! `NATGATE_TEST_HUGE=1` runs them on huge pages all the same. One process can start DPDK once, so the tests share it; they
//! run one at a time, because each counts buffers. Those with a kernel interface at the other end need root.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod buffers;
mod files;
mod mistakes;
mod neighbours;
#[path = "../common/pcap.rs"]
mod pcap;
mod queues;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use arrayvec::ArrayVec;
use natgate::dataplane::device::PortSpec;
use natgate::dpdk::{BURST, Eal, EalOptions, Error, Mbuf, Mempool, Port, PortConfig, take_log};

type Burst = ArrayVec<Mbuf, BURST>;

static TURN: Mutex<()> = Mutex::new(());

/// DPDK, started once, and the turn to use it.
fn eal() -> (Eal, MutexGuard<'static, ()>) {
    static EAL: OnceLock<Eal> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let start = || {
        let mut options = EalOptions::new(&format!("natgate-test-{}", std::process::id()));
        // By hand, with at least 300 MiB of huge pages: the same tests on those.
        options.huge = std::env::var_os("NATGATE_TEST_HUGE").is_some();
        Eal::init(&options).unwrap_or_else(|error| panic!("{error}\n{}", take_log()))
    };
    (EAL.get_or_init(start).clone(), turn)
}

/// A pool of buffers of 2 KiB.
fn pool(eal: &Eal, name: &str, count: u32) -> Mempool {
    Mempool::create(eal, name, count, 2048, 0, None).unwrap()
}

/// A port with one queue.
fn spec(index: u16, device: &str) -> PortSpec {
    PortSpec {
        name: format!("port{index}"),
        index,
        device: device.parse().unwrap(),
        queues: 1,
        mtu: 1500,
    }
}

/// Opens a port and starts it.
fn open(eal: &Eal, index: u16, device: &str, pool: &Mempool) -> Result<Port, Error> {
    Port::open(
        eal,
        &spec(index, device),
        &PortConfig::default(),
        std::slice::from_ref(pool),
    )
}

#[test]
fn dpdk_starts_once_and_leaves_the_thread_unpinned() {
    let (eal, _turn) = eal();
    assert!(matches!(
        Eal::init(&EalOptions::new("again")),
        Err(Error::AlreadyInitialised)
    ));
    assert!(Eal::version().starts_with("DPDK "));
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let cpus = (0..nix::sched::CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap())
        .count();
    assert_eq!(cpus, std::thread::available_parallelism().unwrap().get());
    // Registering works again and again, and without huge pages.
    for _ in 0..300 {
        let eal = eal.clone();
        std::thread::spawn(move || drop(eal.register_thread().unwrap()))
            .join()
            .unwrap();
    }
}
