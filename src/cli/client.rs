//! The API client: one request a connection, over the unix socket.

use crate::control::api::{
    API_VERSION, Failure, Filter, Item, Line, ListEnd, Listing, VERSION_HEADER,
};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens on the socket, or it broke: exit code 4.
    Unreachable(String),
    /// The daemon's own answer is an error.
    Failed(Failure),
    /// The answer is not what was asked for.
    Garbled(String),
}

impl From<Failure> for ClientError {
    fn from(failure: Failure) -> Self {
        ClientError::Failed(failure)
    }
}

/// A daemon's API.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon behind a socket; nothing is sent yet.
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    /// Reads a document below `/v1/`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.document(Method::GET, path, Bytes::new()).await
    }

    /// Asks for a change below `/v1/`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: String,
    ) -> Result<T, ClientError> {
        self.document(Method::POST, path, body.into()).await
    }

    /// Streams a listing: `each` is called for every object as it arrives.
    ///
    /// # Errors
    /// See [`ClientError`]; a listing that ends early is an error.
    pub async fn list(
        &self,
        listing: Listing,
        filter: &Filter,
        mut each: impl FnMut(Item),
    ) -> Result<ListEnd, ClientError> {
        let path = format!("{}?{}", listing.name(), filter.to_query());
        let mut response = self.send(Method::GET, &path, Bytes::new()).await?;
        let mut pending = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|e| ClientError::Unreachable(e.to_string()))?;
            pending.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            let mut start = 0;
            while let Some(length) = pending[start..].iter().position(|&b| b == b'\n') {
                let line: Line<serde_json::Value> = parse(&pending[start..start + length])?;
                start += length + 1;
                match line {
                    Line::Item(value) => each(
                        Item::decode(listing, value)
                            .map_err(|e| ClientError::Garbled(e.to_string()))?,
                    ),
                    Line::End(end) => return Ok(end),
                    Line::Error(failure) => return Err(failure.into()),
                }
            }
            pending.drain(..start);
        }
        Err(ClientError::Unreachable("the listing broke off".into()))
    }

    async fn document<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        parse(&collect(response).await?)
    }

    /// Sends a request; an error status becomes the failure in its body.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |why: String| ClientError::Unreachable(why);
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("host", "natgate")
            .header(VERSION_HEADER, API_VERSION)
            .body(Full::new(body))
            .map_err(|e| ClientError::Garbled(e.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = collect(response).await?;
        Err(serde_json::from_slice::<Failure>(&body).map_or_else(
            |_| ClientError::Garbled(format!("HTTP status {status}")),
            ClientError::Failed,
        ))
    }
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = response.into_body().collect().await;
    Ok(body
        .map_err(|e| ClientError::Unreachable(e.to_string()))?
        .to_bytes())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|e| ClientError::Garbled(e.to_string()))
}
