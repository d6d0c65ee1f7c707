//! HTTP responses of hostile runners.

use super::{
    attack::{Attack, HEAVY_SESSIONS, HUGE_BODY, ORPHANS, orphans, session},
    runner::Runner,
};
use bytes::Bytes;
use camofleet_runner_api::{BrowserCounts, RunnerState, Session};
use futures::{Stream, StreamExt, stream};
use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use std::{convert::Infallible, sync::Arc, time::Duration};

const DRIP: Duration = Duration::from_secs(1);
const CHUNK: usize = 1 << 16;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The hostile response to a call, or `None` if the attack answers this call as a normal runner.
pub(super) fn answer(attack: Attack, runner: &Arc<Runner>, request: &Request<Incoming>) -> Option<Response<Body>> {
    let is_events = request.method() == Method::GET && request.uri().path() == "/v1/events";
    match attack {
        Attack::DrippingRejection => Some(streamed(StatusCode::INTERNAL_SERVER_ERROR, dripping())),
        Attack::DrippingState => is_events.then(|| streamed(StatusCode::OK, dripping())),
        Attack::HugeRejection => {
            let chunks = stream::repeat(chunk()).take(HUGE_BODY / CHUNK);
            Some(streamed(StatusCode::INTERNAL_SERVER_ERROR, chunks))
        }
        Attack::EndlessAnswer => (request.method() == Method::PUT).then(|| {
            let begin = stream::iter([Bytes::from_static(b"{\"bootId\":\"")]);
            streamed(StatusCode::OK, begin.chain(stream::repeat(chunk())))
        }),
        Attack::HeavyStates => is_events.then(|| streamed(StatusCode::OK, heavy_states(runner))),
        Attack::ManyStates => is_events.then(|| streamed(StatusCode::OK, many_states(runner))),
        Attack::Orphans => is_events.then(|| streamed(StatusCode::OK, states_with_orphans(runner))),
        Attack::OrphansInSlots | Attack::BadNames => None,
        Attack::Redirect => Some(redirect(runner, request)),
        Attack::HugeNumbers => is_events.then(|| {
            let state = RunnerState {
                generation: u64::MAX,
                slots: u32::MAX,
                free: u32::MAX,
                hot: BrowserCounts { headless: u32::MAX, headful: 1 },
                ..runner.state()
            };
            let states = stream::iter([line(&state)]).chain(stream::pending());
            streamed(StatusCode::OK, counted(runner, states))
        }),
        Attack::NeverWarm => is_events.then(|| {
            let state = RunnerState { free: 0, hot: BrowserCounts::default(), warm: false, ..runner.state() };
            let states = stream::iter([line(&state)]).chain(stream::pending());
            streamed(StatusCode::OK, counted(runner, states))
        }),
    }
}

fn chunk() -> Bytes {
    vec![b'x'; CHUNK].into()
}

fn dripping() -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold((), async |()| {
        tokio::time::sleep(DRIP).await;
        Some((Bytes::from_static(b"{"), ()))
    })
}

fn heavy_states(runner: &Arc<Runner>) -> impl Stream<Item = Bytes> + Send + 'static {
    // Two different states, so that each is a change.
    let variants = [0, 1].map(|clients| {
        let names = (0..HEAVY_SESSIONS).map(|index| (format!("heavy-{index:06}"), format!("invented-{index}")));
        let sessions = names.map(|(uid, name)| Session { clients, ..session(uid, &runner.pod.namespace, name) });
        RunnerState { sessions: sessions.collect(), ..runner.state() }
    });
    alternate(runner, variants)
}

fn many_states(runner: &Arc<Runner>) -> impl Stream<Item = Bytes> + Send + 'static {
    alternate(runner, [0, 1].map(|free| RunnerState { free, ..runner.state() }))
}

/// Sends two states alternately without pause, each with a new generation.
fn alternate(runner: &Arc<Runner>, variants: [RunnerState; 2]) -> impl Stream<Item = Bytes> + Send + 'static {
    let mut generation = variants[0].generation;
    // Serialized once: the attack should keep the operator busy, not the simulator.
    let rests = variants.map(|state| {
        let mut document = serde_json::to_value(state).expect("plain data serializes");
        let fields = document.as_object_mut().expect("a state is an object");
        fields.remove("generation");
        Bytes::from(format!(",{}\n", &document.to_string()[1..]))
    });
    let runner = Arc::clone(runner);
    let states = stream::iter((0_usize..).map(move |index| {
        generation += 1;
        runner.count_hostile_state();
        [Bytes::from(format!("{{\"generation\":{generation}")), rests[index % 2].clone()]
    }));
    states.flat_map(stream::iter)
}

fn states_with_orphans(runner: &Arc<Runner>) -> impl Stream<Item = Bytes> + Send + 'static {
    let states = stream::unfold((Arc::clone(runner), 0_u64), async |(runner, number)| {
        if number > 0 {
            tokio::time::sleep(DRIP).await;
        }
        let state = runner.state();
        let sessions = orphans(&runner.pod.namespace, ORPHANS, &format!("orphan-{number}"));
        let state = RunnerState { generation: state.generation + number, sessions, ..state };
        Some((line(&state), (runner, number + 1)))
    });
    counted(runner, states)
}

fn counted(
    runner: &Arc<Runner>,
    states: impl Stream<Item = Bytes> + Send + 'static,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let runner = Arc::clone(runner);
    states.inspect(move |_| runner.count_hostile_state())
}

fn line(state: &RunnerState) -> Bytes {
    let mut line = serde_json::to_vec(state).expect("plain data serializes");
    line.push(b'\n');
    line.into()
}

/// 302 for GET, and 307 for other methods so that the client would repeat method and body (RFC 9110 section 15.4).
fn redirect(runner: &Runner, request: &Request<Incoming>) -> Response<Body> {
    let status = match *request.method() {
        Method::GET => StatusCode::FOUND,
        _ => StatusCode::TEMPORARY_REDIRECT,
    };
    let to = runner
        .redirect_target()
        .map_or_else(String::new, |other| format!("http://{}/latest/meta-data/", other.address()));
    let response = Response::builder().status(status).header(LOCATION, to);
    response.body(StreamBody::new(stream::empty()).boxed_unsync()).expect("a status and a header are a response")
}

fn streamed(status: StatusCode, chunks: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let frames = StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk))));
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/x-ndjson");
    response.body(frames.boxed_unsync()).expect("a status and a header are a response")
}
