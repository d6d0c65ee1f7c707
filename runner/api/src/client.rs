//! The operator's client for runners.

use crate::{BindAnswer, BindRequest, HEAD_DEADLINE, PORT, Refusal, RunnerState, TRACEPARENT};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use reqwest::{Method, RequestBuilder, Response, redirect};
use std::{io, net::IpAddr, time::Duration};
use tokio::io::AsyncRead;
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::StreamReader,
};

/// How long a call may take. A hot bind takes milliseconds; a runner that needs longer is busy or gone.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A line of the event stream comes every 10 s at least; after twice that and a bit the stream is dead.
const EVENT_TIMEOUT: Duration = Duration::from_secs(25);
/// The largest answer to a call, and the largest refusal, in bytes. A runner's image is the pool owner's choice, so the operator
/// reads no answer without a limit.
const MAX_ANSWER: usize = 64 << 10;

/// Calls runners. Cheap to clone; connections are kept and shared.
#[derive(Clone, Debug)]
pub struct RunnerClient {
    calls: reqwest::Client,
    /// Without a total time-out: an event stream lives as long as its runner.
    streams: reqwest::Client,
}

/// Why a call to a runner did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The runner answered, and refused.
    #[error("the runner refused: {0}")]
    Refused(#[from] Refusal),
    /// The runner answered what is not of its API.
    #[error("the runner answered what cannot be understood: {0}")]
    Garbage(String),
    /// Whether the call arrived is not known.
    #[error("the runner could not be reached: {0}")]
    Unreachable(String),
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        // reqwest's own words end before the cause ("error sending request"): the causes say what happened.
        let mut words = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            words = format!("{words}: {error}");
            cause = error.source();
        }
        if error.is_decode() && !error.is_timeout() { Self::Garbage(words) } else { Self::Unreachable(words) }
    }
}

impl Default for RunnerClient {
    fn default() -> Self {
        let builder = || {
            // Runners are pods: a proxy that the environment names is not for them. A redirect would send the operator's
            // request to an address of the runner's choice.
            reqwest::Client::builder()
                .no_proxy()
                .redirect(redirect::Policy::none())
                .connect_timeout(Duration::from_secs(2))
                .pool_idle_timeout(HEAD_DEADLINE / 2)
                .tcp_keepalive(Duration::from_secs(15))
                .tcp_nodelay(true)
        };
        let built = "a client without TLS or proxy settings can always be built";
        Self { calls: builder().timeout(CALL_TIMEOUT).build().expect(built), streams: builder().build().expect(built) }
    }
}

impl RunnerClient {
    /// Binds a session, or asks what became of an earlier attempt: the call can be repeated. `traceparent` is the header of that
    /// name (W3C Trace Context), below which the runner's spans stand.
    ///
    /// # Errors
    /// [`CallError::Refused`] when the runner has no room; the session then is not there. After any other error it may be.
    pub async fn bind(
        &self,
        address: IpAddr,
        token: &str,
        uid: &str,
        request: &BindRequest,
        traceparent: Option<&str>,
    ) -> Result<BindAnswer, CallError> {
        let mut call = self.call(Method::PUT, address, token, &format!("/v1/sessions/{uid}")).json(request);
        if let Some(traceparent) = traceparent {
            call = call.header(TRACEPARENT, traceparent);
        }
        let answer = read(accepted(call.send().await?).await?).await?;
        serde_json::from_slice(&answer).map_err(|error| CallError::Garbage(error.to_string()))
    }

