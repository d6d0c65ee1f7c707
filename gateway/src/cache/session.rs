//! A session as the gateway sees it: its name, its object, and whether clients can connect to it. Pure.

use camofleet_crds::{
    conditions::{self, ConditionStatus, FINISHED, READY},
    names,
    v1alpha1::{BrowserSession, RunnerRef, SessionState},
};
use std::{fmt, sync::Arc};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    namespace: String,
    name: String,
}

impl Key {
    /// Validates a namespace and a name. None when no object can have them. Both become part of a URL of the API
    /// server, so a slash or `..` must be rejected.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Option<Self> {
        let key = Self { namespace: namespace.into(), name: name.into() };
        (names::is_label(&key.namespace) && names::is_subdomain(&key.name)).then_some(key)
    }

    /// Namespace of the object.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// A session. Another UID under the same name is another session.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Whether clients can connect.
    pub readiness: Readiness,
    /// The whole object.
    pub object: Arc<BrowserSession>,
}

/// Whether clients can connect to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: it waits for a slot, its browser starts, or its runner does not respond. Holds the published state.
    NotReady(SessionState),
    /// Yes, at this runner.
    Ready(RunnerRef),
    /// No, the session has ended.
    Finished(FinishedReason),
}

/// Why a session finished: reason and message of its condition `Finished`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedReason {
    /// The condition's reason, for programs.
    pub reason: String,
    /// The condition's message, for people. Can be empty.
    pub message: String,
}

impl fmt::Display for FinishedReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.reason)?;
        if self.message.is_empty() { Ok(()) } else { write!(out, ": {}", self.message) }
    }
}

impl Session {
    /// Derives the readiness from the object's status.
    pub fn new(object: impl Into<Arc<BrowserSession>>) -> Self {
        let object = object.into();
        Self { readiness: Readiness::of(&object), object }
    }

