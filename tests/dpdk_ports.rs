//! Ports, queues and buffers on DPDK's software devices: no network card, no huge pages.
//!
//! `NATGATE_TEST_HUGE=1` runs them on huge pages all the same. One process can start DPDK once, so the tests share it. They run one at a time, because each counts buffers.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use arrayvec::ArrayVec;
use natgate::dataplane::device::PortSpec;
use natgate::dpdk::{
    BURST, Checksum, Eal, EalOptions, Error, Mbuf, Mempool, Port, PortConfig, ProbedPort,
    RssConfig, RssFields, RxQueue, take_log,
};

type Burst = ArrayVec<Mbuf, BURST>;

static TURN: Mutex<()> = Mutex::new(());

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

fn pool(eal: &Eal, name: &str, count: u32) -> Mempool {
    Mempool::create(eal, name, count, 2048, 0, None).unwrap()
}

fn spec(index: u16, device: &str) -> PortSpec {
    PortSpec {
        name: format!("port{index}"),
        index,
        device: device.parse().unwrap(),
        queues: 1,
        mtu: 1500,
    }
}

fn open(eal: &Eal, index: u16, device: &str, pool: &Mempool) -> Result<Port, Error> {
    Port::open(
        eal,
        &spec(index, device),
        &PortConfig::default(),
        std::slice::from_ref(pool),
    )
}

