//! Tracks the write of one object's status, and detects that the API server stores only a part of it. An older CRD
//! prunes unknown fields, and a webhook may change others. Such a write succeeds, so comparing the desired status with
//! the stored one would repeat the write endlessly.

use crate::core::{
    clock::Monotonic,
    ids::Key,
    messages::{Effect, Observation, WriteFailure},
    retry::RetryState,
};
use serde::Serialize;
use serde_json::Value;

/// Most fields that are named in one observation. One is enough to find the cause.
const MAX_FIELDS: usize = 8;

/// The write of a status of type `S`. At most one is in flight.
#[derive(Debug)]
pub(super) struct StatusWrite<S> {
    call: RetryState,
    /// The status of the write in flight.
    sent: Option<Box<S>>,
    /// The last write, if it was stored only in part.
    pruned: Option<Box<PrunedWrite<S>>>,
}

/// A write that was stored only in part.
#[derive(Debug)]
struct PrunedWrite<S> {
    sent: S,
    stored: Option<S>,
}

impl<S> Default for StatusWrite<S> {
    fn default() -> Self {
        Self { call: RetryState::Idle, sent: None, pruned: None }
    }
}

impl<S: Clone + PartialEq + Serialize> StatusWrite<S> {
    /// The status from which to compute the next one: the sent one while the object still has the stored part of it,
    /// and otherwise the stored one. Starting from the stored part would set a pruned time to a new value at each
    /// attempt.
    pub(super) fn base<'a>(&'a self, stored: Option<&'a S>) -> Option<&'a S> {
        self.pruned_write(stored).map(|write| &write.sent).or(stored)
    }

    /// Returns whether `desired` has to be written now. A pruned write is repeated after pauses that grow to 30 s,
    /// because the CRDs may be updated. A different desired status is written at once.
    pub(super) fn is_due(&self, stored: Option<&S>, desired: &S, now: Monotonic) -> bool {
        match self.pruned_write(stored) {
            Some(write) if write.sent != *desired => {
                matches!(self.call, RetryState::Idle | RetryState::Pause { .. })
            }
            Some(_) => self.call.may_start(now),
            None => stored != Some(desired) && self.call.may_start(now),
        }
    }

    /// Returns whether no status may be written now.
    pub(super) fn is_blocked(&self, now: Monotonic) -> bool {
        self.pruned.is_none() && !self.call.may_start(now)
    }

    pub(super) fn begin(&mut self, desired: S) {
        self.call = self.call.started();
        self.sent = Some(Box::new(desired));
    }

    /// Records that the write was accepted. Returns the fields whose stored value differs from the one that was sent.
    pub(super) fn accepted(&mut self, stored: Option<&S>, id: &str, now: Monotonic) -> Vec<String> {
        let sent = self.sent.take();
        let fields = sent.as_deref().map(|sent| differences(sent, stored)).unwrap_or_default();
        if fields.is_empty() {
            (self.call, self.pruned) = (RetryState::Idle, None);
        } else {
            self.call = self.call.failed(id, now);
            self.pruned = sent.map(|sent| Box::new(PrunedWrite { sent: *sent, stored: stored.cloned() }));
        }
        fields
    }

    /// Records that the write failed, or that its result is unknown. A rejected write is not repeated until the object
    /// changes.
    pub(super) fn failed(&mut self, failure: &WriteFailure, id: &str, now: Monotonic) {
        (self.sent, self.pruned) = (None, None);
        self.call = match failure {
            WriteFailure::Rejected(_) => RetryState::Rejected,
            WriteFailure::Conflict | WriteFailure::Gone | WriteFailure::Transient(_) => self.call.failed(id, now),
        };
    }

    /// Allows a rejected write again, because the object has changed.
    pub(super) fn object_changed(&mut self) {
        if self.call == RetryState::Rejected {
            self.call = RetryState::Idle;
        }
    }

    /// When the write may be repeated.
    pub(super) fn retry_at(&self) -> Option<Monotonic> {
        self.call.retry_at()
    }

    fn pruned_write(&self, stored: Option<&S>) -> Option<&PrunedWrite<S>> {
        self.pruned.as_deref().filter(|write| write.stored.as_ref() == stored)
    }
}

/// The observation that these fields were not stored as sent. `None` without fields.
pub(super) fn observe_pruned(kind: &'static str, object: Key, fields: Vec<String>) -> Option<Effect> {
    (!fields.is_empty()).then_some(Effect::Observe(Observation::Pruned { kind, object, fields }))
}

/// The paths of the fields in which two statuses differ. They are compared as JSON, where times have the stored
/// precision.
fn differences<S: Serialize + PartialEq>(sent: &S, stored: Option<&S>) -> Vec<String> {
    if stored == Some(sent) {
        return Vec::new();
    }
    let json = |status: &S| serde_json::to_value(status).expect("a status serializes");
    let mut fields = Vec::new();
    compare("status", &json(sent), &stored.map_or(Value::Null, json), &mut fields);
    fields
}

