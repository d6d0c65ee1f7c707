//! The operator's client for runners.

use crate::{
    BindRequest, BindResponse, ErrorReason, ErrorResponse, HEADER_READ_TIMEOUT, PORT, RunnerState, TRACEPARENT,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http::{
    Method, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE},
    request,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{error::Error, fmt::Display, io, net::IpAddr, time::Duration};
use tokio::io::AsyncRead;
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::StreamReader,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// From the dial to the last byte of the response. A hot bind takes milliseconds; a runner that needs longer is
/// overloaded or gone.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence on an event stream. Runners send a line at least every 10 s, so two missed lines and some slack
/// mean that the stream is dead.
const EVENT_TIMEOUT: Duration = Duration::from_secs(25);
/// Interval of the TCP probes that detect a lost node on an idle connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// Largest response body, in bytes. Pool owners choose the runner image, so the operator does not trust its responses
/// and reads none of them without a limit.
const MAX_BODY: usize = 64 << 10;
/// Largest response head, in bytes. hyper's own limit is 400 KiB.
const MAX_HEAD: usize = 16 << 10;
/// Longest message of a runner that is passed on, in characters. Messages end up in logs and conditions.
const MAX_MESSAGE_CHARS: usize = 1024;

/// HTTP client for runners. Clones are cheap and share a connection pool. It uses no proxy, because runners are pods,
/// and follows no redirect, because a redirect would let a runner choose where the operator's request goes.
#[derive(Clone, Debug)]
pub struct RunnerClient {
    http: Client<HttpConnector, Full<Bytes>>,
}

/// A failed call to a runner. Its messages contain at most 1024 characters that the runner sent.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The runner rejected the call, so this attempt had no effect.
    #[error("the runner rejected the call: {0}")]
    Rejected(#[from] ErrorResponse),
    /// The response does not conform to the runner's API.
    #[error("the runner sent an invalid response: {0}")]
    InvalidResponse(String),
    /// The connection failed or timed out; the runner may have processed the call.
    #[error("the runner could not be reached: {0}")]
    Unreachable(String),
}

impl CallError {
    fn invalid_response(cause: impl Display) -> Self {
        Self::InvalidResponse(truncate(&cause.to_string()))
    }

    fn unreachable(cause: impl Display) -> Self {
        Self::Unreachable(truncate(&cause.to_string()))
    }

    /// Converts an error of the HTTP client or of a response body.
    fn transport(error: &(dyn Error + 'static)) -> Self {
        // The outermost error ("client error (Connect)") does not name the cause, so the message contains the whole
        // chain.
        let chain = || std::iter::successors(Some(error), |&error| error.source());
        let text = chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let is_parse = |error: &(dyn Error + 'static)| error.downcast_ref().is_some_and(hyper::Error::is_parse);
        if chain().any(is_parse) { Self::invalid_response(text) } else { Self::unreachable(text) }
    }

    fn no_state_within(time: Duration) -> Self {
        Self::Unreachable(format!("no complete state within {} s", time.as_secs()))
    }
}

/// One line of an event stream, not yet parsed. The reader parses it, so that states that it skips cost little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedState(String);

impl EncodedState {
    /// Length in bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Parses the line.
    ///
    /// # Errors
    /// [`CallError::InvalidResponse`] when the line is not a [`RunnerState`].
    pub fn decode(&self) -> Result<RunnerState, CallError> {
        serde_json::from_str(&self.0).map_err(CallError::invalid_response)
    }
}

impl From<&RunnerState> for EncodedState {
    fn from(state: &RunnerState) -> Self {
        Self(serde_json::to_string(state).expect("a state has no map with keys other than strings"))
    }
}

impl Default for RunnerClient {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(TCP_KEEPALIVE));
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(HEADER_READ_TIMEOUT / 2)
            .pool_timer(TokioTimer::new())
            .http1_max_buf_size(MAX_HEAD)
            .build(connector);
        Self { http }
    }
}

impl RunnerClient {
    /// Binds a session. The call is idempotent: repeated for the same UID, it returns the result of the earlier
    /// attempt. `traceparent` is the header of that name (W3C Trace Context), the parent of the runner's spans.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with [`ErrorReason::NoFreeSlot`], [`ErrorReason::Draining`] or [`ErrorReason::Invalid`]
    /// when the runner did not bind the session; the session then does not exist there. After any other error it may
    /// exist, because an earlier attempt can have bound it.
    pub async fn bind(
        &self,
        address: IpAddr,
        token: &str,
        uid: &str,
        request: &BindRequest,
        traceparent: Option<&str>,
    ) -> Result<BindResponse, CallError> {
        let body = serde_json::to_vec(request).expect("a request has no map with keys other than strings");
        let mut call = request_head(Method::PUT, address, &format!("/v1/sessions/{uid}"), token)
            .header(CONTENT_TYPE, "application/json");
        if let Some(traceparent) = traceparent {
            call = call.header(TRACEPARENT, traceparent);
        }
        let answer = self.call(call, body.into()).await?;
        serde_json::from_slice(&answer).map_err(CallError::invalid_response)
    }

    /// Ends a session, or acknowledges that it has ended. Succeeds when the runner does not know the session.
    pub async fn end(&self, address: IpAddr, token: &str, uid: &str) -> Result<(), CallError> {
        let call = request_head(Method::DELETE, address, &format!("/v1/sessions/{uid}"), token);
        match self.call(call, Bytes::new()).await {
            Err(CallError::Rejected(ErrorResponse { reason: ErrorReason::UnknownSession, .. })) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Follows the state of a runner with that number of slots: the current state, one after each change, and
    /// repeated states as a heartbeat. Returns once the first state has arrived. The stream ends with an error when
    /// the runner sends nothing for 25 s or a line longer than [`RunnerState::max_bytes`].
    ///
    /// # Errors
    /// When the runner rejects the call, or the first state does not arrive within 5 s.
    pub async fn events(
        &self,
        address: IpAddr,
        token: &str,
        slots: u32,
    ) -> Result<impl Stream<Item = Result<EncodedState, CallError>> + Send + use<>, CallError> {
        let opening = async {
            let call = request_head(Method::GET, address, "/v1/events", token);
            let opened = check_status(self.send(call, Bytes::new()).await?).await?;
            let bytes = opened.into_body().into_data_stream().map_err(io::Error::other);
            let limit = RunnerState::max_bytes(slots);
            let mut states =
                StateLines(FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(limit)));
            let first = states.next().await.unwrap_or_else(|| Err(CallError::unreachable("it sent no state")))?;
            Ok::<_, CallError>((first, states))
        };
        let opened =
            tokio::time::timeout(CALL_TIMEOUT, opening).await.map_err(|_| CallError::no_state_within(CALL_TIMEOUT))?;
        let (first, states) = opened?;
        let later = stream::unfold(Some(states), |states| async {
            let mut states = states?;
            let next = tokio::time::timeout(EVENT_TIMEOUT, states.next()).await;
            let state = next.unwrap_or_else(|_| Some(Err(CallError::no_state_within(EVENT_TIMEOUT))))?;
            let states = state.is_ok().then_some(states);
            Some((state, states))
        });
        Ok(stream::once(async { Ok(first) }).chain(later))
    }

    /// Returns the body of a successful response.
    async fn call(&self, head: request::Builder, body: Bytes) -> Result<Bytes, CallError> {
        let call = async { read_body(check_status(self.send(head, body).await?).await?).await };
        let answer = tokio::time::timeout(CALL_TIMEOUT, call).await;
        answer.unwrap_or_else(|_| {
            Err(CallError::unreachable(format_args!("no complete response within {} s", CALL_TIMEOUT.as_secs())))
        })
    }

    async fn send(&self, head: request::Builder, body: Bytes) -> Result<Response<Incoming>, CallError> {
        let request = head.body(Full::new(body)).map_err(|error| CallError::transport(&error))?;
        self.http.request(request).await.map_err(|error| CallError::transport(&error))
    }
}

fn request_head(method: Method, address: IpAddr, path: &str, token: &str) -> request::Builder {
    let authority = std::net::SocketAddr::from((address, PORT));
    Request::builder()
        .method(method)
        .uri(format!("http://{authority}{path}"))
        .header(AUTHORIZATION, format!("Bearer {token}"))
}

/// The lines of an event stream.
struct StateLines<R>(FramedRead<R, LinesCodec>);

impl<R: AsyncRead + Unpin> StateLines<R> {
    async fn next(&mut self) -> Option<Result<EncodedState, CallError>> {
        let line = self.0.next().await?;
        Some(match line {
            Ok(line) => Ok(EncodedState(line)),
            Err(LinesCodecError::MaxLineLengthExceeded) => {
                Err(CallError::invalid_response("a state is larger than the runner's number of slots allows"))
            }
            Err(LinesCodecError::Io(error)) => Err(CallError::transport(&error)),
        })
    }
}

async fn check_status(response: Response<Incoming>) -> Result<Response<Incoming>, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = read_body(response).await?;
    Err(match serde_json::from_slice::<ErrorResponse>(&body) {
        Ok(response) => CallError::Rejected(ErrorResponse { message: truncate(&response.message), ..response }),
        Err(_) => CallError::invalid_response(format_args!("{status}: {}", String::from_utf8_lossy(&body))),
    })
}

async fn read_body(response: Response<Incoming>) -> Result<Bytes, CallError> {
    let status = response.status();
    match Limited::new(response.into_body(), MAX_BODY).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(CallError::invalid_response(format_args!("{status}: a body of more than {MAX_BODY} bytes")))
        }
        Err(error) => Err(CallError::transport(&*error)),
    }
}

