//! Network address translation: pools, ports, mappings, policy and the slow path.
