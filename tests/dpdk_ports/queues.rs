//! Queues, on devices that are nothing but memory: null and ring.

use arrayvec::ArrayVec;
use natgate::dpdk::{BURST, Error, Mbuf, Mempool, PortConfig, ProbedPort, RssConfig, RssFields};

use crate::{Burst, eal, open, pool, spec};

#[test]
fn a_null_port_receives_and_swallows() {
    let (eal, _turn) = eal();
    let _registered = eal.register_thread().unwrap();
    let pool = Mempool::create(&eal, "null", 1023, 2048, 128, None).unwrap();
    let port = open(&eal, 0, "null:size=100", &pool).unwrap();
    let (mut rx, mut tx) = (port.take_rx(0).unwrap(), port.take_tx(0).unwrap());
    let mut burst = Burst::new();
    for _ in 0..1000 {
        assert_eq!(rx.rx(&mut burst), BURST);
        assert!(
            burst
                .iter()
                .all(|mbuf| mbuf.len() == 100 && mbuf.segments() == 1)
        );
        assert_eq!(tx.tx(&mut burst), BURST);
        assert!(burst.is_empty());
    }
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (64_000, 64_000));
    let xstats = port.xstats().unwrap();
    assert!(
        xstats.contains(&("rx_good_packets".into(), 64_000)),
        "{xstats:?}"
    );
    assert!(port.link().unwrap().up);
    assert_eq!(
        (port.mtu().unwrap(), port.info().driver.as_str()),
        (1500, "net_null")
    );
    port.reset_stats().unwrap();
    assert_eq!(port.stats().unwrap().rx_packets, 0);
    assert_eq!(pool.available(), 1023);
}

#[test]
fn a_full_array_receives_nothing_and_a_partly_full_one_the_rest() {
    let (eal, _turn) = eal();
    let pool = pool(&eal, "partly", 255);
    let port = open(&eal, 0, "null:", &pool).unwrap();
    let mut rx = port.take_rx(0).unwrap();
    let mut burst = Burst::new();
    assert!(pool.alloc_bulk(60, &mut burst));
    assert_eq!(rx.rx(&mut burst), 4);
    assert_eq!((rx.rx(&mut burst), burst.len()), (0, 64));
    drop(burst);
    assert_eq!(pool.available(), 255);
}

#[test]
fn queues_exist_once_and_keep_their_port() {
    let (eal, _turn) = eal();
    let pool = pool(&eal, "once", 255);
    let mut port = open(&eal, 0, "null:", &pool).unwrap();
    let rx = port.take_rx(0).unwrap();
    assert!(port.take_rx(0).is_none() && port.take_rx(1).is_none());
    assert!(matches!(port.stop(), Err(Error::Busy(_))));
    drop(rx);
    port.stop().unwrap();
    assert!(port.take_rx(0).is_none(), "stopped");
    port.start().unwrap();
    let mut rx = port.take_rx(0).unwrap();
    drop(port);
    let mut burst = Burst::new();
    assert_eq!(
        rx.rx(&mut burst),
        BURST,
        "the handle outlives the port it came from"
    );
    drop((rx, burst));
    // Closed for good: the same device can be opened anew.
    let port = open(&eal, 0, "null:", &pool).unwrap();
    let error = open(&eal, 0, "null:", &pool).unwrap_err().to_string();
    assert!(error.contains("another port has this device"), "{error}");
    assert!(port.take_tx(0).is_some());
}

