//! `/metrics`, `/healthz` and `/readyz` on a TCP listener of their own. Nothing here can change anything.
//!
//! | path | answers 200 while |
//! |---|---|
//! | `/healthz` | the process lives |
//! | `/readyz` | every worker runs and uses the current policy; 503 otherwise |
//! | `/metrics` | the gateway is up: Prometheus text |

use super::metrics;
use crate::control::api::{Failure, FailureKind, Status};
use crate::control::backend::{Backend, Slot};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// How long a scrape may take; workers have 2 s.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Opens the listener.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(
            FailureKind::Failed,
            format!("metrics listener {address}"),
            e.to_string(),
        )
        .hint("change metrics.listen, or set it to \"\" for none")
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The routes.
pub fn router(slot: Slot) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .layer(DefaultBodyLimit::max(0))
        .with_state(slot)
}

/// Serves until `stop` resolves.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    slot: Slot,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    axum::serve(listener, router(slot))
        .with_graceful_shutdown(stop)
        .await
}

async fn scrape(State(slot): State<Slot>) -> Response {
    match ask(slot, |backend| metrics::text(&backend.scrape())).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Ok(Err(why)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn ready(State(slot): State<Slot>) -> Response {
    match ask(slot, |backend| backend.status()).await {
        Ok(Status { ready: true, .. }) => "ready\n".into_response(),
        Ok(status) => {
            let why = format!("not ready: stalled workers {:?}\n", status.stalled_workers);
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// Asks the backend where blocking is allowed.
async fn ask<T: Send + 'static>(
    slot: Slot,
    question: impl FnOnce(&dyn Backend) -> T + Send + 'static,
) -> Result<T, String> {
    let backend = slot.get().map_err(|failure| failure.to_string())?;
    let task = tokio::task::spawn_blocking(move || question(backend.as_ref()));
    match tokio::time::timeout(TIMEOUT, task).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err("the handler died; the log has the reason".to_owned()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}
