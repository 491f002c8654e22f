//! The kernel's end of two tap ports: frames go in as they are, and all that comes out is seen.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use natgate::base::PortId;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto, socket,
};

use crate::common::ns::Ns;

/// The kernel's names of the ports, by [`PortId`].
pub const NAMES: [&str; 2] = ["nglan", "ngwan"];

/// What the kernel marks frames with that its own programs send.
const OUTGOING: u8 = 4;

/// How long a frame that was sent may take to be seen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both ports, from the kernel's side.
pub struct Taps {
    /// Sees every frame of the namespace.
    all: OwnedFd,
    /// Where frames for a port go, by [`PortId`].
    ports: Vec<LinkAddr>,
}

impl Taps {
    /// Watches a namespace in which the ports need not exist yet.
    pub fn watch(ns: &Ns) -> Taps {
        let open = || {
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
        };
        Taps {
            all: ns.enter(open).expect("packet sockets need root"),
            ports: Vec::new(),
        }
    }

    /// Finds the ports, which now exist.
    pub fn find(&mut self, ns: &Ns) {
        let address = |name: &str| {
            getifaddrs()
                .unwrap()
                .filter(|interface| interface.interface_name == name)
                .find_map(|interface| interface.address?.as_link_addr().copied())
                .unwrap_or_else(|| panic!("natgate made no interface {name}"))
        };
        self.ports = ns.enter(|| NAMES.map(address).to_vec());
    }

    /// Sends a frame into a port.
    pub fn send(&self, port: PortId, frame: &[u8]) {
        let to = &self.ports[port.index()];
        let sent = sendto(self.all.as_raw_fd(), frame, to, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()), "a frame goes into port {port:?}");
    }

    /// What natgate has sent so far, in order: `count` frames, and no more.
    pub fn received(&self, count: usize) -> Vec<(PortId, Vec<u8>)> {
        let deadline = Instant::now() + PATIENCE;
        let mut frames = Vec::new();
        while Instant::now() < deadline {
            let mut frame = [0; 4096];
            match recvfrom::<LinkAddr>(self.all.as_raw_fd(), &mut frame) {
                Ok((length, Some(from))) if from.pkttype() != OUTGOING => {
                    let port = self
                        .ports
                        .iter()
                        .position(|p| p.ifindex() == from.ifindex());
                    let port = port.expect("a frame comes from one of the ports");
                    frames.push((PortId(port as u16), frame[..length].to_vec()));
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) if frames.len() >= count => return frames,
                Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("cannot read frames: {error}"),
            }
        }
        panic!("{} of {count} frames were seen", frames.len());
    }
}
