//! How datagrams of the log leave: routed by the gateway itself, by the kernel of the host, or to the local syslog daemon.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::base::RealmId;
use crate::config::log::Collector;
use crate::dataplane::originate::{NotSent, Original};
use crate::dataplane::worker::{Job, consign};

/// How long a worker may take to send a batch.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause while the next hop is asked for.
const NEIGHBOUR: Duration = Duration::from_millis(20);

/// How often it is asked for.
const TRIES: u32 = 100;

/// A way for datagrams to one collector.
pub(super) enum Way {
    /// As packets of the gateway's own, by the routes of its main realm.
    Gateway {
        /// The worker that sends them.
        worker: Sender<Job>,
        /// Port they come from.
        source_port: u16,
        /// The collector.
        to: SocketAddr,
    },
    /// By a socket of the host.
    Host {
        /// The collector.
        to: SocketAddr,
        /// Opened with the first datagram.
        socket: Option<UdpSocket>,
    },
    /// To a socket in the file system.
    Local {
        /// The daemon's.
        path: PathBuf,
        /// Opened with the first datagram.
        socket: Option<UnixDatagram>,
    },
}

impl Way {
    /// The way to a collector; the gateway itself sends from `source_port`, by the jobs of `worker`.
    pub(super) fn to(collector: &Collector, source_port: u16, worker: &Sender<Job>) -> Way {
        match collector {
            Collector::Gateway(to) => Way::Gateway {
                worker: worker.clone(),
                source_port,
                to: *to,
            },
            Collector::Host(to) => Way::Host {
                to: *to,
                socket: None,
            },
            Collector::Local(path) => Way::Local {
                path: path.clone(),
                socket: None,
            },
        }
    }

    /// Datagrams sent in one go.
    pub(super) const AT_ONCE: usize = 256;

    /// Sends datagrams in order. Returns how many are through with, and why not all are. Those that are too long for the way
    /// are let go: they would never leave.
    pub(super) fn send(&mut self, datagrams: Vec<Vec<u8>>) -> (usize, io::Result<()>) {
        match self {
            Way::Gateway {
                worker,
                source_port,
                to,
            } => through_gateway(worker, *source_port, *to, datagrams),
            Way::Host { to, socket } => one_by_one(&datagrams, |datagram| {
                if socket.is_none() {
                    let any: SocketAddr = match to {
                        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
                    };
                    let new = UdpSocket::bind(any)?;
                    new.connect(*to)?;
                    *socket = Some(new);
                }
                let sent = socket
                    .as_ref()
                    .map_or(Ok(0), |socket| socket.send(datagram));
                sent.inspect_err(|error| reopen(error, socket))
            }),
            Way::Local { path, socket } => one_by_one(&datagrams, |datagram| {
                if socket.is_none() {
                    let new = UnixDatagram::unbound()?;
                    new.connect(&*path)?;
                    *socket = Some(new);
                }
                let sent = socket
                    .as_ref()
                    .map_or(Ok(0), |socket| socket.send(datagram));
                sent.inspect_err(|error| reopen(error, socket))
            }),
        }
    }
}

/// After an error a socket is opened anew, unless the error was about the datagram.
fn reopen<S>(error: &io::Error, socket: &mut Option<S>) {
    if !is_too_long(error) {
        *socket = None;
    }
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EMSGSIZE as i32)
}

fn one_by_one(
    datagrams: &[Vec<u8>],
    mut send: impl FnMut(&[u8]) -> io::Result<usize>,
) -> (usize, io::Result<()>) {
    for (sent, datagram) in datagrams.iter().enumerate() {
        let outcome = match send(datagram) {
            // What an earlier datagram met is told by a later call, which has sent nothing.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => send(datagram),
            outcome => outcome,
        };
        match outcome {
            Err(error) if is_too_long(&error) => {
                tracing::warn!(
                    bytes = datagram.len(),
                    "a record of the NAT log is too long to be sent"
                );
            }
            Err(error) => return (sent, Err(error)),
            Ok(_) => {}
        }
    }
    (datagrams.len(), Ok(()))
}

fn through_gateway(
    worker: &Sender<Job>,
    source_port: u16,
    to: SocketAddr,
    datagrams: Vec<Vec<u8>>,
) -> (usize, io::Result<()>) {
    let all = datagrams.len();
    let packet = |payload: Vec<u8>| Original::Datagram {
        realm: RealmId(0),
        source_port,
        to,
        payload,
    };
    let mut packets: Vec<Original> = datagrams.into_iter().map(packet).collect();
    for _ in 0..TRIES {
        let Some(answer) = consign(worker, packets) else {
            return (0, Err(io::Error::other("the worker does not run its jobs")));
        };
        let Ok(batch) = answer.recv_timeout(PATIENCE) else {
            return (0, Err(io::Error::other("the worker does not send")));
        };
        packets = Vec::new();
        for (at, (packet, result)) in batch.packets.into_iter().zip(batch.results).enumerate() {
            match result {
                Ok(()) => {}
                Err(NotSent::TooLong) => {
                    tracing::warn!("a record of the NAT log is too long to be sent");
                }
                // It leaves once the next hop has answered.
                Err(NotSent::NeighbourQueueFull) => packets.push(packet),
                // Those behind it may have left already: they are sent twice rather than never.
                Err(why) => return (at, Err(io::Error::other(why))),
            }
        }
        if packets.is_empty() {
            return (all, Ok(()));
        }
        std::thread::sleep(NEIGHBOUR);
    }
    (0, Err(io::Error::other(NotSent::NeighbourQueueFull)))
}
