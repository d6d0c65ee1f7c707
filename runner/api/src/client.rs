//! The operator's client for runners.

use crate::{BindAnswer, BindRequest, HEAD_DEADLINE, PORT, Refusal, RunnerState, TRACEPARENT};
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::{Method, RequestBuilder, Response};
use std::{io, net::IpAddr, time::Duration};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};

/// How long a call may take. A hot bind takes milliseconds; a runner that needs longer is busy or gone.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A line of the event stream comes every 10 s at least; after twice that and a bit the stream is dead.
const EVENT_TIMEOUT: Duration = Duration::from_secs(25);
/// The largest document that is read: some hundreds of sessions.
const MAX_DOCUMENT: usize = 1 << 20;

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
        if error.is_decode() { Self::Garbage(words) } else { Self::Unreachable(words) }
    }
}

impl Default for RunnerClient {
    fn default() -> Self {
        let builder = || {
            // Runners are pods: what proxy the environment names is not for them, and a dead node's peer must be noticed.
            reqwest::Client::builder()
                .no_proxy()
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
        Ok(accepted(call.send().await?).await?.json().await?)
    }

    /// Ends a session, or acknowledges that it ended. A session that is not there is as good as ended.
    pub async fn end(&self, address: IpAddr, token: &str, uid: &str) -> Result<(), CallError> {
        let call = self.call(Method::DELETE, address, token, &format!("/v1/sessions/{uid}"));
        match accepted(call.send().await?).await {
            Err(CallError::Refused(Refusal { reason: crate::RefusalReason::UnknownSession, .. })) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Follows a runner: its state now, then after each change, and the same again as a heartbeat. The stream ends with an
    /// error when the runner has been silent for too long.
    pub async fn events(
        &self,
        address: IpAddr,
        token: &str,
    ) -> Result<impl Stream<Item = Result<RunnerState, CallError>> + Send + use<>, CallError> {
        let url = format!("http://{}/v1/events", authority(address));
        let opening = self.streams.get(url).bearer_auth(token).send();
        let opened = tokio::time::timeout(CALL_TIMEOUT, opening).await.map_err(|_| silent(CALL_TIMEOUT))??;
        let bytes = accepted(opened).await?.bytes_stream().map_err(io::Error::other);
        let lines = FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(MAX_DOCUMENT));
        Ok(futures::stream::unfold(Some(lines), |lines| async {
            let mut lines = lines?;
            match tokio::time::timeout(EVENT_TIMEOUT, lines.next()).await {
                Ok(Some(Ok(line))) => match serde_json::from_str(&line) {
                    Ok(state) => Some((Ok(state), Some(lines))),
                    Err(error) => Some((Err(CallError::Garbage(error.to_string())), None)),
                },
                Ok(Some(Err(error))) => Some((Err(CallError::Unreachable(error.to_string())), None)),
                Ok(None) => None,
                Err(_) => Some((Err(silent(EVENT_TIMEOUT)), None)),
            }
        }))
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

async fn accepted(response: Response) -> Result<Response, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.text().await?;
    Err(match serde_json::from_str(&body) {
        Ok(refusal) => CallError::Refused(refusal),
        Err(_) => CallError::Garbage(format!("{status}: {}", body.chars().take(200).collect::<String>())),
    })
}