#[test]
fn hardware_spreading_is_granted_where_there_is_some() {
    let (eal, _turn) = eal();
    let pool = pool(&eal, "rss", 1023);
    let mut wanted = spec(0, "null:");
    wanted.queues = 4;
    let probed = ProbedPort::probe(&eal, &wanted).unwrap();
    let info = probed.info().clone();
    let config = PortConfig {
        rx_queues: 4,
        tx_queues: 4,
        rss: Some(RssConfig {
            key: vec![0x5a; usize::from(info.hash_key_size)],
            fields: RssFields::ADDRESSES_AND_PORTS,
            reta: (0..info.reta_size).map(|n| n % 4).collect(),
        }),
        ..PortConfig::default()
    };
    let mut port = probed
        .configure(&config, std::slice::from_ref(&pool))
        .unwrap();
    port.start().unwrap();
    let granted = port.granted();
    assert!(info.reta_size > 0 && granted.reta, "{info:?} {granted:?}");
    assert_eq!(granted.rss_key, info.hash_key_size > 0);
    assert!(
        port.set_reta(&vec![3; usize::from(info.reta_size)])
            .unwrap()
    );
    assert!(
        port.set_reta(&vec![4; usize::from(info.reta_size)])
            .is_err(),
        "no such queue"
    );
    let queues: Vec<_> = (0..4)
        .map(|queue| (port.take_rx(queue).unwrap(), port.take_tx(queue).unwrap()))
        .collect();
    // Each queue on a thread of its own, with the buffers of all in one pool.
    std::thread::scope(|scope| {
        for (mut rx, mut tx) in queues {
            let eal = &eal;
            scope.spawn(move || {
                let _registered = eal.register_thread().unwrap();
                let mut burst = Burst::new();
                for _ in 0..1000 {
                    rx.rx(&mut burst);
                    tx.tx(&mut burst);
                    Mbuf::free_bulk(&mut burst);
                }
            });
        }
    });
    assert_eq!(pool.available(), 1023);
}

#[test]
fn a_full_ring_leaves_its_tail_with_the_caller() {
    let (eal, _turn) = eal();
    let pool = pool(&eal, "ring", 4095);
    let port = open(&eal, 0, "dpdk:net_ring0", &pool).unwrap();
    let (mut rx, mut tx) = (port.take_rx(0).unwrap(), port.take_tx(0).unwrap());
    let mut burst = Burst::new();
    let mut sent = 0u32;
    let refused = loop {
        assert!(pool.alloc_bulk(BURST, &mut burst));
        for mbuf in &mut burst {
            assert!(mbuf.fill(&sent.to_be_bytes()));
            sent += 1;
        }
        let taken = tx.tx(&mut burst);
        if taken < BURST {
            break BURST - taken;
        }
        assert!(sent < 4000, "the ring never fills");
    };
    // What was refused is still ours, in order, and is the last we made.
    assert_eq!(burst.len(), refused);
    let number = |mbuf: &Mbuf| u32::from_be_bytes(mbuf.bytes().try_into().unwrap());
    let numbers: Vec<u32> = burst.iter().map(number).collect();
    assert_eq!(numbers, (sent - refused as u32..sent).collect::<Vec<_>>());
    assert_eq!(tx.tx(&mut burst), 0, "still full");
    assert_eq!(burst.len(), refused);
    drop(burst);
    // What was taken comes out at the other end, each once.
    let mut expected = 0;
    loop {
        let mut burst = Burst::new();
        if rx.rx(&mut burst) == 0 {
            break;
        }
        for mbuf in &burst {
            assert_eq!(number(mbuf), expected);
            expected += 1;
        }
    }
    assert_eq!(expected, sent - refused as u32);
    assert_eq!(pool.available(), 4095);
}

#[test]
fn an_exhausted_pool_receives_nothing_and_recovers() {
    let (eal, _turn) = eal();
    let pool = pool(&eal, "tiny", 40);
    let port = open(&eal, 0, "null:", &pool).unwrap();
    let mut rx = port.take_rx(0).unwrap();
    let mut burst = Burst::new();
    assert_eq!(rx.rx(&mut burst), 0, "a burst needs 64");
    let mut small = ArrayVec::<Mbuf, 32>::new();
    assert_eq!(rx.rx(&mut small), 32);
    drop(small);
    assert_eq!(pool.available(), 40);
}
