//! Interfaces, routes, neighbours and the ICMP the gateway itself sends.
