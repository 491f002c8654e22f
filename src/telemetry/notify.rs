//! Talking to the service manager (`Type=notify` units).
//!
//! Without a service manager every call is a no-op.

use sd_notify::NotifyState;
use std::time::Duration;

/// The gateway is up.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload has begun; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock to announce the reload with"),
    }
}

/// The gateway is going down.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Alive: call it only while every worker is.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be called; `None` without a watchdog. Half of what the manager allows.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not reached");
    }
}