fn truncate(text: &str) -> String {
    text.chars().take(MAX_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::{Display, StartUrlWait};
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    /// What a hostile runner sends after it has received the head of a request.
    #[derive(Clone)]
    enum Reply {
        /// These bytes, then the end of the connection.
        Complete(Vec<u8>),
        /// The first bytes once, then the second ones repeatedly until the client stops reading.
        Endless(Vec<u8>, Vec<u8>),
        /// These bytes, then nothing on a connection that stays open.
        Stalled(Vec<u8>),
    }

    struct HostileRunner {
        address: IpAddr,
        requests: Arc<AtomicUsize>,
        sent: Arc<AtomicUsize>,
    }

    /// Starts a runner on its own loopback address, because all runners listen on the same port.
    async fn runner(last: u8, reply: Reply) -> HostileRunner {
        let address = IpAddr::from([127, 83, 0, last]);
        let listener = TcpListener::bind((address, PORT)).await.unwrap();
        let (requests, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (requests.clone(), sent.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counters.0.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, reply.clone(), counters.1.clone()));
            }
        });
        HostileRunner { address, requests, sent }
    }

    async fn serve(mut stream: TcpStream, reply: Reply, sent: Arc<AtomicUsize>) {
        let mut head = Vec::new();
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let (first, repeated) = match &reply {
            Reply::Complete(bytes) => (bytes, None),
            Reply::Stalled(bytes) => (bytes, Some(None)),
            Reply::Endless(bytes, repeated) => (bytes, Some(Some(repeated))),
        };
        let _ = stream.write_all(first).await;
        match repeated {
            None => {}
            // Reads until the client closes the connection.
            Some(None) => while stream.read_buf(&mut head).await.unwrap_or(0) > 0 {},
            Some(Some(repeated)) => {
                while stream.write_all(repeated).await.is_ok() {
                    sent.fetch_add(repeated.len(), Ordering::Relaxed);
                }
            }
        }
    }

    fn head(status: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n").into_bytes()
    }

    fn request() -> BindRequest {
        BindRequest {
            namespace: "ns".into(),
            name: "s".into(),
            display: Display::Headless,
            idle_timeout_seconds: 60,
            max_lifetime_seconds: 60,
            start_url: None,
            start_url_wait: StartUrlWait::default(),
            reconnect_grace_seconds: 60,
        }
    }

    /// Makes all three calls, each of which must fail within its own deadline.
    async fn errors_of_all_calls(address: IpAddr) -> [CallError; 3] {
        let client = RunnerClient::default();
        let calls = async {
            let bind = client.bind(address, "token", "uid", &request(), None).await.unwrap_err();
            let end = client.end(address, "token", "uid").await.unwrap_err();
            [bind, end, client.events(address, "token", 1).await.err().unwrap()]
        };
        tokio::time::timeout(CALL_TIMEOUT * 12, calls).await.expect("a call has no deadline")
    }

    #[tokio::test]
    async fn limits_the_body_of_an_error_response() {
        let runner = runner(1, Reply::Endless(head("500 Internal Server Error"), vec![b'x'; 4096])).await;
        for error in errors_of_all_calls(runner.address).await {
            assert!(
                matches!(&error, CallError::InvalidResponse(message) if message.contains("more than 65536 bytes")),
                "{error}"
            );
        }
        // Socket buffers hold far less than a runner can send within a call's deadline.
        assert!(runner.sent.load(Ordering::Relaxed) < 3 * (32 << 20), "{:?}", runner.sent);
    }

    #[tokio::test]
    async fn limits_the_body_of_a_bind_response() {
        let runner = runner(2, Reply::Endless(head("200 OK"), vec![b' '; 4096])).await;
        let error = RunnerClient::default().bind(runner.address, "token", "uid", &request(), None).await.unwrap_err();
        assert!(
            matches!(&error, CallError::InvalidResponse(message) if message.contains("more than 65536 bytes")),
            "{error}"
        );
    }

    /// With the clock paused, tokio advances it as soon as every task waits for a timer, so a call without a deadline
    /// would hang.
    #[tokio::test]
    async fn times_out_when_a_response_or_the_first_state_stalls() {
        for (last, begun) in [
            (3, head("500 Internal Server Error")),
            (4, [head("500 Internal Server Error"), b"no ".to_vec()].concat()),
            (5, b"HTTP/1.1 200 OK\r\n".to_vec()),
        ] {
            let runner = runner(last, Reply::Stalled(begun)).await;
            tokio::time::pause();
            for error in errors_of_all_calls(runner.address).await {
                assert!(matches!(error, CallError::Unreachable(_)), "{error}");
            }
            tokio::time::resume();
        }
        let runner = runner(6, Reply::Stalled([head("200 OK"), b"{\"bootId\":".to_vec()].concat())).await;
        tokio::time::pause();
        let error = RunnerClient::default().events(runner.address, "token", 1).await.err().unwrap();
        assert!(matches!(error, CallError::Unreachable(_)), "{error}");
    }

    /// hyper's default limit of 400 KiB would accept these responses.
    #[tokio::test]
    async fn limits_response_headers_to_16_kib() {
        let answer = |bytes: usize| {
            let (begin, end) = ("HTTP/1.1 204 No Content\r\nx: ", "\r\nconnection: close\r\n\r\n");
            format!("{begin}{}{end}", "x".repeat(bytes - begin.len() - end.len())).into_bytes()
        };
        let good = runner(14, Reply::Complete(answer(MAX_HEAD - 1024))).await;
        RunnerClient::default().end(good.address, "token", "uid").await.unwrap();
        let large = runner(15, Reply::Stalled(answer(MAX_HEAD + 1024))).await;
        for error in errors_of_all_calls(large.address).await {
            assert!(matches!(&error, CallError::InvalidResponse(text) if text.contains("too large")), "{error}");
        }
    }

    /// The limit counts characters, not bytes, and the client adds only a short prefix to a truncated message.
    #[tokio::test]
    async fn truncates_messages_from_runners_to_1024_characters() {
        let long = "\u{e4}".repeat(30_000);
        let answers = [
            (
                "409 Conflict",
                serde_json::to_vec(&ErrorResponse { reason: ErrorReason::WrongPhase, message: long.clone() }),
            ),
            ("400 Bad Request", serde_json::to_vec(&serde_json::json!({ "reason": long, "message": "" }))),
            (
                "200 OK",
                serde_json::to_vec(
                    &serde_json::json!({ "session": { "uid": "", "namespace": "", "name": "", "phase": long } }),
                ),
            ),
        ];
        for (last, (status, body)) in (16..).zip(answers) {
            let body = body.unwrap();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
            let runner = runner(last, Reply::Stalled([head.into_bytes(), body].concat())).await;
            let client = RunnerClient::default();
            let error = client.bind(runner.address, "token", "uid", &request(), None).await.unwrap_err();
            let text = match &error {
                CallError::Rejected(response) => &response.message,
                CallError::InvalidResponse(text) | CallError::Unreachable(text) => text,
            };
            assert!(text.contains("\u{e4}\u{e4}"), "{error}");
            assert_eq!(text.chars().count(), MAX_MESSAGE_CHARS, "{error}");
        }
        let state = EncodedState(serde_json::json!({ "bootId": "", "engine": long }).to_string());
        let error = state.decode().unwrap_err();
        assert!(error.to_string().chars().count() < MAX_MESSAGE_CHARS + 100, "{error}");
    }

    #[tokio::test]
    async fn reports_the_cause_of_a_connection_error() {
        let nothing_listens = IpAddr::from([127, 83, 0, 19]);
        for error in errors_of_all_calls(nothing_listens).await {
            let text = error.to_string();
            assert!(matches!(error, CallError::Unreachable(_)) && text.contains("Connection refused"), "{text}");
        }
    }

    #[tokio::test]
    async fn does_not_follow_redirects() {
        let redirect_target = runner(8, Reply::Complete(head("200 OK"))).await;
        for (last, status) in [(9, "302 Found"), (10, "307 Temporary Redirect"), (11, "308 Permanent Redirect")] {
            let target = format!(
                "HTTP/1.1 {status}\r\nlocation: http://{}:{PORT}/\r\ncontent-length: 0\r\n\r\n",
                redirect_target.address
            );
            let runner = runner(last, Reply::Complete(target.into_bytes())).await;
            for error in errors_of_all_calls(runner.address).await {
                assert!(matches!(error, CallError::InvalidResponse(_)), "{error}");
            }
        }
        assert_eq!(redirect_target.requests.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn limits_a_state_to_the_size_that_the_slots_allow() {
        let line = |error_length: usize| {
            let state =
                RunnerState { slots: 1, launch_error: Some("x".repeat(error_length)), ..RunnerState::default() };
            [head("200 OK"), serde_json::to_vec(&state).unwrap(), b"\n".to_vec()].concat()
        };
        let limit = RunnerState::max_bytes(1);
        // Far above the limit for heads, and just below the limit for states.
        let good =
            runner(12, Reply::Endless(head("200 OK"), line(limit - 1024)[head("200 OK").len()..].to_vec())).await;
        let client = RunnerClient::default();
        let mut states = std::pin::pin!(client.events(good.address, "token", 1).await.unwrap());
        for _ in 0..3 {
            let state = states.next().await.unwrap().unwrap();
            assert!(state.size() > limit - 1024);
            assert_eq!(state.decode().unwrap().slots, 1);
        }
        let large = runner(13, Reply::Endless(line(limit), vec![b'x'; 4096])).await;
        let error = client.events(large.address, "token", 1).await.err().unwrap();
        assert!(matches!(&error, CallError::InvalidResponse(message) if message.contains("larger than")), "{error}");
    }
}
