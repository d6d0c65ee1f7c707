//! HTTP API of the simulated runners.

use super::{
    hostile,
    runner::{Behaviour, Runner},
};
use bytes::Bytes;
use camofleet_auth::token::Caller;
use camofleet_runner_api::{BindRequest, ErrorReason, ErrorResponse};
use futures::stream;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

/// Interval at which an unchanged state is sent again, as by the real runner.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Delay after a failed accept, which means that file descriptors ran out.
const RETRY_DELAY: Duration = Duration::from_millis(50);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves a runner until it is gone.
pub(super) async fn serve(listener: std::net::TcpListener, runner: Arc<Runner>) {
    let listener = TcpListener::from_std(listener).expect("a non-blocking listener can be registered with the runtime");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = runner.gone() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(RETRY_DELAY).await;
            continue;
        };
        // Without TCP_NODELAY, small responses wait for acknowledgements. A closed connection also fails on its next
        // use.
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve_connection(stream, Arc::clone(&runner)));
    }
}

async fn serve_connection(stream: TcpStream, runner: Arc<Runner>) {
    let closed = runner.connection_token();
    let service = service_fn(move |request| {
        let runner = Arc::clone(&runner);
        async move { Ok::<_, Infallible>(answer(&runner, request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client may disconnect at any time.
        _ = connection => {}
        () = closed.cancelled() => {}
    }
}

async fn answer(runner: &Arc<Runner>, request: Request<Incoming>) -> Response<Body> {
    let behaviour = *runner.behaviour().borrow();
    runner.count_call();
    match behaviour {
        Behaviour::Hangs => std::future::pending().await,
        Behaviour::Garbage => return plain(StatusCode::OK, "<html>It works!</html>"),
        Behaviour::Slow(time) => tokio::time::sleep(time).await,
        Behaviour::Hostile(attack) => {
            if let Some(answer) = hostile::answer(attack, runner, &request) {
                return answer;
            }
        }
        Behaviour::Normal | Behaviour::OmitsSessions | Behaviour::NoEvents => {}
    }
    route(runner, request).await.unwrap_or_else(|rejection| {
        let status = StatusCode::from_u16(rejection.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json(status, &rejection)
    })
}

async fn route(runner: &Arc<Runner>, request: Request<Incoming>) -> Result<Response<Body>, ErrorResponse> {
    let (head, body) = request.into_parts();
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    if let (&Method::GET, ["healthz" | "readyz"]) = (&head.method, path.as_slice()) {
        return Ok(plain(StatusCode::OK, "ok\n"));
    }
    let caller = runner.authenticate(&head.headers)?;
    match (&head.method, path.as_slice()) {
        (&Method::GET, ["v1", "sessions"]) => Ok(json(StatusCode::OK, &runner.state())),
        (&Method::GET, ["v1", "events"]) => {
            operator_epoch(&caller)?;
            Ok(events(Arc::clone(runner)))
        }
        (&Method::PUT, ["v1", "sessions", uid]) => {
            let epoch = operator_epoch(&caller)?;
            runner.record_traceparent(uid, &head.headers);
            let bytes = body.collect().await.map_err(|error| invalid(error.to_string()))?.to_bytes();
            let request: BindRequest = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
            if request.idle_timeout_seconds == 0 || request.max_lifetime_seconds == 0 {
                return Err(invalid("idleTimeoutSeconds and maxLifetimeSeconds must be at least 1".to_owned()));
            }
            Ok(json(StatusCode::OK, &runner.bind(epoch, uid, request)?))
        }
        (&Method::DELETE, ["v1", "sessions", uid]) => {
            runner.end(operator_epoch(&caller)?, uid)?;
            Ok(plain(StatusCode::NO_CONTENT, ""))
        }
        (&Method::GET, ["v1", "sessions", uid]) => {
            check_session(&caller, uid)?;
            Ok(json(StatusCode::OK, &runner.report(uid)?))
        }
        (&Method::POST, ["v1", "sessions", uid, "touch"]) => {
            check_session(&caller, uid)?;
            runner.touch(uid)?;
            Ok(plain(StatusCode::NO_CONTENT, ""))
        }
        _ => Ok(plain(StatusCode::NOT_FOUND, "no such path\n")),
    }
}

/// The operator's epoch; other callers are rejected.
fn operator_epoch(caller: &Caller) -> Result<u64, ErrorResponse> {
    match caller {
        Caller::Operator { epoch } => Ok(*epoch),
        Caller::Gateway { .. } => Err(forbidden("only the operator may make this call")),
    }
}

/// Rejects a gateway whose token is for another session.
fn check_session(caller: &Caller, uid: &str) -> Result<(), ErrorResponse> {
    match caller {
        Caller::Operator { .. } => Ok(()),
        Caller::Gateway { session, .. } if session == uid => Ok(()),
        Caller::Gateway { .. } => Err(forbidden("the token is for another session")),
    }
}

fn forbidden(why: &str) -> ErrorResponse {
    ErrorResponse { reason: ErrorReason::Forbidden, message: why.to_owned() }
}

fn invalid(message: String) -> ErrorResponse {
    ErrorResponse { reason: ErrorReason::Invalid, message }
}

/// A stream of the whole state: at once, after each change, and at every heartbeat.
fn events(runner: Arc<Runner>) -> Response<Body> {
    let mut changes = runner.changes();
    changes.mark_changed();
    let lines = stream::unfold((runner, changes), async |(runner, mut changes)| {
        let line = next_line(&runner, &mut changes).await?;
        Some((Ok(Frame::data(line)), (runner, changes)))
    });
    let response = Response::builder().header(CONTENT_TYPE, "application/x-ndjson");
    response.body(StreamBody::new(lines).boxed_unsync()).expect("one header is a response")
}

async fn next_line(runner: &Runner, changes: &mut watch::Receiver<u64>) -> Option<Bytes> {
    if let Ok(Err(_)) = timeout(HEARTBEAT, changes.changed()).await {
        return None;
    }
    changes.mark_unchanged();
    let mut behaviour = runner.behaviour();
    // A change of behaviour closes all connections, including this one.
    behaviour.wait_for(|behaviour| *behaviour != Behaviour::NoEvents).await.ok()?;
    let mut line = serde_json::to_vec(&runner.state()).expect("plain data serializes");
    line.push(b'\n');
    Some(line.into())
}

fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(document).expect("plain data serializes");
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    response.body(Full::from(text).boxed_unsync()).expect("a status and one header are a response")
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let response = Response::builder().status(status);
    response.body(Full::from(text).boxed_unsync()).expect("a status is a response")
}
