//! The API server: HTTP + JSON on a unix socket.
//!
//! Handlers call the [`Backend`] on blocking threads, so that a slow worker never delays another request. Listings
//! are streamed through a small channel: the thread that walks the workers waits when the client reads slowly, workers
//! never do.

use super::api::{
    API_VERSION, Document, Failure, FailureKind, Filter, Item, Line, Listing, VERSION_HEADER,
};
use super::backend::{Backend, Slot};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// Largest request body: a reload request is a path, an edit may bring the million members of a set.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// How long a document may take. Workers are given 2 s each in parallel, a reload somewhat more.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a change may take: compiling a large configuration, ending millions of sessions.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of NDJSON that are sent at a time.
const CHUNK: usize = 32 * 1024;

/// The routes of the API.
pub fn router(slot: Slot) -> Router {
    Router::new()
        .route("/v1/{what}", get(show))
        .route(
            "/v1/reload",
            post(|slot, body| change(slot, body, |b, request| b.reload(request))),
        )
        .route(
            "/v1/edit",
            post(|slot, body| change(slot, body, |b, request| b.edit(request))),
        )
        .route(
            "/v1/rollback",
            post(|slot, body| change(slot, body, |b, request| b.rollback(request))),
        )
        .route(
            "/v1/save",
            post(|slot, body| change(slot, body, |b, request| b.save(request))),
        )
        .route(
            "/v1/diff",
            post(|slot, body| change(slot, body, |b, request| b.diff(request))),
        )
        .route("/v1/confirm", post(confirm))
        .route("/v1/clear/sessions", post(clear_sessions))
        .route(
            "/v1/explain",
            post(|slot, body| change(slot, body, |b, question| b.explain(question))),
        )
        .route("/v1/clear/counters", post(clear_counters))
        .fallback(|| async { refuse(not_found("no such request")) })
        .layer(middleware::from_fn(check_version))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(slot)
}

/// Creates the socket: mode 0660, its directory if missing, the group if it exists. A socket nobody listens on is
/// replaced.
///
/// # Errors
/// When another instance answers on it, or the file system refuses.
pub fn bind(path: &FilePath, group: &str) -> Result<std::os::unix::net::UnixListener, Failure> {
    let failed = |why: String, hint: &str| {
        Failure::new(
            FailureKind::Failed,
            format!("socket {}", path.display()),
            why,
        )
        .hint(hint)
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|e| {
            failed(
                e.to_string(),
                "run as root, or set api.socket to a place you may write",
            )
        })?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(failed(
                "another natgate listens on it".into(),
                "stop that one, or give this one its own system.instance",
            ));
        }
        let _ = std::fs::remove_file(path);
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(|e| {
        failed(
            e.to_string(),
            "run as root, or set api.socket to a place you may write",
        )
    })?;
    listener
        .set_nonblocking(true)
        .map_err(|e| failed(e.to_string(), "report this"))?;
    restrict(path, group)
        .map_err(|e| failed(e.to_string(), "the file system must support permissions"))?;
    Ok(listener)
}

/// Owner and group may talk to the gateway, nobody else.
fn restrict(path: &FilePath, group: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    match nix::unistd::Group::from_name(group) {
        Ok(Some(group)) => {
            if let Err(error) = nix::unistd::chown(path, None, Some(group.gid)) {
                tracing::warn!(%error, "the API socket keeps its group");
            }
        }
        _ => tracing::info!(
            group,
            "group does not exist; the API socket is for its owner only"
        ),
    }
    Ok(())
}

/// Serves the API until `stop` resolves.
///
/// # Errors
/// When the socket breaks.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    slot: Slot,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    axum::serve(listener, router(slot))
        .with_graceful_shutdown(stop)
        .await
}

/// Refuses clients of another version and tells every client ours.
async fn check_version(request: Request, next: Next) -> Response {
    let asked = request
        .headers()
        .get(VERSION_HEADER)
        .and_then(|v| v.to_str().ok());
    let mut response = match asked {
        Some(asked) if asked != API_VERSION.to_string() => refuse(
            Failure::new(
                FailureKind::Usage,
                "version",
                format!("the daemon speaks API version {API_VERSION}, the client {asked}"),
            )
            .hint("use the natgate binary the daemon was started from"),
        ),
        _ => next.run(request).await,
    };
    response
        .headers_mut()
        .insert(VERSION_HEADER, HeaderValue::from(API_VERSION));
    response
}

