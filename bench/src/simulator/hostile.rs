//! Hostile runners: what a pod can answer to the operator in place of the runner API.

use super::runner::Runner;
use bytes::Bytes;
use camofleet_crds::v1alpha1::Display;
use camofleet_runner_api::{Hot, RunnerState, Session, SessionPhase, StartPage, Tier};
use futures::{Stream, StreamExt, stream};
use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// One way in which a runner attacks the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attack {
    /// Refuses every call with a body that never ends, one byte a second.
    DrippingRefusal,
    /// Opens its event stream and never finishes the first state, one byte a second.
    DrippingState,
    /// Refuses every call with a body of [`HUGE_BODY`] bytes.
    HugeRefusal,
    /// Offers a free slot, and answers a bind with a JSON string that never ends.
    EndlessAnswer,
    /// Sends states with [`HEAVY_SESSIONS`] sessions each, as fast as they are read.
    HeavyStates,
    /// Sends small states that all differ, as fast as they are read.
    ManyStates,
    /// Lists [`ORPHANS`] sessions that do not exist in each state, others every second.
    Orphans,
    /// Lists as many sessions that do not exist as it has slots, always the same.
    OrphansInSlots,
    /// The same, under names that change the meaning of a URL which they are put into without a check.
    BadNames,
    /// Redirects every call to another host.
    Redirect,
    /// Publishes the largest numbers that its state can hold.
    HugeNumbers,
    /// Behaves well, but for never becoming warm.
    NeverWarm,
}

/// The body of [`Attack::HugeRefusal`] in bytes.
pub const HUGE_BODY: usize = 300_000_000;
/// The sessions in each state of [`Attack::HeavyStates`]: about 600 KB.
pub const HEAVY_SESSIONS: usize = 2500;
/// The sessions in each state of [`Attack::Orphans`]: close to 1 MiB.
pub const ORPHANS: usize = 4000;

/// Strings that are no names of objects. The API server reads a list for the first, and another resource for the second.
const BAD_NAMES: [&str; 5] = ["?x", "x/status", "../..", "%2e%2e", "UPPER"];
const DRIP: Duration = Duration::from_secs(1);
const CHUNK: usize = 1 << 16;

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Attack {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::DrippingRefusal,
        Self::DrippingState,
        Self::HugeRefusal,
        Self::EndlessAnswer,
        Self::HeavyStates,
        Self::ManyStates,
        Self::Orphans,
        Self::OrphansInSlots,
        Self::BadNames,
        Self::Redirect,
        Self::HugeNumbers,
        Self::NeverWarm,
    ];

    /// The name of the pools whose runners attack in this way.
    pub fn name(self) -> &'static str {
        match self {
            Self::DrippingRefusal => "dripping-refusal",
            Self::DrippingState => "dripping-state",
            Self::HugeRefusal => "huge-refusal",
            Self::EndlessAnswer => "endless-answer",
            Self::HeavyStates => "heavy-states",
            Self::ManyStates => "many-states",
            Self::Orphans => "orphans",
            Self::OrphansInSlots => "orphans-in-slots",
            Self::BadNames => "bad-names",
            Self::Redirect => "redirect",
            Self::HugeNumbers => "huge-numbers",
            Self::NeverWarm => "never-warm",
        }
    }

    /// The attack of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attack| attack.name() == name)
    }
}

/// A host that no operator has any business with. It counts the connections that arrive.
#[derive(Clone, Debug)]
pub(super) struct Bystander {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Bystander {
    /// Starts it on that loopback network, on the runtime of the simulator.
    pub(super) async fn start(second: u8) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::new(127, second, 0, 2), 0)).await?;
        let (address, connections) = (listener.local_addr()?, Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { address, connections })
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The hostile answer to a call; absent where the attack is to answer as runners do.
pub(super) fn answer(attack: Attack, runner: &Arc<Runner>, request: &Request<Incoming>) -> Option<Response<Body>> {
    let is_events = request.method() == Method::GET && request.uri().path() == "/v1/events";
    match attack {
        Attack::DrippingRefusal => Some(streamed(StatusCode::INTERNAL_SERVER_ERROR, dripping())),
        Attack::DrippingState => is_events.then(|| streamed(StatusCode::OK, dripping())),
        Attack::HugeRefusal => {
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
                hot: Hot { headless: u32::MAX, headful: 1 },
                ..runner.state()
            };
            let states = stream::iter([line(&state)]).chain(stream::pending());
            streamed(StatusCode::OK, counted(runner, states))
        }),
        Attack::NeverWarm => is_events.then(|| {
            let state = RunnerState { free: 0, hot: Hot::default(), warm: false, ..runner.state() };
            let states = stream::iter([line(&state)]).chain(stream::pending());
            streamed(StatusCode::OK, counted(runner, states))
        }),
    }
}

