//! A proxy between an operator and the API server, where their connection fails: calls are refused, answers are lost after
//! the call was carried out, watches end, and for a while nothing passes at all.

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

/// A way in which a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// 429 with `Retry-After`.
    TooManyRequests,
    /// 500.
    ServerError,
    /// 409.
    Conflict,
    /// It was carried out, and nobody is told.
    ResponseLost,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::TooManyRequests, Self::ServerError, Self::Conflict, Self::ResponseLost];
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The proxy. It is gone when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    state: Arc<ProxyState>,
    address: SocketAddr,
    serving: AbortHandle,
}

/// What calls go through.
struct ProxyState {
    config: Config,
    client: Client,
    /// Whether anything passes.
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
    /// The share of writes that fail.
    share: f64,
    random: SmallRng,
    injected: BTreeMap<Fault, usize>,
}

impl Proxy {
    /// Starts it. It calls the API server as that configuration says.
    ///
    /// # Errors
    /// When there is no port for it.
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

    /// Where it is called, by plain HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on such a share of writes fails, each in a way that chance chooses, by that seed.
    pub fn fail_writes(&self, share: f64, seed: u64) {
        let mut faults = lock(&self.state.faults);
        (faults.share, faults.random) = (share, SmallRng::seed_from_u64(seed));
    }

    /// How often writes failed, by the way in which they did.
    pub fn faults(&self) -> BTreeMap<Fault, usize> {
        lock(&self.state.faults).injected.clone()
    }

    /// All calls that it was sent, in order: method, path and query, as in `GET /api/v1/pods?limit=500`.
    pub fn calls(&self) -> Vec<String> {
        lock(&self.state.calls).clone()
    }

    /// Ends every watch that is open. Those who watched have to begin again.
    pub fn close_watches(&self) {
        std::mem::take(&mut *lock(&self.state.watches)).cancel();
    }

    /// Nothing passes any more, in either direction, and no connection is seen to break. What is on its way arrives after
    /// [`Proxy::join`], whoever still waits for it.
    pub fn partition(&self) {
        self.state.connected.send_replace(false);
    }

    /// Everything passes again.
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
    // Accepting fails only for want of file descriptors; whoever calls then sees that nobody answers.
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve_connection(stream, Arc::clone(&state)));
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<ProxyState>) {
    let service = service_fn(move |request| forward(Arc::clone(&state), request));
    // A connection that was dropped on purpose is no news.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// An error drops the connection.
async fn forward(state: Arc<ProxyState>, request: Request<Incoming>) -> Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    // How one connection carries it is nobody else's, and the caller is known to be the operator.
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
    // Once sent, it arrives, whether the caller still waits or not.
    let through = Arc::clone(&state);
    let carried_out = tokio::spawn(async move {
        through.wait_until_connected().await;
        if let Some(refusal) = fault.and_then(refusal) {
            return Ok(refusal);
        }
        let (mut head, body) = through.client.send(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        prepare(&mut head.headers);
        anyhow::Ok(Response::from_parts(head, whole(body)))
    });
    let answer = carried_out.await?;
    state.wait_until_connected().await;
    if fault == Some(Fault::ResponseLost) {
        anyhow::bail!("the answer is lost");
    }
    answer
}

impl ProxyState {
    /// Waits until something passes.
    async fn wait_until_connected(&self) {
        // It fails only when nobody can part or join them any more.
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

    /// On a connection of its own, as watches are that should not wait for others.
    async fn watch(self: Arc<Self>, request: Request<ClientBody>) -> Result<Response<Body>> {
        let cut = lock(&self.watches).clone();
        let answer = Client::try_from(self.config.clone())?.send(request).await?;
        let (mut head, body) = answer.into_parts();
        prepare(&mut head.headers);
        let frames = stream::unfold((self, body, cut), async |(state, mut body, cut)| {
            let frame = async {
                let frame = body.frame().await?;
                state.wait_until_connected().await;
                Some(frame)
            };
            let frame = tokio::select! {
                frame = frame => frame?.map_err(io::Error::other),
                () = cut.cancelled() => Err(io::Error::other("the watch was cut")),
            };
            let data = frame.map(|frame| Frame::data(frame.into_data().unwrap_or_default()));
            Some((data, (state, body, cut)))
        });
        Ok(Response::from_parts(head, StreamBody::new(frames).boxed_unsync()))
    }
}

fn prepare(headers: &mut HeaderMap) {
    for own in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(own);
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The API server's answer to what it does not carry out.
fn refusal(fault: Fault) -> Option<Response<Body>> {
    let (code, reason) = match fault {
        Fault::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
        Fault::ServerError => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Fault::Conflict => (StatusCode::CONFLICT, "Conflict"),
        Fault::ResponseLost => return None,
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the proxy of a test refuses it", "reason": reason, "code": code.as_u16(),
    });
    let mut answer = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    if fault == Fault::TooManyRequests {
        answer = answer.header(RETRY_AFTER, "1");
    }
    Some(answer.body(whole(status.to_string().into())).expect("a status and two headers are a response"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