    /// Ends a session, or acknowledges that it ended. A session that is not there is as good as ended.
    pub async fn end(&self, address: IpAddr, token: &str, uid: &str) -> Result<(), CallError> {
        let call = self.call(Method::DELETE, address, token, &format!("/v1/sessions/{uid}"));
        match accepted(call.send().await?).await {
            Err(CallError::Refused(Refusal { reason: crate::RefusalReason::UnknownSession, .. })) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Follows a runner of that many slots: its state now, then after each change, and the same again as a heartbeat. The first
    /// state has arrived when this returns. The stream ends with an error when the runner is silent for 25 s, or sends a
    /// line of more than [`RunnerState::max_bytes`].
    ///
    /// # Errors
    /// When the runner refuses, or the first state has not arrived within 5 s.
    pub async fn events(
        &self,
        address: IpAddr,
        token: &str,
        slots: u32,
    ) -> Result<impl Stream<Item = Result<RunnerState, CallError>> + Send + use<>, CallError> {
        let url = format!("http://{}/v1/events", authority(address));
        let opening = async {
            let opened = accepted(self.streams.get(url).bearer_auth(token).send().await?).await?;
            let bytes = opened.bytes_stream().map_err(io::Error::other);
            let limit = RunnerState::max_bytes(slots);
            let mut states = States(FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(limit)));
            let first =
                states.next().await.unwrap_or_else(|| Err(CallError::Unreachable("it sent no state".into())))?;
            Ok::<_, CallError>((first, states))
        };
        let opened = tokio::time::timeout(CALL_TIMEOUT, opening).await.map_err(|_| silent(CALL_TIMEOUT))?;
        let (first, states) = opened?;
        let later = stream::unfold(Some(states), |states| async {
            let mut states = states?;
            let next = tokio::time::timeout(EVENT_TIMEOUT, states.next()).await;
            let state = next.unwrap_or_else(|_| Some(Err(silent(EVENT_TIMEOUT))))?;
            let states = state.is_ok().then_some(states);
            Some((state, states))
        });
        Ok(stream::once(async { Ok(first) }).chain(later))
    }

    fn call(&self, method: Method, address: IpAddr, token: &str, path: &str) -> RequestBuilder {
        self.calls.request(method, format!("http://{}{path}", authority(address))).bearer_auth(token)
    }
}

fn authority(address: IpAddr) -> std::net::SocketAddr {
    (address, PORT).into()
}

fn silent(time: Duration) -> CallError {
    CallError::Unreachable(format!("nothing was heard for {} s", time.as_secs()))
}

/// The lines of an event stream.
struct States<R>(FramedRead<R, LinesCodec>);

impl<R: AsyncRead + Unpin> States<R> {
    async fn next(&mut self) -> Option<Result<RunnerState, CallError>> {
        let line = self.0.next().await?;
        Some(match line {
            Ok(line) => serde_json::from_str(&line).map_err(|error| CallError::Garbage(error.to_string())),
            Err(LinesCodecError::MaxLineLengthExceeded) => {
                Err(CallError::Garbage("a state is larger than a runner of its slots can have".to_owned()))
            }
            Err(LinesCodecError::Io(error)) => Err(CallError::Unreachable(error.to_string())),
        })
    }
}

async fn accepted(response: Response) -> Result<Response, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = read(response).await?;
    Err(match serde_json::from_slice(&body) {
        Ok(refusal) => CallError::Refused(refusal),
        Err(_) => {
            let words: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            CallError::Garbage(format!("{status}: {words}"))
        }
    })
}

