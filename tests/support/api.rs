//! A client of one or more instances; its requests go to them in turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::{Instance, Listener};

/// The client. Clones share their turn.
#[derive(Clone)]
pub struct Api {
    client: reqwest::Client,
    bases: Arc<Vec<String>>,
    turn: Arc<AtomicUsize>,
}

/// A request being put together.
pub struct Call<'a> {
    api: &'a Api,
    request: reqwest::RequestBuilder,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    /// The body if it is JSON, else null.
    pub body: Value,
}

impl Api {
    /// Over these instances.
    pub fn over(instances: &[&Instance]) -> Self {
        Self::at(instances.iter().map(|instance| instance.base.clone()).collect())
    }

    /// Over these addresses.
    pub fn at(bases: Vec<String>) -> Self {
        let client = reqwest::Client::builder().pool_max_idle_per_host(256).build().expect("a client");
        Self { client, bases: Arc::new(bases), turn: Arc::default() }
    }

    /// A request to the next instance in turn.
    pub fn call(&self, method: Method, path: &str) -> Call<'_> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let base = &self.bases[turn % self.bases.len()];
        Call { api: self, request: self.client.request(method, format!("{base}{path}")) }
    }

    pub fn get(&self, path: &str) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> Call<'_> {
        self.call(Method::POST, path)
    }

    pub fn patch(&self, path: &str) -> Call<'_> {
        self.call(Method::PATCH, path)
    }

    pub fn delete(&self, path: &str) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    /// The metrics of an instance that are whole numbers, by series: `frontrow_db_pool_connections{state="used"}`. Only
    /// processes have metrics of their own; instances inside the test share them.
    pub async fn metrics(&self) -> HashMap<String, u64> {
        let page = self.get("/metrics").send().await;
        let text = String::from_utf8_lossy(&page.bytes).into_owned();
        let series = text.lines().filter_map(|line| line.rsplit_once(' '));
        series.filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?))).collect()
    }

    /// One of them; 0 where it is not there yet.
    pub async fn metric(&self, series: &str) -> u64 {
        self.metrics().await.get(series).copied().unwrap_or_default()
    }

    /// A GET that may fail to connect.
    pub async fn try_get(&self, path: &str) -> Option<Reply> {
        self.get(path).try_send().await.ok()
    }
}

impl Call<'_> {
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn ticket(self, ticket: &str) -> Self {
        self.header("queue-ticket", ticket)
    }

    pub fn pass(self, pass: &str) -> Self {
        self.header("queue-pass", pass)
    }

    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        Self { request: self.request.header(name, value), ..self }
    }

    /// A header of bytes that need not be text.
    pub fn bytes_header(self, name: &str, value: &[u8]) -> Self {
        let value = reqwest::header::HeaderValue::from_bytes(value).expect("bytes that a header may hold");
        Self { request: self.request.header(name, value), ..self }
    }

    pub fn json(self, body: &Value) -> Self {
        Self { request: self.request.json(body), ..self }
    }

    /// A body without a type.
    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self { request: self.request.body(body), ..self }
    }

    pub fn raw(self, media: &str, body: impl Into<reqwest::Body>) -> Self {
        Self { request: self.request.header("content-type", media).body(body), ..self }
    }

    pub async fn try_send(self) -> reqwest::Result<Reply> {
        let mut response = self.request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let is_endless = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let bytes = if is_endless { first_event(&mut response).await? } else { response.bytes().await? };
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(Reply { status, headers, bytes, body })
    }

    /// Sends, and reads the answer as it comes.
    pub async fn listen(self) -> Listener {
        Listener::to(self.request.send().await.expect("an answer"))
    }

    /// Sends and reads the answer; a request without an answer fails the test.
    pub async fn send(self) -> Reply {
        let bases = self.api.bases.clone();
        self.try_send().await.unwrap_or_else(|error| panic!("no answer from {bases:?}: {error:?}"))
    }
}

/// What comes until an event is complete: the rest would be waited for without end.
async fn first_event(response: &mut reqwest::Response) -> reqwest::Result<Bytes> {
    let mut read = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        read.extend_from_slice(&chunk);
        let text = String::from_utf8_lossy(&read);
        if text.split_once("data: ").is_some_and(|(_, rest)| rest.contains("\n\n")) {
            break;
        }
    }
    Ok(read.into())
}

impl Reply {
    /// Asserts the status and gives the body.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self.body
    }

    /// Asserts a problem of this status and code, with all that every problem has, and gives its body.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Value {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        assert_eq!(self.status, status, "{text}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{text}");
        assert_eq!(self.body["code"], code, "{text}");
        assert_eq!(self.body["status"], status, "{text}");
        assert_eq!(self.body["type"], format!("/problems/{code}"));
        assert_eq!(self.body["request_id"], self.headers["x-request-id"].to_str().expect("ASCII"));
        assert!(self.body["title"].is_string() && self.body["detail"].is_string());
        self.body
    }

    /// A header as text, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
