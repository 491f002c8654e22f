//! The safe face of the C shim over DPDK.