/// A capture file (the classic format, microseconds) with these frames.
fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (n, frame) in frames.iter().enumerate() {
        for word in [n as u32, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).unwrap();
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    frames
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
fn frames_pass_from_file_to_file_unchanged() {
    let (eal, _turn) = eal();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let frames: Vec<Vec<u8>> = (0..500usize)
        .map(|n| {
            (0..60 + n * 1454 / 499)
                .map(|at| (at * 31 + n * 7) as u8)
                .collect()
        })
        .collect();
    write_pcap(&input, &frames);
    let pool = pool(&eal, "pcap", 255);
    let device = format!("pcap:{},{}", input.display(), output.display());
    let port = open(&eal, 0, &device, &pool).unwrap();
    let (mut rx, mut tx) = (port.take_rx(0).unwrap(), port.take_tx(0).unwrap());
    let mut burst = Burst::new();
    let mut received = 0;
    for _ in 0..100 {
        received += rx.rx(&mut burst);
        assert!(burst.iter().all(|mbuf| mbuf.segments() == 1));
        tx.tx(&mut burst);
        assert!(burst.is_empty());
    }
    assert_eq!(received, 500);
    assert_eq!(pool.available(), 255);
    drop((rx, tx, port));
    assert!(read_pcap(&output) == frames);
}

#[test]
fn a_pcap_port_may_have_one_file_only() {
    let (eal, _turn) = eal();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    write_pcap(&input, &[vec![1; 60], vec![2; 61]]);
    let pool = pool(&eal, "onefile", 255);
    let source = open(&eal, 0, &format!("pcap:{},", input.display()), &pool).unwrap();
    let sink = open(&eal, 1, &format!("pcap:,{}", output.display()), &pool).unwrap();
    let mut burst = Burst::new();
    assert_eq!(sink.take_rx(0).unwrap().rx(&mut burst), 0);
    assert_eq!(source.take_rx(0).unwrap().rx(&mut burst), 2);
    assert_eq!(sink.take_tx(0).unwrap().tx(&mut burst), 2);
    drop((source, sink));
    assert_eq!(read_pcap(&output), [vec![1; 60], vec![2; 61]]);
}

#[test]
fn a_frame_beyond_the_buffer_is_marked_as_spread() {
    let (eal, _turn) = eal();
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.pcap");
    write_pcap(&input, &[vec![1; 5000], vec![2; 60]]);
    let pool = pool(&eal, "jumbo", 63);
    let port = open(&eal, 0, &format!("pcap:{},", input.display()), &pool).unwrap();
    let mut burst = Burst::new();
    port.take_rx(0).unwrap().rx(&mut burst);
    let spread = burst.remove(0);
    assert!(spread.segments() > 1 && spread.len() <= 2048);
    let mut spread = spread;
    assert!(!spread.set_len(10) && !spread.adj(1) && !spread.prepend(1));
    drop(spread);
    assert!(burst.iter().all(|mbuf| mbuf.bytes() == [2; 60]));
    drop(burst);
    assert_eq!(pool.available(), 63, "every segment went back");
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

#[test]
fn devices_that_cannot_be_opened_say_why() {
    let (eal, _turn) = eal();
    let pool = pool(&eal, "errors", 255);
    for (device, said) in [
        ("af_packet:nosuchif", "no network interface nosuchif"),
        (
            "pcap:/nonexistent/in.pcap,",
            "cannot read /nonexistent/in.pcap",
        ),
        ("pci:0000:ff:1f.7", "0000:ff:1f.7"),
        ("dpdk:net_nonsense0", "DPDK cannot open it"),
    ] {
        let error = open(&eal, 0, device, &pool).unwrap_err().to_string();
        assert!(
            error.contains(said) && error.contains("port0") && error.contains(device),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert!(
        take_log().contains("net_nonsense0"),
        "DPDK's own words are kept"
    );
    let many = PortConfig {
        rx_queues: 2,
        ..PortConfig::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let device = format!("pcap:,{}", dir.path().join("o.pcap").display());
    let error = Port::open(&eal, &spec(0, &device), &many, std::slice::from_ref(&pool))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("1 receive queues and 2 are wanted"),
        "{error}"
    );
    let tall = PortConfig {
        mtu: 9000,
        ..PortConfig::default()
    };
    let error = Port::open(&eal, &spec(0, "null:"), &tall, std::slice::from_ref(&pool))
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot hold a frame of 9022"), "{error}");
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

/// Two ends of a new kernel cable, gone when dropped; none without the right to make one.
struct Cable(&'static str);

fn ip(arguments: &str) -> bool {
    std::process::Command::new("ip")
        .args(arguments.split(' '))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Cable {
    fn lay(a: &'static str, b: &'static str, mtu: u16) -> Option<Cable> {
        ip(&format!(
            "link add {a} mtu {mtu} type veth peer name {b} mtu {mtu}"
        ))
        .then_some(())?;
        let cable = Cable(a);
        for end in [a, b] {
            // Otherwise the kernel sends router solicitations of its own.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1");
            assert!(ip(&format!("link set {end} up")));
        }
        Some(cable)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.0));
    }
}

fn receive(rx: &mut RxQueue, wanted: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut burst = Burst::new();
    for _ in 0..2000 {
        rx.rx(&mut burst);
        frames.extend(burst.drain(..).map(|mbuf| mbuf.bytes().to_vec()));
        if frames.len() >= wanted {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    frames
}

#[test]
fn kernel_ports_carry_full_frames_and_keep_vlan_tags() {
    let (eal, _turn) = eal();
    for mtu in [1500u16, 9000] {
        let Some(cable) = Cable::lay("ngtest0", "ngtest1", mtu) else {
            eprintln!("skipped: needs the right to make veth interfaces");
            return;
        };
        let mut specs = [spec(0, "af_packet:ngtest0"), spec(1, "af_packet:ngtest1")];
        specs.iter_mut().for_each(|spec| spec.mtu = mtu);
        let room = specs[0].device.frame_room(mtu);
        let pool = Mempool::create(&eal, &format!("kernel{mtu}"), 1023, room, 0, None).unwrap();
        let config = PortConfig {
            mtu,
            ..PortConfig::default()
        };
        let [left, right] = specs
            .map(|spec| Port::open(&eal, &spec, &config, std::slice::from_ref(&pool)).unwrap());
        assert_eq!(left.mtu().unwrap(), mtu);
        assert_ne!(left.mac().unwrap(), right.mac().unwrap());
        let (mut tx, mut rx) = (left.take_tx(0).unwrap(), right.take_rx(0).unwrap());

        let mut plain: Vec<u8> = (0..14 + mtu).map(|n| n as u8).collect();
        plain[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
        let mut tagged = plain.clone();
        tagged.splice(12..12, [0x81, 0x00, 0x60, 0x64]);
        let mut burst = Burst::new();
        for frame in [&plain, &tagged] {
            let mut mbuf = pool.alloc().unwrap();
            assert!(mbuf.fill(frame));
            burst.push(mbuf);
        }
        assert_eq!(tx.tx(&mut burst), 2);
        let received = receive(&mut rx, 2);
        assert!(
            received == [plain, tagged],
            "mtu {mtu}: {:?}",
            received.iter().map(Vec::len).collect::<Vec<_>>()
        );
        drop((left, right, tx, rx));
        let wide = PortConfig {
            mtu: mtu + 1,
            ..PortConfig::default()
        };
        let error = Port::open(
            &eal,
            &spec(0, "af_packet:ngtest0"),
            &wide,
            std::slice::from_ref(&pool),
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains(&format!("ngtest0 has an MTU of {mtu}"))
        );
        drop(cable);
        assert_eq!(pool.available(), 1023);
    }
}

#[test]
fn a_tap_port_appears_in_the_kernel_with_its_mtu() {
    let (eal, _turn) = eal();
    if !Path::new("/dev/net/tun").exists() || !ip("link show lo") {
        eprintln!("skipped: no /dev/net/tun");
        return;
    }
    let pool = pool(&eal, "tap", 4095);
    let mut spec = spec(0, "tap:ngtap0");
    spec.queues = 2;
    let config = PortConfig {
        rx_queues: 2,
        tx_queues: 2,
        mtu: 1400,
        ..PortConfig::default()
    };
    let port = Port::open(&eal, &spec, &config, std::slice::from_ref(&pool)).unwrap();
    let mtu = std::fs::read_to_string("/sys/class/net/ngtap0/mtu").unwrap();
    assert_eq!((mtu.trim(), port.mtu().unwrap()), ("1400", 1400));
    assert!(port.take_rx(1).is_some() && port.take_tx(1).is_some());
    drop(port);
    assert!(!Path::new("/sys/class/net/ngtap0").exists());
    assert_eq!(pool.available(), 4095);
}

#[test]
fn memif_ports_reach_each_other() {
    let (eal, _turn) = eal();
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&eal, "memif", 8191);
    let socket = dir.path().join("m.sock");
    let server = open(&eal, 0, &format!("memif:{}", socket.display()), &pool).unwrap();
    let client = open(
        &eal,
        1,
        &format!("memif:{},role=client", socket.display()),
        &pool,
    )
    .unwrap();
    for _ in 0..3000 {
        if server.link().unwrap().up && client.link().unwrap().up {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let mut burst = Burst::new();
    let mut mbuf = pool.alloc().unwrap();
    assert!(mbuf.fill(&[9; 1514]));
    burst.push(mbuf);
    assert_eq!(client.take_tx(0).unwrap().tx(&mut burst), 1);
    assert_eq!(receive(&mut server.take_rx(0).unwrap(), 1), [vec![9; 1514]]);
    drop((server, client));
    assert_eq!(pool.available(), 8191);
}

/// The estimate that sizes DPDK's memory covers what pools really take: the estimated number fits into the memory
/// the tests start with, for buffers smaller and larger than a page.
#[test]
fn the_footprint_is_an_upper_bound() {
    let (eal, _turn) = eal();
    let budget = u64::from(EalOptions::new("").memory_mb - 16) << 20;
    for (n, room) in [512u16, 2048, 9216].into_iter().enumerate() {
        let mut count = 1 << 20;
        while Mempool::footprint(count, room) > budget {
            count -= 1024;
        }
        let made = Mempool::create(&eal, &format!("fits{n}"), count, room, 0, None);
        assert!(made.is_ok(), "{room}: {:?}", made.err());
    }
}

/// What the shim costs, in cycles of the time-stamp counter per packet. By hand, in release:
/// `cargo test --release --test dpdk_ports -- --ignored --nocapture cost`.
#[test]
#[ignore = "a measurement"]
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn cost_of_a_null_port() {
    // SAFETY: reads a counter, nothing else.
    let cycles = || unsafe { std::arch::x86_64::_rdtsc() };
    let (eal, _turn) = eal();
    let _registered = eal.register_thread().unwrap();
    let pool = Mempool::create(&eal, "cost", 4095, 2048, 256, None).unwrap();
    let port = open(&eal, 0, "null:", &pool).unwrap();
    let (mut rx, mut tx) = (port.take_rx(0).unwrap(), port.take_tx(0).unwrap());
    const ROUNDS: u64 = 20_000;
    let measure = |name: &str, round: &mut dyn FnMut() -> usize| {
        let mut samples: Vec<f64> = (0..21)
            .map(|_| {
                let start = cycles();
                let packets: usize = (0..ROUNDS).map(|_| round()).sum();
                (cycles() - start) as f64 / packets as f64
            })
            .collect();
        samples.sort_by(f64::total_cmp);
        println!(
            "{name}: {:.1} cycles/packet (best {:.1})",
            samples[10], samples[0]
        );
    };
    let mut burst = Burst::new();
    measure("rx 64 + tx", &mut || {
        rx.rx(&mut burst);
        tx.tx(&mut burst)
    });
    measure("rx 64 + free_bulk", &mut || {
        let received = rx.rx(&mut burst);
        Mbuf::free_bulk(&mut burst);
        received
    });
    measure("alloc_bulk 64 + free_bulk", &mut || {
        assert!(pool.alloc_bulk(BURST, &mut burst));
        Mbuf::free_bulk(&mut burst);
        BURST
    });
    let mut small = ArrayVec::<Mbuf, 32>::new();
    measure("rx 32 + tx", &mut || {
        rx.rx(&mut small);
        tx.tx(&mut small)
    });
    measure("alloc + drop, one at a time", &mut || {
        pool.alloc().map_or(0, |_| 1)
    });
}
