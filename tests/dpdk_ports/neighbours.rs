//! Ports with somebody at the other end: the kernel (af_packet, tap), another program (memif).

use std::path::Path;

use natgate::dpdk::{Mempool, Port, PortConfig, RxQueue};

use crate::{Burst, eal, open, pool, spec};

/// Two ends of a new kernel cable, gone when dropped.
struct Cable(&'static str);

impl Cable {
    fn lay(a: &'static str, b: &'static str, mtu: u16) -> Cable {
        let line = format!("link add {a} mtu {mtu} type veth peer name {b} mtu {mtu}");
        assert!(ip(&line), "making interfaces needs root");
        let cable = Cable(a);
        for end in [a, b] {
            // Otherwise the kernel sends router solicitations of its own.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1");
            assert!(ip(&format!("link set {end} up")));
        }
        cable
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.0));
    }
}

fn ip(arguments: &str) -> bool {
    std::process::Command::new("ip")
        .args(arguments.split(' '))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
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
        let cable = Cable::lay("ngtest0", "ngtest1", mtu);
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
        assert!(left.link().unwrap().up);
        // A cable whose other end is switched off, as the kernel sees it.
        assert!(ip("link set ngtest1 down"));
        assert!(!left.link().unwrap().up && !right.link().unwrap().up);
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
