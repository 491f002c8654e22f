//! Checks of a server: does it accept connections, does it answer a request?
//!
//! They are made by the kernel's own sockets and say nothing of the way packets take through the gateway.

use std::net::SocketAddr;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::services::{Check, CheckKind};

/// Whether the server at `at` passes.
pub async fn passes(at: SocketAddr, check: &Check) -> bool {
    let asked = async {
        match &check.kind {
            CheckKind::Tcp => TcpStream::connect(at).await.is_ok(),
            CheckKind::Http { path } => answers(at, path).await.unwrap_or(false),
        }
    };
    tokio::time::timeout(check.timeout, asked)
        .await
        .unwrap_or(false)
}

/// Whether a request is answered with a status of success or of a redirection.
async fn answers(at: SocketAddr, path: &str) -> Option<bool> {
    let stream = TcpStream::connect(at).await.ok()?;
    let connection = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connection.ok()?;
    let request = Request::get(path)
        .header(hyper::header::HOST, at.to_string())
        .header(hyper::header::USER_AGENT, "natgate")
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let asked = sender.send_request(request);
    tokio::pin!(asked);
    tokio::pin!(connection);
    let response = tokio::select! {
        response = &mut asked => response.ok()?,
        // The server closed; whatever it answered is there already.
        _ = &mut connection => asked.await.ok()?,
    };
    let status = response.status();
    Some(status.is_success() || status.is_redirection())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn check(kind: CheckKind) -> Check {
        Check {
            kind,
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 1,
            fall: 1,
        }
    }

    /// A server that answers every connection with `answer`, if there is one.
    async fn server(on: &str, answer: Option<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind(on).await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if let Some(answer) = answer {
                    let mut asked = [0; 1024];
                    let _ = stream.read(&mut asked).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                open.push(stream);
            }
        });
        at
    }

    #[test]
    fn servers_pass_by_what_they_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            for on in ["127.0.0.1:0", "[::1]:0"] {
                let http = check(CheckKind::Http {
                    path: "/healthz".to_owned(),
                });
                let tcp = check(CheckKind::Tcp);
                let good = server(on, Some("HTTP/1.1 204 No Content\r\n\r\n")).await;
                let moved =
                    server(on, Some("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n")).await;
                let bad = server(on, Some("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")).await;
                let mute = server(on, None).await;
                assert!(passes(good, &http).await && passes(moved, &http).await);
                assert!(!passes(bad, &http).await && !passes(mute, &http).await);
                assert!(passes(bad, &tcp).await && passes(mute, &tcp).await);
                let closed = TcpListener::bind(on).await.unwrap();
                let at = closed.local_addr().unwrap();
                drop(closed);
                assert!(!passes(at, &tcp).await && !passes(at, &http).await);
            }
        });
    }
}
