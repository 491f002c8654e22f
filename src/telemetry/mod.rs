//! What the gateway tells the world about itself: metrics, health, log, the service manager.

pub mod http;
pub mod logging;
pub mod metrics;
pub mod natlog;
pub mod notify;
