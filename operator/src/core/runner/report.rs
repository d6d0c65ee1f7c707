//! Validates the reports of runners. The pool's owner chooses the runner image, so a report is trusted only within the
//! limits of the runner's pod.

use crate::core::ids::Uid;
use camofleet_crds::{
    names,
    v1alpha1::{Display, Engine, StartTier},
};
use camofleet_runner_api::{BindResponse, BrowserCounts, End, RunnerState, Session, SessionPhase};
use std::collections::HashMap;

/// Longest message that is kept, in characters. It also bounds the messages of conditions.
const MAX_MESSAGE: usize = 1024;
/// Longest version of a browser or of Playwright that is kept, in characters.
const MAX_VERSION: usize = 64;
/// Longest identifier, in bytes. UIDs are UUIDs of 36 bytes.
const MAX_IDENTIFIER: usize = 64;

/// The validated state of a runner. It lists no more sessions than its pod can hold, all names are valid in Kubernetes,
/// and all numbers lie within the pod's slots. It keeps only the fields that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub(in crate::core) boot_id: String,
    pub(in crate::core) generation: u64,
    pub(in crate::core) engine: Option<Engine>,
    pub(in crate::core) browser_version: Option<String>,
    pub(in crate::core) playwright_version: String,
    pub(in crate::core) draining: bool,
    pub(in crate::core) slots: u32,
    pub(in crate::core) free: u32,
    /// The runner has served `sessionsPerRunner` sessions.
    pub(in crate::core) spent: bool,
    pub(in crate::core) hot: BrowserCounts,
    pub(in crate::core) warm: bool,
    pub(in crate::core) launch_error: Option<String>,
    sessions: Vec<ListedSession>,
    index: HashMap<Uid, usize>,
}

/// The runner process that made a report, and the report's generation in it.
#[derive(Clone, Debug)]
pub(in crate::core) struct ReportVersion {
    pub(in crate::core) boot_id: String,
    pub(in crate::core) generation: u64,
}

/// A session in a runner's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct ListedSession {
    pub(in crate::core) uid: Uid,
    pub(in crate::core) namespace: String,
    pub(in crate::core) name: String,
    pub(in crate::core) phase: SessionPhase,
    pub(in crate::core) display: Display,
    pub(in crate::core) tier: StartTier,
    pub(in crate::core) end: Option<End>,
}

/// Why a runner's state is not a valid report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReport {
    /// The state lists more sessions than the pod can hold.
    #[error("the state lists {listed} sessions; a runner with {slots} slots can have at most {max}")]
    TooManySessions {
        /// Number of sessions in the state.
        listed: usize,
        /// Slots of the pod.
        slots: u32,
        /// Largest allowed number of sessions ([`RunnerState::max_sessions`]).
        max: usize,
    },
    /// The state lists a session twice.
    #[error("the state lists a session twice")]
    ListedTwice,
    /// A field is not a valid name or identifier.
    #[error("the state has an invalid `{0}`")]
    InvalidField(&'static str),
}

impl Report {
    /// Validates the state of a runner whose pod has `slots` slots. Numbers above the slots are lowered to them.
    ///
    /// # Errors
    /// Returns an error when a well-behaved runner of that pod cannot be in this state.
    pub fn new(state: RunnerState, slots: u32) -> Result<Self, InvalidReport> {
        let max = RunnerState::max_sessions(slots);
        if state.sessions.len() > max {
            return Err(InvalidReport::TooManySessions { listed: state.sessions.len(), slots, max });
        }
        if !is_identifier(&state.boot_id) {
            return Err(InvalidReport::InvalidField("bootId"));
        }
        let sessions = state.sessions.into_iter().map(ListedSession::new).collect::<Result<Vec<_>, _>>()?;
        let index: HashMap<_, _> = sessions.iter().enumerate().map(|(at, listed)| (listed.uid.clone(), at)).collect();
        if index.len() < sessions.len() {
            return Err(InvalidReport::ListedTwice);
        }
        let slots = state.slots.min(slots);
        let headless = state.hot.headless.min(slots);
        Ok(Self {
            boot_id: state.boot_id,
            generation: state.generation,
            engine: state.engine,
            browser_version: state.browser_version.map(|version| truncated(&version, MAX_VERSION)),
            playwright_version: truncated(&state.playwright_version, MAX_VERSION),
            draining: state.draining,
            slots,
            free: state.free.min(slots),
            spent: state.spent,
            hot: BrowserCounts { headless, headful: state.hot.headful.min(slots - headless) },
            warm: state.warm,
            launch_error: state.launch_error.map(|error| truncated(&error, MAX_MESSAGE)),
            sessions,
            index,
        })
    }

