//! Network address translation: pools, ports, mappings, policy and the slow path.
//!
//! Everything here is a pure function of state, policy, time and randomness. The vocabulary is that of RFC 4787 and RFC
//! 6888: a *subscriber* (inside host) opens *sessions*; an inside endpoint is tied to an outside endpoint by a *mapping*;
//! outside ports come from *pools*, singly or in *port blocks*.

pub mod ahead;
pub mod association;
pub mod at_limit;
pub mod behaviour;
pub mod contacts;
pub mod destination;
pub mod expiry;
pub mod family;
pub mod filter;
pub mod fragments;
pub mod helpers;
pub mod icmp;
pub mod journal;
pub mod knock;
pub mod limits;
pub mod mapping;
pub mod matcher;
pub mod open;
pub mod policy;
pub mod ports;
pub mod prefix;
pub mod revalidate;
pub mod rewrite;
pub mod rss;
pub mod rules;
pub mod services;
pub mod state;
pub mod subscriber;
pub mod tcp;
pub mod trace;
pub mod window;
