//! Remembers which fields the API server does not keep at present, and reports them to the log and the readiness probe.

use crate::core::Observation;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A write that landed in part is repeated within 30 s, and takes a few seconds at most. What was not reported again within this
/// time is over: the CRDs were updated, or no object has the field any more.
const FORGET_AFTER: Duration = Duration::from_secs(90);

/// The fields by kind, each with the time of the last report.
#[derive(Debug, Default)]
pub(super) struct PrunedFields(Mutex<BTreeMap<(&'static str, String), Instant>>);

impl PrunedFields {
    /// Takes the fields of an observation in, and logs those that are new.
    pub(super) fn observe(&self, observation: &Observation) {
        let Observation::Pruned { kind, object, fields } = observation else { return };
        let now = Instant::now();
        for field in fields {
            if self.report(kind, field, now) {
                tracing::warn!(
                    kind,
                    namespace = object.namespace,
                    name = object.name,
                    field,
                    "the API server did not keep a field that was written: apply the CRDs of this version, or find the webhook that \
                     changes it"
                );
            }
        }
    }

    /// Whether the field was not known before.
    fn report(&self, kind: &'static str, field: &str, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, last| now.duration_since(*last) < FORGET_AFTER);
        known.insert((kind, field.to_owned()), now).is_none()
    }

    /// What is wrong and what to do, for the readiness probe; none when every field is kept.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble_at(Instant::now())
    }

    fn trouble_at(&self, now: Instant) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = known.iter().filter(|(_, last)| now.duration_since(**last) < FORGET_AFTER);
        let fields: Vec<String> = current.map(|((kind, field), _)| format!("{kind} {field}")).collect();
        (!fields.is_empty()).then(|| {
            format!(
                "the API server does not keep these fields: {}. Apply the CRDs of this version, or find the webhook that changes them; \
                 sessions are served meanwhile",
                fields.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_reported_once_and_forgotten_when_it_does_not_come_again() {
        let (pruned, start) = (PrunedFields::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pruned.trouble_at(start), None);
        assert!(pruned.report("BrowserSession", "status.observedGeneration", start));
        assert!(!pruned.report("BrowserSession", "status.observedGeneration", at(60)));
        assert!(pruned.report("WorkerPool", "status.observedGeneration", at(60)));
        let trouble = pruned.trouble_at(at(149)).unwrap();
        assert!(trouble.contains("BrowserSession status.observedGeneration, WorkerPool status.observedGeneration"));
        assert_eq!(pruned.trouble_at(at(150)), None);
        assert!(pruned.report("BrowserSession", "status.observedGeneration", at(200)), "it is news again");
    }
}
