//! What issue reports are made of: a full pool, a reload in the middle of a call, a neighbour that does not answer, a
//! link with a smaller MTU. Every row checks what the packet in question meets and that everybody else is left alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(missing_docs, reason = "a test is no interface")]

#[path = "../common/mod.rs"]
mod common;

mod apart;
mod batches;
mod carrier;
mod clamp;
mod decisions;
mod deterministic;
mod dhcp;
mod drain;
mod expiry;
mod filter;
mod filter_v6;
mod fragments;
mod hairpin;
mod helpers;
mod helpers_v6;
mod knocks;
mod limits;
mod links;
mod live;
mod log;
mod mappings;
mod mtu;
mod nat66;
mod neighbours;
mod originate;
mod parity;
mod pptp;
mod realms;
mod refusals;
mod reload;
mod rings;
mod rtsp;
mod sanity;
mod sctp;
mod services;
mod services_v6;
mod sessions;
mod sip;
mod standards;
mod tcp;

use common::*;
use natgate::base::{PortId, WorkerId};
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;

pub const MASQUERADE: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n";

/// The server everybody calls.
pub const SERVER: End = ("203.0.113.9", 5000);

/// Runs a test with several worker counts, receiving on the first worker and on the last.
pub fn everywhere(test: impl Fn(u8, u8)) {
    for workers in [1, 2, 4] {
        for receiver in [0, workers - 1] {
            test(workers, receiver);
        }
    }
}

/// A pool of the external address 203.0.113.20 with more keys in `keys`, and the rule that uses it.
pub fn pool(keys: &str) -> String {
    format!(
        "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\n{keys}\n\
         [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n"
    )
}

/// A datagram from an inside host to the server.
pub fn call(from: End) -> Vec<u8> {
    udp(LAN, from, SERVER, b"call")
}

/// The flow works in both directions and its outside source is still `public`.
pub fn works(rack: &mut Rack, at: u8, from: End, public: (std::net::Ipv4Addr, u16)) {
    let out = one(rack, at, LAN, &call(from));
    assert_eq!(
        (out.port, out.source),
        (WAN, public),
        "the flow kept its endpoint"
    );
    let address: &'static str = Box::leak(public.0.to_string().into_boxed_str());
    let back = one(
        rack,
        at,
        WAN,
        &udp(WAN, SERVER, (address, public.1), b"answer"),
    );
    assert_eq!((back.port, back.destination), (LAN, (ip(from.0), from.1)));
}

/// Sends one frame and returns whatever comes out, conservation checked.
pub fn send(rack: &mut Rack, at: u8, port: PortId, frame: &[u8]) -> Vec<(PortId, Vec<u8>)> {
    let sent = rack.receive(WorkerId(at), port, &[frame]);
    balanced(rack);
    sent
}
