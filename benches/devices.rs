//! What DPDK costs through our interface: receive, send, allocate and free on a null port, without huge pages.

use criterion::{Criterion, Throughput};
use natgate::dataplane::device::PortSpec;
use natgate::dpdk::{BURST, Eal, EalOptions, Error, Mbuf, Mempool, Port, PortConfig};
use std::hint::black_box;
use std::time::Duration;

type Burst<const N: usize> = arrayvec::ArrayVec<Mbuf, N>;

/// DPDK, a pool with a cache, and a null port.
fn set_up() -> Result<(Eal, Mempool, Port), Error> {
    let eal = Eal::init(&EalOptions::new(&format!(
        "natgate-bench-{}",
        std::process::id()
    )))?;
    let pool = Mempool::create(&eal, "cost", 4095, 2048, 256, None)?;
    let spec = PortSpec {
        name: "null".to_owned(),
        index: 0,
        device: natgate::dataplane::device::Device::Null {
            size: 64,
            receive: true,
        },
        queues: 1,
        mtu: 1500,
    };
    let port = Port::open(
        &eal,
        &spec,
        &PortConfig::default(),
        std::slice::from_ref(&pool),
    )?;
    Ok((eal, pool, port))
}

fn measure(criterion: &mut Criterion) -> Result<(), Error> {
    let (eal, pool, port) = set_up()?;
    let _registered = eal.register_thread()?;
    let none = || Error::Device("the null port has no queues".to_owned());
    let mut rx = port.take_rx(0).ok_or_else(none)?;
    let mut tx = port.take_tx(0).ok_or_else(none)?;
    let mut group = criterion.benchmark_group("devices");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut burst = Burst::<BURST>::new();
    group.bench_function("rx 64 + tx", |b| {
        b.iter(|| {
            rx.rx(&mut burst);
            tx.tx(&mut burst)
        });
    });
    group.bench_function("rx 64 + free_bulk", |b| {
        b.iter(|| {
            rx.rx(&mut burst);
            Mbuf::free_bulk(&mut burst);
        });
    });
    group.bench_function("alloc_bulk 64 + free_bulk", |b| {
        b.iter(|| {
            black_box(pool.alloc_bulk(BURST, &mut burst));
            Mbuf::free_bulk(&mut burst);
        });
    });
    group.throughput(Throughput::Elements(32));
    let mut small = Burst::<32>::new();
    group.bench_function("rx 32 + tx", |b| {
        b.iter(|| {
            rx.rx(&mut small);
            tx.tx(&mut small)
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("alloc + drop", |b| b.iter(|| pool.alloc().is_some()));
    group.finish();
    Ok(())
}

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    measure(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}
