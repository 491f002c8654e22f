//! Devices that cannot be opened: one sentence that names the port, the device and the reason.

use natgate::dpdk::{Port, PortConfig, take_log};

use crate::{eal, open, pool, spec};

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
