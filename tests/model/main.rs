//! The data plane against a naive NAT made of ordinary maps: over random operations (packets both ways, whole and in pieces,
//! ICMP errors, time, reloads), and over all short ones.
//!
//! The reference does not choose ports: it learns them from the first translated packet and from then on insists. What
//! it insists on are the invariants a NAT stands for: one outside endpoint for as much of a flow as mappings depend on, never
//! two mappings on one outside endpoint that a packet from outside could mean, nothing delivered that was not admitted, no
//! port refused while one is left, exact expiry, no packet unaccounted for.
//!
//! A history that ends in a difference is shrunk to a few packets, and these are left as a golden row below the target
//! directory; the message says where, and how to keep it.
//!
//! `NATGATE_MODEL_STEPS` and `NATGATE_MODEL_DEPTH` say how far to go; `make test-deep` goes far.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(missing_docs, reason = "a test is no interface")]

#[path = "../common/mod.rs"]
mod common;

mod all;
mod history;
mod packets;
mod random;
mod reference;
mod shrink;
mod written;

/// A number from the environment.
fn setting(name: &str, default: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}: {text} is no number")),
        Err(_) => default,
    }
}
