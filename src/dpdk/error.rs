//! What goes wrong with devices, as sentences that name the way out, and DPDK's own log behind them.

use std::ffi::CStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ffi;

/// A failure of DPDK or of a device. The text is one sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The EAL was initialised before in this process, even if that failed: DPDK allows one attempt.
    #[error("DPDK is already initialised in this process, which it can be only once")]
    AlreadyInitialised,
    /// DPDK refused something.
    #[error("{what}: {reason}{detail}")]
    Dpdk {
        /// What was attempted.
        what: String,
        /// The error number in words.
        reason: String,
        /// The first thing DPDK logged about it, in parentheses; may be empty.
        detail: String,
    },
    /// The device is missing, in the wrong hands or too small for the configuration.
    #[error("{0}")]
    Device(String),
    /// Not enough memory for packet buffers.
    #[error("{0}")]
    Memory(String),
    /// Queue handles are still alive, so the port cannot be stopped.
    #[error("port {0} is in use: its queue handles must be given back first")]
    Busy(String),
}

/// Text taken out of DPDK's log and not yet asked for by [`take_log`].
static BACKLOG: Mutex<String> = Mutex::new(String::new());
/// Bytes kept of it: the newest.
const BACKLOG_BYTES: usize = 64 * 1024;

fn backlog() -> MutexGuard<'static, String> {
    // A panic elsewhere leaves a string that is at worst incomplete.
    BACKLOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves what DPDK logged since the last call to the backlog and returns it.
fn collect() -> String {
    let mut buffer = vec![0u8; 8192];
    // SAFETY: the shim writes at most the given number of bytes into the buffer we own.
    let length = unsafe { ffi::ng_log_take(buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(length);
    let text = String::from_utf8_lossy(&buffer).into_owned();
    let mut backlog = backlog();
    backlog.push_str(&text);
    if backlog.len() > BACKLOG_BYTES {
        let surplus = backlog.len() - BACKLOG_BYTES;
        let cut = (surplus..)
            .find(|&at| backlog.is_char_boundary(at))
            .unwrap_or(surplus);
        backlog.drain(..cut);
    }
    text
}

/// Everything DPDK logged (notices and worse) since the last call. It prints nothing by itself.
pub fn take_log() -> String {
    collect();
    std::mem::take(&mut *backlog())
}

/// Runs one shim call; a negative result becomes an error that says `what` was attempted and what DPDK logged meanwhile.
pub(super) fn attempt(
    what: impl FnOnce() -> String,
    call: impl FnOnce() -> i32,
) -> Result<i32, Error> {
    collect();
    match call() {
        code if code < 0 => Err(refused(what(), code)),
        value => Ok(value),
    }
}

/// The error for a shim call that has just returned `code`.
pub(super) fn refused(what: String, code: i32) -> Error {
    let log = collect();
    let first = log.lines().map(str::trim).find(|line| !line.is_empty());
    Error::Dpdk {
        what,
        reason: strerror(code),
        detail: first.map(|line| format!(" ({line})")).unwrap_or_default(),
    }
}

fn strerror(code: i32) -> String {
    // SAFETY: the shim returns a NUL-terminated string that stays valid until this thread asks for the next one.
    let text = unsafe { CStr::from_ptr(ffi::ng_strerror(code)) };
    text.to_string_lossy().into_owned()
}
