//! Proxy between an operator and the API server that injects faults: rejected writes, lost responses, closed watches,
//! and a network partition.

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::stream;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING},
};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{Client, Config, client::Body as ClientBody};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

/// A fault of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// HTTP 429 with `Retry-After`.
    TooManyRequests,
    /// HTTP 500.
    ServerError,
    /// HTTP 409.
    Conflict,
    /// The API server carries out the write, and its response is lost.
    ResponseLost,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 4] = [Self::TooManyRequests, Self::ServerError, Self::Conflict, Self::ResponseLost];
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A running proxy. Dropping this stops it.
#[derive(Debug)]
pub struct Proxy {
    state: Arc<ProxyState>,
    address: SocketAddr,
    serving: AbortHandle,
}

/// State shared by all connections.
struct ProxyState {
    config: Config,
    client: Client,
    /// `false` during a partition.
    connected: watch::Sender<bool>,
    watches: Mutex<CancellationToken>,
    faults: Mutex<FaultInjector>,
    calls: Mutex<Vec<String>>,
}

impl std::fmt::Debug for ProxyState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ProxyState").field("connected", &*self.connected.borrow()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct FaultInjector {
    /// Share of writes that fail, from 0 to 1.
    share: f64,
    random: SmallRng,
    injected: BTreeMap<Fault, usize>,
}

impl Proxy {
    /// Starts a proxy that calls the API server with `config`.
    ///
    /// # Errors
    /// Returns an error if no port is free.
    pub async fn start(config: Config) -> Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port is free on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let state = Arc::new(ProxyState {
            client: Client::try_from(config.clone())?,
            config,
            connected: watch::Sender::new(true),
            watches: Mutex::default(),
            faults: Mutex::new(FaultInjector {
                share: 0.0,
                random: SmallRng::seed_from_u64(0),
                injected: BTreeMap::new(),
            }),
            calls: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&state))).abort_handle();
        Ok(Arc::new(Self { state, address, serving }))
    }

    /// Address of the proxy; plain HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a share of all writes fail, each with a random fault of a generator with this seed.
    pub fn fail_writes(&self, share: f64, seed: u64) {
        let mut faults = lock(&self.state.faults);
        (faults.share, faults.random) = (share, SmallRng::seed_from_u64(seed));
    }

    /// Number of failed writes by fault.
    pub fn faults(&self) -> BTreeMap<Fault, usize> {
        lock(&self.state.faults).injected.clone()
    }

    /// All calls received, in order, as method, path and query: `GET /api/v1/pods?limit=500`.
    pub fn calls(&self) -> Vec<String> {
        lock(&self.state.calls).clone()
    }

    /// Closes every open watch. The clients must start new ones.
    pub fn close_watches(&self) {
        std::mem::take(&mut *lock(&self.state.watches)).cancel();
    }

    /// Starts a partition: nothing passes in either direction, and no connection breaks. Requests under way arrive
    /// after [`Proxy::heal`], even if the client has given up.
    pub fn partition(&self) {
        self.state.connected.send_replace(false);
    }

    /// Ends the partition.
    pub fn heal(&self) {
        self.state.connected.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
        self.close_watches();
    }
}

async fn serve(listener: TcpListener, state: Arc<ProxyState>) {
    // An accept fails only if file descriptors run out. The proxy then stops serving.
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve_connection(stream, Arc::clone(&state)));
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<ProxyState>) {
    let service = service_fn(move |request| forward(Arc::clone(&state), request));
    // Connections are dropped on purpose.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Forwards a request. An error drops the connection.
async fn forward(state: Arc<ProxyState>, request: Request<Incoming>) -> Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    // Hop-by-hop headers stay on their connection, and the proxy authenticates as the operator itself.
    for own in [HOST, CONNECTION, TRANSFER_ENCODING, AUTHORIZATION] {
        head.headers.remove(own);
    }
    head.version = http::Version::default();
    lock(&state.calls).push(format!("{} {}", head.method, head.uri));
    let is_watch = head.uri.query().is_some_and(|query| query.split('&').any(|part| part.starts_with("watch=")));
    let is_write = head.method != Method::GET;
    let request = Request::from_parts(head, ClientBody::from(body));
    if is_watch {
        state.wait_until_connected().await;
        return state.watch(request).await;
    }
    let fault = if is_write { state.next_fault() } else { None };
    // In a task of its own, so that the request arrives even if the client disconnects.
    let forwarder = Arc::clone(&state);
    let forwarded = tokio::spawn(async move {
        forwarder.wait_until_connected().await;
        if let Some(rejection) = fault.and_then(rejection) {
            return Ok(rejection);
        }
        let (mut head, body) = forwarder.client.send(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        prepare(&mut head.headers);
        anyhow::Ok(Response::from_parts(head, full_body(body)))
    });
    let answer = forwarded.await?;
    state.wait_until_connected().await;
    if fault == Some(Fault::ResponseLost) {
        anyhow::bail!("the response is lost");
    }
    answer
}

impl ProxyState {
    /// Waits for the end of a partition.
    async fn wait_until_connected(&self) {
        // This fails only if the sender is dropped, and `self` owns the sender.
        let _ = self.connected.subscribe().wait_for(|connected| *connected).await;
    }

    fn next_fault(&self) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let share = faults.share;
        if !faults.random.random_bool(share) {
            return None;
        }
        let fault = Fault::ALL[faults.random.random_range(0..Fault::ALL.len())];
        *faults.injected.entry(fault).or_default() += 1;
        Some(fault)
    }

    /// Forwards a watch on its own connection, so that it does not delay other calls.
    async fn watch(self: Arc<Self>, request: Request<ClientBody>) -> Result<Response<Body>> {
        let closed = lock(&self.watches).clone();
        let answer = Client::try_from(self.config.clone())?.send(request).await?;
        let (mut head, body) = answer.into_parts();
        prepare(&mut head.headers);
        let frames = stream::unfold((self, body, closed), async |(state, mut body, closed)| {
            let frame = async {
                let frame = body.frame().await?;
                state.wait_until_connected().await;
                Some(frame)
            };
            let frame = tokio::select! {
                frame = frame => frame?.map_err(io::Error::other),
                () = closed.cancelled() => Err(io::Error::other("the proxy closed the watch")),
            };
            let data = frame.map(|frame| Frame::data(frame.into_data().unwrap_or_default()));
            Some((data, (state, body, closed)))
        });
        Ok(Response::from_parts(head, StreamBody::new(frames).boxed_unsync()))
    }
}

fn prepare(headers: &mut HeaderMap) {
    for own in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(own);
    }
}

fn full_body(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The response of an API server that rejects a write, or `None` for [`Fault::ResponseLost`].
fn rejection(fault: Fault) -> Option<Response<Body>> {
    let (code, reason) = match fault {
        Fault::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
        Fault::ServerError => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Fault::Conflict => (StatusCode::CONFLICT, "Conflict"),
        Fault::ResponseLost => return None,
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "rejected by the fault injection proxy", "reason": reason, "code": code.as_u16(),
    });
    let mut answer = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    if fault == Fault::TooManyRequests {
        answer = answer.header(RETRY_AFTER, "1");
    }
    Some(answer.body(full_body(status.to_string().into())).expect("a status and two headers are a response"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
