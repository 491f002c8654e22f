//! The worker loop itself: transmit queues that refuse, time without traffic, the end.

use crate::common::{LAN, udp};
use crate::gateway::{Gateway, wait_for};
use natgate::base::DropReason;
use std::sync::atomic::Ordering;
use std::time::Duration;

const MASQUERADE: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n";

fn datagram(port: u16) -> Vec<u8> {
    udp(LAN, ("10.0.0.2", port), ("203.0.113.9", 53), b"x")
}

#[test]
fn what_a_queue_refuses_is_tried_once_more_and_then_dropped() {
    let gateway = Gateway::start(1, MASQUERADE);
    gateway.send(LAN, 0, &[datagram(4000)], 1);
    gateway.clogs[1].store(1, Ordering::Relaxed);
    gateway.send(LAN, 0, &[datagram(4000)], 1);
    let refused = || gateway.json("show drops")["total"]["drops"]["tx_full"].clone();
    assert_eq!(refused(), 0, "the second try took it");
    gateway.clogs[1].store(2, Ordering::Relaxed);
    gateway.send(LAN, 0, &[datagram(4000)], 0);
    wait_for("the packet is dropped", || refused() == 1);
    assert_eq!(gateway.clogs[1].load(Ordering::Relaxed), 0, "tried twice");
    let queues = gateway.json("show queues");
    let of = |port: &str| {
        let mut queues = queues["queues"].as_array().unwrap().iter();
        let tx = queues.find(|q| q["port"] == port && q["direction"] == "tx");
        tx.unwrap()["refused"].clone()
    };
    assert_eq!((of("p-wan"), of("p-lan")), (1.into(), 0.into()));
    gateway.send(LAN, 0, &[datagram(4000)], 1);
    assert_eq!(gateway.json("show counters")["total"]["imbalance"], 0);
}

#[test]
fn an_idle_worker_rests_and_wakes_at_once() {
    let loops = |gateway: &Gateway| {
        let count = || gateway.json("show workers")["workers"][0]["loops"].as_u64();
        let before = count().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        count().unwrap() - before
    };
    let adaptive = Gateway::start(1, MASQUERADE);
    let calm = loops(&adaptive);
    // Sleeping for a quarter of a millisecond at a time: some two thousand loops in half a second.
    assert!(calm < 20_000, "{calm} loops without work");
    adaptive.send(LAN, 0, &[datagram(4000)], 1);
    let worker = adaptive.json("show workers")["workers"][0].clone();
    assert!(worker["heartbeat_age_seconds"].as_f64().unwrap() < 1.0);
    drop(adaptive);
    let poll = Gateway::with_system(1, "sessions = 4096\nidle = \"poll\"", MASQUERADE);
    let eager = loops(&poll);
    assert!(eager > 5 * calm, "{eager} loops polling, {calm} adaptive");
}

#[test]
fn what_is_held_at_the_end_is_let_go_and_counted() {
    let mut gateway = Gateway::start(2, MASQUERADE);
    // Nobody has this address: the packet waits for an answer to ARP.
    let waiting = udp(LAN, ("10.0.0.2", 4000), ("203.0.113.77", 53), b"x");
    gateway.send(LAN, 0, &[waiting], 1);
    assert_eq!(gateway.json("show counters")["total"]["held"], 1);
    let counters = gateway.stop();
    assert_eq!(counters.drops[DropReason::Shutdown.index()], 1);
}
