//! A gateway in one process: the real workers, management threads and API on devices in memory, and the real command line
//! talking to it.

use crate::common::{LAB, LAN, neighbours, udp};
use assert_cmd::Command;
use crossbeam_channel::{Receiver, Sender, unbounded};
use natgate::base::PortId;
use natgate::control::daemon::{self, Daemon, Placement};
use natgate::control::runtime::{
    DeviceCounts, Devices, LinkState, PortControl, PortDevice, WorkerDevices, load,
};
use natgate::control::service::{Management, serve_backend};
use natgate::dataplane::buffer::{Buffer, Burst};
use natgate::dataplane::counters::Counters;
use natgate::dataplane::memory::MemoryBuffer;
use natgate::dataplane::worker::{BufferPool, Numbered, PortQueues, RxQueue, TxQueue};
use natgate::wire::MacAddr;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

struct Queue {
    port: PortId,
    /// How many times the transmit side still takes nothing.
    clogged: Arc<AtomicUsize>,
    incoming: Option<Receiver<Vec<u8>>>,
    outgoing: Sender<(PortId, Vec<u8>)>,
}

impl RxQueue<MemoryBuffer> for Queue {
    fn receive(&mut self, burst: &mut Burst<MemoryBuffer>) -> usize {
        let incoming = self.incoming.as_ref().unwrap();
        while !burst.is_full() {
            let Ok(frame) = incoming.try_recv() else {
                break;
            };
            burst.push(MemoryBuffer::from_frame(&frame));
        }
        burst.len()
    }
}

impl TxQueue<MemoryBuffer> for Queue {
    fn transmit(&mut self, burst: &mut Burst<MemoryBuffer>) -> usize {
        let fewer = |n: usize| n.checked_sub(1);
        let (order, clogged) = (Ordering::Relaxed, &self.clogged);
        if !burst.is_empty() && clogged.fetch_update(order, order, fewer).is_ok() {
            return 0;
        }
        let count = burst.len();
        for buffer in burst.drain(..) {
            let _ = self.outgoing.send((self.port, buffer.bytes().to_vec()));
        }
        count
    }
}

struct Heap;

impl BufferPool<MemoryBuffer> for Heap {
    fn allocate(&mut self) -> Option<MemoryBuffer> {
        Some(MemoryBuffer::default())
    }

    fn free(&mut self, burst: &mut Burst<MemoryBuffer>) {
        burst.clear();
    }
}

struct Plug(Arc<AtomicBool>);

impl PortControl for Plug {
    fn link(&self) -> LinkState {
        LinkState {
            up: self.0.load(Ordering::Relaxed),
            speed_mbps: Some(10_000),
        }
    }

    fn counts(&self) -> DeviceCounts {
        DeviceCounts {
            rx_packets: 7,
            ..DeviceCounts::default()
        }
    }
}

/// A gateway with two ports, its API on a socket, and a directory that goes with it.
pub struct Gateway {
    pub daemon: Option<Daemon>,
    management: Option<Management>,
    pub directory: tempfile::TempDir,
    /// Frames into a port, by port and worker.
    pub wires: Vec<Vec<Sender<Vec<u8>>>>,
    out: Receiver<(PortId, Vec<u8>)>,
    /// Whether the cable of a port is plugged in.
    pub plugs: Vec<Arc<AtomicBool>>,
    /// How many more times the transmit queues of a port take nothing.
    pub clogs: Vec<Arc<AtomicUsize>>,
    metrics: std::net::SocketAddr,
}

impl Gateway {
    pub fn start(workers: u8, rules: &str) -> Gateway {
        Gateway::with_system(workers, "sessions = 4096", rules)
    }