    pub(in crate::core) fn version(&self) -> ReportVersion {
        ReportVersion { boot_id: self.boot_id.clone(), generation: self.generation }
    }

    /// The listed sessions, in the order of the report.
    pub(in crate::core) fn sessions(&self) -> &[ListedSession] {
        &self.sessions
    }

    pub(in crate::core) fn session(&self, uid: &str) -> Option<&ListedSession> {
        self.index.get(uid).map(|at| &self.sessions[*at])
    }

    /// The number of further sessions that the runner can list.
    pub(in crate::core) fn list_capacity(&self) -> u32 {
        let remaining = RunnerState::max_sessions(self.slots).saturating_sub(self.sessions.len());
        u32::try_from(remaining).unwrap_or(u32::MAX)
    }
}

impl ListedSession {
    fn new(session: Session) -> Result<Self, InvalidReport> {
        if !is_identifier(&session.uid) {
            return Err(InvalidReport::InvalidField("uid"));
        }
        if !names::is_label(&session.namespace) {
            return Err(InvalidReport::InvalidField("namespace"));
        }
        if !names::is_subdomain(&session.name) {
            return Err(InvalidReport::InvalidField("name"));
        }
        Ok(Self {
            uid: session.uid,
            namespace: session.namespace,
            name: session.name,
            phase: session.phase,
            display: session.display,
            tier: session.tier,
            end: session.end.map(truncated_end),
        })
    }
}

/// Truncates the texts of a bind answer to the limits of a report.
pub(in crate::core) fn truncated_answer(answer: BindResponse) -> BindResponse {
    let session = Session { end: answer.session.end.map(truncated_end), ..answer.session };
    BindResponse {
        boot_id: truncated(&answer.boot_id, MAX_IDENTIFIER),
        browser_version: answer.browser_version.map(|version| truncated(&version, MAX_VERSION)),
        playwright_version: truncated(&answer.playwright_version, MAX_VERSION),
        session,
        ..answer
    }
}

fn truncated_end(end: End) -> End {
    End { message: truncated(&end.message, MAX_MESSAGE), ..end }
}

