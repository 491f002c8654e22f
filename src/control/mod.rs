//! The management side: what an operator sees and changes, and the machinery that carries it out.
//!
//! ```text
//!   cli ──HTTP/JSON over a unix socket──▶ server ─▶ Backend ─▶ jobs, one small slice per loop ─▶ workers
//!                  Prometheus ──TCP──▶ telemetry ─▶    │
//!                                                      └─▶ apply: load, validate, compile, publish, wait
//! ```
//!
//! [`backend::Backend`] is everything an operator can ask, in plain data ([`api`]); the server, the metrics and their
//! tests know nothing else. [`runtime`] is the boundary to the packet side.

pub mod api;
pub mod backend;
pub mod runtime;
pub mod server;