/// Sessions that no API server has.
fn orphans(namespace: &str, count: usize, uid_prefix: &str) -> Vec<Session> {
    let uid = |index| format!("{uid_prefix}-{index:06}");
    (0..count).map(|index| session(uid(index), namespace, format!("orphan-{index}"))).collect()
}

/// The same, under names that are none.
fn misnamed(namespace: &str, count: usize, uid_prefix: &str) -> Vec<Session> {
    let named = orphans(namespace, count, uid_prefix).into_iter().zip(BAD_NAMES.into_iter().cycle());
    named.map(|(orphan, name)| Session { name: name.to_owned(), ..orphan }).collect()
}

/// Invented sessions that the attack lists beside those that the runner has.
pub(super) fn invented(attack: Attack, namespace: &str, slots: u32, pod_uid: &str) -> Vec<Session> {
    let slots = usize::try_from(slots).unwrap_or(usize::MAX);
    match attack {
        Attack::OrphansInSlots => orphans(namespace, slots, pod_uid),
        Attack::BadNames => misnamed(namespace, slots, pod_uid),
        Attack::DrippingRefusal
        | Attack::DrippingState
        | Attack::HugeRefusal
        | Attack::EndlessAnswer
        | Attack::HeavyStates
        | Attack::ManyStates
        | Attack::Orphans
        | Attack::Redirect
        | Attack::HugeNumbers
        | Attack::NeverWarm => Vec::new(),
    }
}

fn session(uid: String, namespace: &str, name: String) -> Session {
    Session {
        uid,
        namespace: namespace.to_owned(),
        name,
        phase: SessionPhase::Ready,
        display: Display::Headless,
        tier: Tier::Hot,
        start_page: StartPage::None,
        clients: 0,
        end: None,
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
    // Two that differ, so that each is news.
    let variants = [0, 1].map(|clients| {
        let names = (0..HEAVY_SESSIONS).map(|index| (format!("heavy-{index:06}"), format!("invented-{index}")));
        let sessions = names.map(|(uid, name)| Session { clients, ..session(uid, &runner.pod.namespace, name) });
        RunnerState { sessions: sessions.collect(), ..runner.state() }
    });
    in_turn(runner, variants)
}

fn many_states(runner: &Arc<Runner>) -> impl Stream<Item = Bytes> + Send + 'static {
    in_turn(runner, [0, 1].map(|free| RunnerState { free, ..runner.state() }))
}

/// Sends the one and the other state in turn, each with a generation of its own, without ever resting.
fn in_turn(runner: &Arc<Runner>, variants: [RunnerState; 2]) -> impl Stream<Item = Bytes> + Send + 'static {
    let mut generation = variants[0].generation;
    // Written once: what is to be kept busy is the operator, not this.
    let rests = variants.map(|state| {
        let mut document = serde_json::to_value(state).expect("plain data serializes");
        let fields = document.as_object_mut().expect("a state is an object");
        fields.remove("generation");
        Bytes::from(format!(",{}\n", &document.to_string()[1..]))
    });
    let runner = Arc::clone(runner);
    let states = stream::iter((0_usize..).map(move |index| {
        generation += 1;
        runner.note_hostile_state();
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
    states.inspect(move |_| runner.note_hostile_state())
}

fn line(state: &RunnerState) -> Bytes {
    let mut line = serde_json::to_vec(state).expect("plain data serializes");
    line.push(b'\n');
    line.into()
}

/// 302 for what has no body, and 307 for what has one, so that method and body go along (RFC 9110 section 15.4).
fn redirect(runner: &Runner, request: &Request<Incoming>) -> Response<Body> {
    let status = match *request.method() {
        Method::GET => StatusCode::FOUND,
        _ => StatusCode::TEMPORARY_REDIRECT,
    };
    let to = runner.bystander().map_or_else(String::new, |other| format!("http://{}/latest/meta-data/", other.address));
    let response = Response::builder().status(status).header(LOCATION, to);
    response.body(StreamBody::new(stream::empty()).boxed_unsync()).expect("a status and a header are a response")
}

fn streamed(status: StatusCode, chunks: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let frames = StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk))));
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/x-ndjson");
    response.body(frames.boxed_unsync()).expect("a status and a header are a response")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_found_by_their_names() {
        assert!(Attack::ALL.into_iter().all(|attack| Attack::named(attack.name()) == Some(attack)));
        assert_eq!(Attack::named("hot"), None);
    }

    #[test]
    fn orphans_are_as_many_as_slots_and_differ() {
        let listed = |attack| invented(attack, "hostile", 7, "pod");
        let names = |attack| listed(attack).into_iter().map(|session| session.name).collect::<Vec<_>>();
        assert_eq!(names(Attack::OrphansInSlots)[6], "orphan-6");
        assert_eq!(names(Attack::BadNames)[5..], ["?x", "x/status"]);
        assert_eq!(listed(Attack::BadNames)[6].uid, "pod-000006");
        assert!(listed(Attack::NeverWarm).is_empty());
    }
}
