//! Network address translation: pools, ports, mappings, policy and the slow path.

pub mod ports;
pub mod subscriber;