fn truncated(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

/// Returns whether `text` is a valid UID or boot id: ASCII letters, digits and `-_.`, which have no special meaning in
/// a URL.
fn is_identifier(text: &str) -> bool {
    (1..=MAX_IDENTIFIER).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_runner_api::{EndReason, StartPage};

    fn listed(uid: &str, namespace: &str, name: &str) -> Session {
        Session {
            uid: uid.into(),
            namespace: namespace.into(),
            name: name.into(),
            phase: SessionPhase::Ready,
            display: Display::Headless,
            tier: StartTier::Hot,
            start_page: StartPage::None,
            clients: 0,
            end: None,
        }
    }

    fn state(sessions: Vec<Session>) -> RunnerState {
        RunnerState { boot_id: "boot".into(), slots: 1, free: 1, sessions, ..RunnerState::default() }
    }

    #[test]
    fn rejects_more_sessions_than_the_pod_can_hold() {
        let sessions = |count: usize| (0..count).map(|at| listed(&format!("s-{at}"), "ns", "s")).collect::<Vec<_>>();
        let max = RunnerState::max_sessions(1);
        let report = Report::new(state(sessions(max)), 1).unwrap();
        assert_eq!((report.sessions().len(), report.list_capacity()), (max, 0));
        assert_eq!(report.session("s-3").unwrap().uid, "s-3");
        assert_eq!(
            Report::new(state(sessions(max + 1)), 1),
            Err(InvalidReport::TooManySessions { listed: max + 1, slots: 1, max })
        );
        let twice = vec![listed("s", "ns", "a"), listed("s", "ns", "b")];
        assert_eq!(Report::new(state(twice), 1), Err(InvalidReport::ListedTwice));
    }

    #[test]
    fn rejects_names_that_are_unsafe_in_a_url() {
        for bad in ["", "?x", "x/status", "..", "a/../b", "a#b", "a%2fb", "A", &"a".repeat(254)] {
            assert_eq!(
                Report::new(state(vec![listed("s", "ns", bad)]), 1),
                Err(InvalidReport::InvalidField("name")),
                "{bad:?}"
            );
            let elsewhere = Report::new(state(vec![listed("s", bad, "s")]), 1);
            assert_eq!(elsewhere, Err(InvalidReport::InvalidField("namespace")), "{bad:?}");
        }
        assert!(Report::new(state(vec![listed("s", "a.b", "s")]), 1).is_err(), "a namespace contains no dots");
        for bad in ["", "a/b", "a?b", "ä", &"a".repeat(65)] {
            assert_eq!(
                Report::new(state(vec![listed(bad, "ns", "s")]), 1),
                Err(InvalidReport::InvalidField("uid")),
                "{bad:?}"
            );
            let restarted = RunnerState { boot_id: bad.into(), ..state(Vec::new()) };
            assert_eq!(Report::new(restarted, 1), Err(InvalidReport::InvalidField("bootId")), "{bad:?}");
        }
    }

    #[test]
    fn clamps_numbers_and_truncates_texts() {
        let large = RunnerState {
            slots: u32::MAX,
            free: u32::MAX,
            hot: BrowserCounts { headless: u32::MAX, headful: u32::MAX },
            launch_error: Some("x".repeat(1 << 20)),
            browser_version: Some("v".repeat(1 << 20)),
            playwright_version: "v".repeat(1 << 20),
            ..state(vec![Session {
                end: Some(End { reason: EndReason::BrowserCrashed, message: "x".repeat(1 << 20) }),
                ..listed("s", "ns", "s")
            }])
        };
        let report = Report::new(large, 3).unwrap();
        assert_eq!((report.slots, report.free, report.hot), (3, 3, BrowserCounts { headless: 3, headful: 0 }));
        let texts = [
            report.launch_error.as_deref().unwrap(),
            report.browser_version.as_deref().unwrap(),
            &report.playwright_version,
            &report.sessions()[0].end.as_ref().unwrap().message,
        ];
        assert!(texts.iter().all(|text| text.len() <= MAX_MESSAGE));
        let smaller = Report::new(RunnerState { slots: 1, free: 3, ..state(Vec::new()) }, 3).unwrap();
        assert_eq!((smaller.slots, smaller.free), (1, 1), "the reported number counts when it is smaller");
    }

    #[test]
    fn truncates_the_texts_of_a_bind_answer() {
        let long = || "\u{e4}".repeat(30_000);
        let answer = BindResponse {
            boot_id: long(),
            generation: 1,
            engine: Engine::Firefox,
            browser_version: Some(long()),
            playwright_version: long(),
            session: Session {
                end: Some(End { reason: EndReason::BrowserCrashed, message: long() }),
                ..listed("s", "ns", "s")
            },
        };
        let answer = truncated_answer(answer);
        let texts = [
            answer.boot_id,
            answer.browser_version.unwrap(),
            answer.playwright_version,
            answer.session.end.unwrap().message,
        ];
        assert_eq!(texts.map(|text| text.chars().count()), [MAX_IDENTIFIER, MAX_VERSION, MAX_VERSION, MAX_MESSAGE]);
    }
}