    /// A gateway with more keys of the table `[system]`.
    pub fn with_system(workers: u8, system: &str, rules: &str) -> Gateway {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let metrics = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let head = format!(
            "[system]\nworkers = {workers}\n{system}\nmemory = \"1GiB\"\nfragments = 64\n\
             [api]\nsocket = \"{}\"\n[metrics]\nlisten = \"{metrics}\"\n",
            socket.display()
        );
        let file = directory.path().join("natgate.toml");
        std::fs::write(&file, format!("{LAB}{head}{}{rules}", neighbours())).unwrap();
        let loaded = load(&file).unwrap_or_else(|report| panic!("{report}"));
        let validated = loaded.validated.clone();
        let (outgoing, out) = unbounded();
        let plugs: Vec<_> = (0..2).map(|_| Arc::new(AtomicBool::new(true))).collect();
        let clogs: Vec<_> = (0..2).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let mut wires = vec![Vec::new(), Vec::new()];
        let workers = (0..workers).map(|worker| {
            let port = |id: u16, wires: &mut Vec<Vec<Sender<Vec<u8>>>>| {
                let (wire, incoming) = unbounded();
                wires[usize::from(id)].push(wire);
                let queue = |incoming| Queue {
                    port: PortId(id),
                    clogged: clogs[usize::from(id)].clone(),
                    incoming,
                    outgoing: outgoing.clone(),
                };
                PortQueues {
                    port: PortId(id),
                    rx: vec![Numbered::new(
                        u16::from(worker),
                        Box::new(queue(Some(incoming))) as Box<dyn RxQueue<MemoryBuffer>>,
                    )],
                    tx: Numbered::new(u16::from(worker), Box::new(queue(None))),
                    link: Arc::new(AtomicBool::new(true)),
                }
            };
            WorkerDevices {
                ports: vec![port(0, &mut wires), port(1, &mut wires)],
                pool: Box::new(Heap),
            }
        });
        let workers = workers.collect();
        let port = |id: usize| PortDevice {
            mac: MacAddr([2, 0, 0, 0, 1, id as u8]),
            link: Arc::new(AtomicBool::new(true)),
            rx_queues: 1,
            tx_queues: 1,
            control: Box::new(Plug(plugs[id].clone())),
        };
        let devices = Devices {
            ports: vec![port(0), port(1)],
            workers,
            on_thread: Arc::new(|| Ok(Box::new(()))),
            dpdk_version: String::new(),
            keep: Box::new(()),
        };
        let daemon = daemon::start(devices, loaded, file, &Placement::default(), 7).unwrap();
        let management = serve_backend(&validated, daemon.live.clone()).unwrap();
        Gateway {
            daemon: Some(daemon),
            management: Some(management),
            directory,
            wires,
            out,
            plugs,
            clogs,
            metrics,
        }
    }

    pub fn file(&self) -> PathBuf {
        self.directory.path().join("natgate.toml")
    }

    pub fn edit(&self, change: impl Fn(String) -> String) {
        let text = std::fs::read_to_string(self.file()).unwrap();
        std::fs::write(self.file(), change(text)).unwrap();
    }

    pub fn cli(&self, words: &str) -> std::process::Output {
        let socket = self.directory.path().join("api.sock");
        natgate()
            .arg("--socket")
            .arg(socket)
            .args(words.split_whitespace())
            .output()
            .unwrap()
    }

    /// Standard output of a command that must succeed.
    pub fn ask(&self, words: &str) -> String {
        let output = self.cli(words);
        assert!(
            output.status.success(),
            "{words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, words: &str) -> Value {
        let text = self.ask(&format!("{words} --json"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words}: {e}: {text}"))
    }

    /// Sends frames into a port of one worker and returns what leaves, `expected` frames.
    pub fn send(
        &self,
        port: PortId,
        worker: usize,
        frames: &[Vec<u8>],
        expected: usize,
    ) -> Vec<(PortId, Vec<u8>)> {
        for frame in frames {
            self.wires[port.index()][worker]
                .send(frame.clone())
                .unwrap();
        }
        let next = |_| {
            self.out
                .recv_timeout(Duration::from_secs(5))
                .expect("a frame leaves")
        };
        (0..expected).map(next).collect()
    }

    /// Clients with ports 4000… each send a datagram to the outside.
    pub fn open_sessions(&self, count: u16) {
        let frames: Vec<_> = (0..count)
            .map(|i| {
                udp(
                    LAN,
                    ("10.0.0.2", 4000 + i),
                    ("203.0.113.9", 53),
                    b"question",
                )
            })
            .collect();
        self.send(LAN, 0, &frames, usize::from(count));
    }

    pub fn http(&self, path: &str) -> (u16, String) {
        let mut stream = std::net::TcpStream::connect(self.metrics).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }
}

impl Gateway {
    /// Stops it and returns what all workers counted; every packet is accounted for.
    pub fn stop(&mut self) -> Counters {
        self.management.take().unwrap().stop();
        let counters = self.daemon.take().unwrap().stop();
        let mut total = Counters::default();
        counters
            .into_iter()
            .for_each(|c| total.add(&c.expect("every worker ends in order")));
        assert_eq!(
            total.imbalance(0),
            0,
            "every packet is accounted for: {total:?}"
        );
        total
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.daemon.is_some() && !std::thread::panicking() {
            self.stop();
        }
    }
}

pub fn natgate() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("natgate"))
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !condition() {
        let now = Instant::now();
        assert!(now < limit, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}