fn compare(path: &str, sent: &Value, stored: &Value, fields: &mut Vec<String>) {
    match (sent, stored) {
        (Value::Object(sent), Value::Object(stored)) => {
            for (name, value) in sent {
                compare(&format!("{path}.{name}"), value, stored.get(name).unwrap_or(&Value::Null), fields);
            }
            for (name, value) in stored.iter().filter(|(name, _)| !sent.contains_key(*name)) {
                compare(&format!("{path}.{name}"), &Value::Null, value, fields);
            }
        }
        (Value::Array(sent), Value::Array(stored)) if sent.len() == stored.len() => {
            for (sent, stored) in sent.iter().zip(stored) {
                compare(&format!("{path}[]"), sent, stored, fields);
            }
        }
        _ if sent == stored => {}
        _ => {
            let path = path.to_owned();
            if fields.len() < MAX_FIELDS && !fields.contains(&path) {
                fields.push(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::{
        conditions::{self, ConditionStatus, READY},
        v1alpha1::{BrowserSessionStatus, LiveViewUrls},
    };
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};

    fn status() -> BrowserSessionStatus {
        let mut status = BrowserSessionStatus {
            observed_generation: Some(3),
            ready_time: Some(MicroTime(Timestamp::from_nanosecond(1_800_000_000_123_456_789).unwrap())),
            vnc: Some(LiveViewUrls { url: "a".into(), ws_endpoint: "b".into() }),
            ..BrowserSessionStatus::default()
        };
        conditions::set(
            &mut status.conditions,
            READY,
            ConditionStatus::True,
            "BrowserReady",
            "",
            Some(3),
            Timestamp::UNIX_EPOCH,
        );
        status
    }

    /// The API server's answer with some fields removed.
    fn stored(status: &BrowserSessionStatus, without: &[&str]) -> BrowserSessionStatus {
        let mut json = serde_json::to_value(status).unwrap();
        for path in without {
            let (parent, field) = path.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field);
        }
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn names_the_fields_that_were_not_stored() {
        let sent = status();
        for (without, expected) in [
            (vec![], vec![]),
            (vec!["/observedGeneration"], vec!["status.observedGeneration"]),
            (vec!["/vnc"], vec!["status.vnc"]),
            (vec!["/conditions/0/observedGeneration"], vec!["status.conditions[].observedGeneration"]),
            (vec!["/readyTime", "/conditions"], vec!["status.conditions", "status.readyTime"]),
        ] {
            assert_eq!(differences(&sent, Some(&stored(&sent, &without))), expected, "without {without:?}");
        }
        assert_eq!(differences(&sent, None), ["status"]);
        let more = BrowserSessionStatus { pool: Some("p".into()), ..sent.clone() };
        assert_eq!(differences(&sent, Some(&more)), ["status.pool"], "a field that was not removed is named too");
    }

    #[test]
    fn retries_a_pruned_write_with_backoff_and_another_status_at_once() {
        let mut write = StatusWrite::default();
        let (sent, mut now) = (status(), 0);
        let stored = stored(&sent, &["/observedGeneration", "/readyTime"]);
        assert!(write.is_due(None, &sent, Monotonic(now)));
        for _ in 0..12 {
            write.begin(sent.clone());
            assert!(!write.is_due(Some(&stored), &sent, Monotonic(now)), "a write is in flight");
            assert_eq!(
                write.accepted(Some(&stored), "s", Monotonic(now)),
                ["status.observedGeneration", "status.readyTime"]
            );
            assert_eq!(write.base(Some(&stored)), Some(&sent));
            let Monotonic(retry_at) = write.retry_at().unwrap();
            assert!(retry_at > now + 100 && !write.is_due(Some(&stored), &sent, Monotonic(retry_at - 1)));
            assert!(write.is_due(Some(&stored), &sent, Monotonic(retry_at)));
            now = retry_at;
        }
        assert!(now > 100_000, "the pauses do not grow: {now} ms for 12 writes");
        let other = BrowserSessionStatus { pool: Some("p".into()), ..sent.clone() };
        assert!(write.is_due(Some(&stored), &other, Monotonic(now - 1)));
        // The status of another writer does not belong to the pruned write.
        assert_eq!(write.base(Some(&other)), Some(&other));
        // After a failure every status waits for the pause.
        write.begin(other.clone());
        write.failed(&WriteFailure::Transient("no answer".into()), "s", Monotonic(now));
        assert!(
            !write.is_due(Some(&stored), &other, Monotonic(now)) && !write.is_due(Some(&stored), &sent, Monotonic(now))
        );
        // With newer CRDs the write is stored completely.
        write.begin(sent.clone());
        assert_eq!(write.accepted(Some(&sent), "s", Monotonic(now)), Vec::<String>::new());
        assert!(!write.is_due(Some(&sent), &sent, Monotonic(now)) && write.retry_at().is_none());
    }
}