async fn read(mut response: Response) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(CallError::Garbage(format!(
                "{}: an answer of more than {MAX_ANSWER} bytes",
                response.status()
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
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

    /// What a hostile runner answers, after the head of each request.
    #[derive(Clone)]
    enum Answer {
        /// These bytes, and the end.
        Whole(Vec<u8>),
        /// These bytes, and then these again and again for as long as they are read.
        Endless(Vec<u8>, Vec<u8>),
        /// These bytes, and then nothing more.
        Stuck(Vec<u8>),
    }

    struct HostileRunner {
        address: IpAddr,
        requests: Arc<AtomicUsize>,
        sent: Arc<AtomicUsize>,
    }

    /// A runner at an address of its own on the loopback network, since all runners listen on the same port.
    async fn runner(last: u8, answer: Answer) -> HostileRunner {
        let address = IpAddr::from([127, 83, 0, last]);
        let listener = TcpListener::bind((address, PORT)).await.unwrap();
        let (requests, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (requests.clone(), sent.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counters.0.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, answer.clone(), counters.1.clone()));
            }
        });
        HostileRunner { address, requests, sent }
    }

    async fn serve(mut stream: TcpStream, answer: Answer, sent: Arc<AtomicUsize>) {
        let mut head = Vec::new();
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let (first, again) = match &answer {
            Answer::Whole(bytes) => (bytes, None),
            Answer::Stuck(bytes) => (bytes, Some(None)),
            Answer::Endless(bytes, again) => (bytes, Some(Some(again))),
        };
        let _ = stream.write_all(first).await;
        match again {
            None => {}
            // Until the client gives up.
            Some(None) => while stream.read_buf(&mut head).await.unwrap_or(0) > 0 {},
            Some(Some(again)) => {
                while stream.write_all(again).await.is_ok() {
                    sent.fetch_add(again.len(), Ordering::Relaxed);
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
        }
    }

    /// What came of all three calls. Each has to end by itself.
    async fn call_all(address: IpAddr) -> [CallError; 3] {
        let client = RunnerClient::default();
        let calls = async {
            let bind = client.bind(address, "token", "uid", &request(), None).await.unwrap_err();
            let end = client.end(address, "token", "uid").await.unwrap_err();
            [bind, end, client.events(address, "token", 1).await.err().unwrap()]
        };
        tokio::time::timeout(CALL_TIMEOUT * 12, calls).await.expect("a call has no deadline")
    }

    #[tokio::test]
    async fn a_refusal_without_end_is_read_up_to_a_limit() {
        let runner = runner(1, Answer::Endless(head("500 Internal Server Error"), vec![b'x'; 4096])).await;
        for error in call_all(runner.address).await {
            assert!(matches!(&error, CallError::Garbage(words) if words.contains("more than 65536 bytes")), "{error}");
        }
        // What the sockets' own buffers took in is far from what a runner could send within a call's time.
        assert!(runner.sent.load(Ordering::Relaxed) < 3 * (32 << 20), "{:?}", runner.sent);
    }

    #[tokio::test]
    async fn an_answer_to_a_bind_without_end_is_read_up_to_a_limit() {
        let runner = runner(2, Answer::Endless(head("200 OK"), vec![b' '; 4096])).await;
        let error = RunnerClient::default().bind(runner.address, "token", "uid", &request(), None).await.unwrap_err();
        assert!(matches!(&error, CallError::Garbage(words) if words.contains("more than 65536 bytes")), "{error}");
    }

    /// The clock is stopped, and goes on at once when there is nothing to do but to wait: what ends has a deadline.
    #[tokio::test]
    async fn a_call_ends_though_the_refusal_or_the_first_state_never_does() {
        for (last, begun) in [
            (3, head("500 Internal Server Error")),
            (4, [head("500 Internal Server Error"), b"no ".to_vec()].concat()),
            (5, b"HTTP/1.1 200 OK\r\n".to_vec()),
        ] {
            let runner = runner(last, Answer::Stuck(begun)).await;
            tokio::time::pause();
            for error in call_all(runner.address).await {
                assert!(matches!(error, CallError::Unreachable(_)), "{error}");
            }
            tokio::time::resume();
        }
        let runner = runner(6, Answer::Stuck([head("200 OK"), b"{\"bootId\":".to_vec()].concat())).await;
        tokio::time::pause();
        let error = RunnerClient::default().events(runner.address, "token", 1).await.err().unwrap();
        assert!(matches!(error, CallError::Unreachable(_)), "{error}");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let elsewhere = runner(8, Answer::Whole(head("200 OK"))).await;
        for (last, status) in [(9, "302 Found"), (10, "307 Temporary Redirect"), (11, "308 Permanent Redirect")] {
            let target = format!(
                "HTTP/1.1 {status}\r\nlocation: http://{}:{PORT}/\r\ncontent-length: 0\r\n\r\n",
                elsewhere.address
            );
            let runner = runner(last, Answer::Whole(target.into_bytes())).await;
            for error in call_all(runner.address).await {
                assert!(matches!(error, CallError::Garbage(_)), "{error}");
            }
        }
        assert_eq!(elsewhere.requests.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_state_is_no_larger_than_the_runners_slots_allow() {
        let line = |words: usize| {
            let state = RunnerState { slots: 1, launch_error: Some("x".repeat(words)), ..RunnerState::default() };
            [head("200 OK"), serde_json::to_vec(&state).unwrap(), b"\n".to_vec()].concat()
        };
        let limit = RunnerState::max_bytes(1);
        let good = runner(12, Answer::Stuck(line(limit / 2))).await;
        let client = RunnerClient::default();
        let mut states = std::pin::pin!(client.events(good.address, "token", 1).await.unwrap());
        assert_eq!(states.next().await.unwrap().unwrap().slots, 1);
        let large = runner(13, Answer::Endless(line(limit), vec![b'x'; 4096])).await;
        let error = client.events(large.address, "token", 1).await.err().unwrap();
        assert!(matches!(&error, CallError::Garbage(words) if words.contains("larger than")), "{error}");
    }
}