async fn show(
    State(slot): State<Slot>,
    Path(what): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    if let Some(document) = Document::from_name(&what) {
        return answer(slot, DOCUMENT_TIMEOUT, move |backend| {
            read(backend, document)
        })
        .await;
    }
    let Some(listing) = Listing::from_name(&what) else {
        return refuse(not_found(&format!(
            "there is nothing called `{what}` to show"
        )));
    };
    match (
        slot.get(),
        Filter::from_query(query.as_deref().unwrap_or("")),
    ) {
        (Ok(backend), Ok(filter)) => stream(backend, listing, filter),
        (Err(failure), _) | (_, Err(failure)) => refuse(failure),
    }
}

fn read(backend: &dyn Backend, document: Document) -> Result<Response, Failure> {
    Ok(match document {
        Document::Status => json(&backend.status()),
        Document::Drops => json(&backend.drops()),
        Document::Counters => json(&backend.counters()),
        Document::Timeouts => json(&backend.timeouts()),
        Document::Config => json(&backend.config()),
    })
}

/// Answers a request that comes as JSON; no body at all stands for `{}`.
async fn change<Q, A>(
    State(slot): State<Slot>,
    body: Bytes,
    work: impl FnOnce(&dyn Backend, &Q) -> Result<A, Failure> + Send + 'static,
) -> Response
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize,
{
    let text = if body.is_empty() { b"{}" } else { &*body };
    match serde_json::from_slice::<Q>(text) {
        Ok(request) => {
            answer(slot, CHANGE_TIMEOUT, move |backend| {
                work(backend, &request).map(|done| json(&done))
            })
            .await
        }
        Err(error) => refuse(Failure::new(
            FailureKind::Usage,
            "request",
            error.to_string(),
        )),
    }
}

async fn confirm(State(slot): State<Slot>) -> Response {
    answer(slot, CHANGE_TIMEOUT, |b| {
        b.confirm().map(|done| json(&done))
    })
    .await
}

async fn clear_sessions(State(slot): State<Slot>, RawQuery(query): RawQuery) -> Response {
    match Filter::from_query(query.as_deref().unwrap_or("")) {
        Ok(filter) => {
            answer(slot, CHANGE_TIMEOUT, move |b| {
                b.clear_sessions(&filter).map(|done| json(&done))
            })
            .await
        }
        Err(failure) => refuse(failure),
    }
}

async fn clear_counters(State(slot): State<Slot>) -> Response {
    answer(slot, CHANGE_TIMEOUT, |b| Ok(json(&b.clear_counters()))).await
}

/// Runs `work` where it may block and gives up waiting after `timeout`.
async fn answer(
    slot: Slot,
    timeout: Duration,
    work: impl FnOnce(&dyn Backend) -> Result<Response, Failure> + Send + 'static,
) -> Response {
    let backend = match slot.get() {
        Ok(backend) => backend,
        Err(failure) => return refuse(failure),
    };
    let task = tokio::task::spawn_blocking(move || work(backend.as_ref()));
    match tokio::time::timeout(timeout, task).await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(failure))) => refuse(failure),
        Ok(Err(_)) => refuse(
            Failure::new(FailureKind::Failed, "request", "its handler died")
                .hint("the log has the reason; report it"),
        ),
        Err(_) => refuse(
            Failure::new(
                FailureKind::Stalled,
                "request",
                format!("no answer within {} s", timeout.as_secs()),
            )
            .hint("see `natgate show workers`"),
        ),
    }
}

/// Streams a listing as NDJSON.
fn stream(backend: Arc<dyn Backend>, listing: Listing, filter: Filter) -> Response {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
    tokio::task::spawn_blocking(move || {
        let mut chunk = Vec::with_capacity(CHUNK + 1024);
        let result = backend.list(listing, &filter, &mut |item| {
            write_line(&mut chunk, &Line::Item(item));
            // A client that went away ends the walk.
            chunk.len() < CHUNK
                || sender
                    .blocking_send(Ok(std::mem::take(&mut chunk).into()))
                    .is_ok()
        });
        write_line(
            &mut chunk,
            &result.map_or_else(Line::<Item>::Error, Line::End),
        );
        let _ = sender.blocking_send(Ok(chunk.into()));
    });
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn write_line<T: Serialize>(out: &mut Vec<u8>, line: &Line<T>) {
    // Writing plain data to memory cannot fail; if it ever did, the client would miss the end line and say so.
    let _ = serde_json::to_writer(&mut *out, line);
    out.push(b'\n');
}

fn json<T: Serialize>(value: &T) -> Response {
    axum::Json(value).into_response()
}

fn refuse(failure: Failure) -> Response {
    let status = StatusCode::from_u16(failure.kind.http_status())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(failure)).into_response()
}

fn not_found(why: &str) -> Failure {
    Failure::new(FailureKind::NotFound, "request", why)
}