    /// UID of the object.
    pub fn uid(&self) -> &str {
        self.object.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The pool that serves the session, or else the pool in its spec. None when it has neither.
    pub fn pool(&self) -> Option<Key> {
        Key::new(self.object.pool_namespace(), pool_name(&self.object))
    }

    /// Whether a path with this pool matches the session. None matches every session. A session without a pool matches
    /// every pool.
    pub fn is_in_pool(&self, pool: Option<&str>) -> bool {
        let own = pool_name(&self.object);
        pool.is_none_or(|pool| pool == own || own.is_empty())
    }

    /// Whether the session may be waiting for a slot.
    pub fn may_be_queued(&self) -> bool {
        matches!(self.readiness, Readiness::NotReady(SessionState::Pending | SessionState::Queued))
    }

    /// Whether the session has a live view. False until it is Ready.
    pub fn has_live_view(&self) -> bool {
        self.object.status.as_ref().is_some_and(|status| status.vnc.is_some())
    }
}

/// Name of the pool that serves a session, or else of the pool in its spec, or else empty.
pub fn pool_name(session: &BrowserSession) -> &str {
    let serving = session.status.as_ref().and_then(|status| status.pool.as_deref());
    serving.or(session.spec.pool_ref.as_ref().map(|pool| pool.name.as_str())).unwrap_or_default()
}

impl Readiness {
    fn of(object: &BrowserSession) -> Self {
        let Some(status) = &object.status else {
            return Self::NotReady(SessionState::Pending);
        };
        if let Some(finished) =
            conditions::get(&status.conditions, FINISHED).filter(|it| it.status == ConditionStatus::True.as_str())
        {
            return Self::Finished(FinishedReason {
                reason: finished.reason.clone(),
                message: finished.message.clone(),
            });
        }
        // `Unknown` means that the operator cannot reach the runner. The gateway tries, because it may still reach it.
        let may_be_ready =
            conditions::get(&status.conditions, READY).is_some_and(|it| it.status != ConditionStatus::False.as_str());
        match &status.runner {
            Some(runner) if may_be_ready => Self::Ready(runner.clone()),
            _ => Self::NotReady(status.state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::{BrowserSessionSpec, BrowserSessionStatus, PoolRef};
    use k8s_openapi::jiff::Timestamp;

    fn readiness(conditions: &[(&str, ConditionStatus, &str)], runner: bool) -> Readiness {
        let mut object = BrowserSession::new("s", BrowserSessionSpec::default());
        let mut status = BrowserSessionStatus { state: SessionState::Starting, ..BrowserSessionStatus::default() };
        for (type_, truth, reason) in conditions {
            conditions::set(&mut status.conditions, type_, *truth, reason, "message", None, Timestamp::UNIX_EPOCH);
        }
        status.runner = runner.then(self::runner);
        object.status = Some(status);
        Session::new(object).readiness
    }

    fn runner() -> RunnerRef {
        RunnerRef { name: "pod".into(), uid: "pod-uid".into(), address: "10.0.0.1:8070".into() }
    }

    #[test]
    fn derives_readiness_from_conditions() {
        let not_ready = Readiness::NotReady(SessionState::Starting);
        let finished = Readiness::Finished(FinishedReason { reason: "IdleTimeout".into(), message: "message".into() });
        assert_eq!(readiness(&[], false), not_ready);
        assert_eq!(readiness(&[], true), not_ready);
        assert_eq!(readiness(&[(READY, ConditionStatus::False, "BrowserStarting")], true), not_ready);
        assert_eq!(readiness(&[(READY, ConditionStatus::True, "BrowserReady")], true), Readiness::Ready(runner()));
        assert_eq!(readiness(&[(READY, ConditionStatus::True, "BrowserReady")], false), not_ready);
        assert_eq!(
            readiness(&[(READY, ConditionStatus::Unknown, "RunnerUnreachable")], true),
            Readiness::Ready(runner())
        );
        let over = [(READY, ConditionStatus::False, "IdleTimeout"), (FINISHED, ConditionStatus::True, "IdleTimeout")];
        assert_eq!(readiness(&over, true), finished);
        let bare = BrowserSession::new("s", BrowserSessionSpec::default());
        assert_eq!(Session::new(bare).readiness, Readiness::NotReady(SessionState::Pending));
    }

    #[test]
    fn the_serving_pool_takes_precedence_over_the_named_pool() {
        let session = |named: Option<&str>, serving: Option<&str>| {
            let pool_ref = named.map(|name| PoolRef { name: name.into(), namespace: None });
            let spec = BrowserSessionSpec { pool_ref, ..BrowserSessionSpec::default() };
            let mut object = BrowserSession::new("s", spec);
            object.metadata.namespace = Some("ns".into());
            object.status =
                Some(BrowserSessionStatus { pool: serving.map(str::to_owned), ..BrowserSessionStatus::default() });
            Session::new(object)
        };
        for (named, serving, pool) in [
            (None, Some("a"), Some("a")),
            (Some("a"), None, Some("a")),
            (Some("b"), Some("a"), Some("a")),
            (None, None, None),
        ] {
            let session = session(named, serving);
            assert_eq!(session.pool(), pool.and_then(|pool| Key::new("ns", pool)));
            assert!(session.is_in_pool(None) && session.is_in_pool(Some("a")));
            assert_eq!(session.is_in_pool(Some("b")), pool.is_none(), "a session without a pool matches every pool");
        }
    }

    #[test]
    fn a_key_accepts_only_valid_object_names() {
        for good in ["a", "demo", "a-1.b2", "0"] {
            assert!(Key::new("ns", good).is_some(), "{good:?}");
        }
        let long = "a".repeat(254);
        for bad in ["", ".", "..", "a/b", "../secrets", "a..b", "-a", "a-", "A", "a?x", "a%2f", "ä", &long] {
            assert!(Key::new("ns", bad).is_none() && Key::new(bad, "a").is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_finish_displays_its_reason_and_message() {
        let finish =
            |message: &str| FinishedReason { reason: "IdleTimeout".into(), message: message.into() }.to_string();
        assert_eq!(finish("300 s"), "IdleTimeout: 300 s");
        assert_eq!(finish(""), "IdleTimeout");
    }
}
