//! The management side: what an operator sees and changes, and the machinery that carries it out.
//!
//! ```text
//!   cli ──HTTP/JSON over a unix socket──▶ server ─▶ Backend ─▶ jobs, one small slice per loop ─▶ workers
//!                  Prometheus ──TCP──▶ telemetry ─▶    │
//!                                                      └─▶ apply: load, validate, compile, publish, wait
//! ```
//!
//! [`backend::Backend`] is everything an operator can ask, in plain data ([`api`]); the server, the metrics and their
//! tests know nothing else. [`live`] answers it for a running gateway, whose threads are started by [`daemon`].
//! [`runtime`] is the boundary to configuration and devices, [`service`] the life of the process.

pub mod api;
pub mod backend;
pub mod daemon;
pub mod explain;
#[cfg(feature = "dpdk")]
pub mod hardware;
pub mod live;
pub mod probe;
pub mod runtime;
pub mod server;
pub mod service;
