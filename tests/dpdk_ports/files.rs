//! pcap ports: frames from file to file.

use std::path::Path;

use crate::pcap::{self, Record};
use crate::{Burst, eal, open, pool};

fn write(path: &Path, frames: &[Vec<u8>]) {
    let records: Vec<Record> = frames.iter().map(|frame| (0, frame.clone())).collect();
    pcap::write(path, &records).unwrap();
}

fn read(path: &Path) -> Vec<Vec<u8>> {
    let records = pcap::read(path).unwrap();
    records.into_iter().map(|(_, frame)| frame).collect()
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
    write(&input, &frames);
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
    assert!(read(&output) == frames);
}

#[test]
fn a_pcap_port_may_have_one_file_only() {
    let (eal, _turn) = eal();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    write(&input, &[vec![1; 60], vec![2; 61]]);
    let pool = pool(&eal, "onefile", 255);
    let source = open(&eal, 0, &format!("pcap:{},", input.display()), &pool).unwrap();
    let sink = open(&eal, 1, &format!("pcap:,{}", output.display()), &pool).unwrap();
    let mut burst = Burst::new();
    assert_eq!(sink.take_rx(0).unwrap().rx(&mut burst), 0);
    assert_eq!(source.take_rx(0).unwrap().rx(&mut burst), 2);
    assert_eq!(sink.take_tx(0).unwrap().tx(&mut burst), 2);
    drop((source, sink));
    assert_eq!(read(&output), [vec![1; 60], vec![2; 61]]);
}

#[test]
fn a_frame_beyond_the_buffer_is_marked_as_spread() {
    let (eal, _turn) = eal();
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.pcap");
    write(&input, &[vec![1; 5000], vec![2; 60]]);
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
