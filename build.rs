//! Builds the C shim over DPDK and its bindings.
fn main() {}
