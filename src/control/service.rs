//! `natgate run`: from the configuration to a running gateway, and back.
//!
//! Sockets come first, because they fail fast and because threads started after the driver would inherit its core. Then the
//! devices, then the workers; ready is reported when every worker runs.

use super::api::{Failure, FailureKind, ReloadRequest};
use super::backend::{Backend, Slot};
use super::daemon::{self, Daemon, Placement};
use super::runtime::{Devices, entropy, warnings};
use super::server;
use crate::config::Loaded;
use crate::config::validated::Validated;
use crate::dataplane::buffer::Buffer;
use crate::dataplane::counters::Counters;
use crate::telemetry::{http, notify};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::SignalsInfo;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// How long open connections may take to end when the gateway stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs the gateway until SIGTERM or SIGINT. `open` opens the devices; it is given the seed of the steering.
///
/// # Errors
/// When it cannot start.
pub fn run<B: Buffer>(
    path: &Path,
    loaded: Loaded,
    open: impl FnOnce(&Validated, u64) -> Result<Devices<B>, Failure>,
) -> Result<(), Failure> {
    let file = path.to_owned();
    for warning in warnings(&loaded) {
        tracing::warn!("{warning}");
    }
    // Registered first, so that no signal is lost while the devices come up.
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| Failure::new(FailureKind::Failed, "signals", e.to_string()))?;
    let slot = Slot::default();
    let management = Management::start(&loaded.validated, slot.clone())?;
    let lived = live(file, loaded, open, &slot, &mut signals);
    // Also when the start failed: a socket that nobody answers on helps nobody.
    management.stop();
    lived.map(report)
}

/// Opens the devices, starts the workers, and serves signals until one says stop.
fn live<B: Buffer>(
    file: PathBuf,
    loaded: Loaded,
    open: impl FnOnce(&Validated, u64) -> Result<Devices<B>, Failure>,
    slot: &Slot,
    signals: &mut SignalsInfo,
) -> Result<Daemon, Failure> {
    let placement = Placement::of(&loaded.validated);
    let seed = entropy()?.next_u64();
    let devices = open(&loaded.validated, seed)?;
    let daemon = daemon::start(devices, loaded, file, &placement, seed)?;
    slot.fill(daemon.live.clone());
    let status = daemon.live.status();
    let cores = &placement.cores;
    tracing::info!(
        workers = status.workers,
        generation = status.generation,
        ?cores,
        "natgate is ready"
    );
    notify::ready("forwarding");
    for signal in signals.forever() {
        if signal != SIGHUP {
            tracing::info!(signal, "stopping");
            break;
        }
        notify::reloading();
        // Success and refusal are logged where they happen.
        let _ = daemon.live.reload(&ReloadRequest::default());
        notify::ready("forwarding");
    }
    notify::stopping();
    Ok(daemon)
}

/// Stops the workers and logs what became of every packet.
fn report(daemon: Daemon) {
    let mut total = Counters::default();
    for (worker, counters) in daemon.stop().into_iter().enumerate() {
        match counters {
            Some(counters) => total.add(&counters),
            None => tracing::error!(worker, "the worker died before the end"),
        }
    }
    tracing::info!(
        received = total.received,
        sent = total.sent,
        generated = total.generated,
        consumed = total.consumed,
        dropped = total.dropped(),
        // What one worker handed over another took: nothing is held and nothing is under way any more.
        imbalance = total.imbalance(0),
        "stopped"
    );
}

/// The thread that serves the API and the metrics.
pub struct Management {
    socket: PathBuf,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Management {
    /// Binds the sockets and starts serving; requests are answered "still starting" until the slot is filled.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub fn start(config: &Validated, slot: Slot) -> Result<Management, Failure> {
        let socket = config.api.socket.clone();
        let api = server::bind(&socket, &config.api.group)?;
        let metrics = config.metrics.listen.map(http::bind).transpose()?;
        let (stop, stopped) = watch::channel(false);
        let failed = |e: std::io::Error| {
            Failure::new(FailureKind::Failed, "management thread", e.to_string())
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let body = move || runtime.block_on(serve(api, metrics, slot, stopped));
        let thread = std::thread::Builder::new()
            .name("management".to_owned())
            .spawn(body)
            .map_err(failed)?;
        Ok(Management {
            socket,
            stop,
            thread,
        })
    }

    /// Ends the connections and removes the socket.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.thread.join();
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn serve(
    api: UnixListener,
    metrics: Option<TcpListener>,
    slot: Slot,
    stopped: watch::Receiver<bool>,
) {
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // A closed channel means the same.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let api = server::serve(api, slot.clone(), until(stopped.clone()));
    let metrics = async {
        match metrics {
            Some(listener) => http::serve(listener, slot, until(stopped.clone())).await,
            None => Ok(()),
        }
    };
    let served = async {
        let (api, metrics) = tokio::join!(api, metrics);
        for error in [api.err(), metrics.err()].into_iter().flatten() {
            tracing::error!(%error, "a management socket broke");
        }
    };
    let farewell = async {
        until(stopped.clone()).await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        () = served => {}
        () = farewell => {}
    }
}

/// Fills a slot for tests and for servers without a daemon.
pub fn serve_backend(config: &Validated, backend: Arc<dyn Backend>) -> Result<Management, Failure> {
    Management::start(config, Slot::filled(backend))
}
