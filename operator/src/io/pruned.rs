//! Tracks fields that the API server prunes from writes, and reports them in the log and the readiness probe.

use crate::core::Observation;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Time after which a field that was not reported again counts as fixed: the CRDs were updated, or no object has the
/// field any more. The core repeats a partly pruned write within 30 s, and a write takes a few seconds at most.
const FORGET_AFTER: Duration = Duration::from_secs(90);

/// Fields whose stored value differs from the written one.
#[derive(Debug, Default)]
pub(super) struct PrunedFields {
    /// Fields of a status. The CRDs are older than the operator, so the readiness probe fails.
    pruned: Fields,
    /// Fields of metadata. Users can change them, so they do not affect readiness.
    reverted: Fields,
}

/// Time of the last report, by kind and field.
#[derive(Debug, Default)]
struct Fields(Mutex<BTreeMap<(&'static str, String), Instant>>);

impl PrunedFields {
    /// Records the fields of an observation, and logs those that are new.
    pub(super) fn observe(&self, observation: &Observation) {
        match observation {
            Observation::Pruned { kind, object, fields } => {
                for field in fields.iter().filter(|field| self.pruned.report(kind, field, Instant::now())) {
                    tracing::warn!(
                        kind,
                        namespace = object.namespace,
                        name = object.name,
                        field,
                        "the API server pruned a field of a write: apply the CRDs of this version, or find the webhook \
                         that removes the field"
                    );
                }
            }
            Observation::Reverted { kind, object, field } => {
                if self.reverted.report(kind, field, Instant::now()) {
                    tracing::warn!(
                        kind,
                        namespace = object.namespace,
                        name = object.name,
                        field,
                        "a field of a write was reverted: find the webhook or user that changes the field"
                    );
                }
            }
            Observation::Assigned { .. }
            | Observation::Bound { .. }
            | Observation::Ready { .. }
            | Observation::Ended { .. } => {}
        }
    }

    /// Message of the readiness probe, with the fields and what to do. `None` if the API server prunes no field of a
    /// status.
    pub(super) fn readiness_error(&self) -> Option<String> {
        self.readiness_error_at(Instant::now())
    }

    fn readiness_error_at(&self, now: Instant) -> Option<String> {
        let fields = self.pruned.current(now);
        (!fields.is_empty()).then(|| {
            format!(
                "the API server prunes these fields: {}. Apply the CRDs of this version, or find the webhook that \
                 removes them. Sessions are still served",
                fields.join(", ")
            )
        })
    }
}

impl Fields {
    /// Records a field. Returns whether it is new.
    fn report(&self, kind: &'static str, field: &str, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, last| now.duration_since(*last) < FORGET_AFTER);
        known.insert((kind, field.to_owned()), now).is_none()
    }

    /// The fields that have not been fixed, with their kinds.
    fn current(&self, now: Instant) -> Vec<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = known.iter().filter(|(_, last)| now.duration_since(**last) < FORGET_AFTER);
        current.map(|((kind, field), _)| format!("{kind} {field}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Key;

    #[test]
    fn reports_a_field_once_and_forgets_it_after_90_seconds() {
        let (pruned, start) = (PrunedFields::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pruned.readiness_error_at(start), None);
        assert!(pruned.pruned.report("BrowserSession", "status.observedGeneration", start));
        assert!(!pruned.pruned.report("BrowserSession", "status.observedGeneration", at(60)));
        assert!(pruned.pruned.report("WorkerPool", "status.observedGeneration", at(60)));
        let readiness_error = pruned.readiness_error_at(at(149)).unwrap();
        assert!(
            readiness_error.contains("BrowserSession status.observedGeneration, WorkerPool status.observedGeneration")
        );
        assert_eq!(pruned.readiness_error_at(at(150)), None);
        assert!(
            pruned.pruned.report("BrowserSession", "status.observedGeneration", at(200)),
            "the field is reported again"
        );
    }

    #[test]
    fn reverted_metadata_does_not_fail_readiness() {
        let (pruned, object) = (PrunedFields::default(), Key { namespace: "own".to_owned(), name: "a".to_owned() });
        let field = "metadata.annotations.camofleet.dev/public-keys".to_owned();
        pruned.observe(&Observation::Reverted { kind: "Pod", object: object.clone(), field });
        assert_eq!((pruned.reverted.current(Instant::now()).len(), pruned.readiness_error()), (1, None));
        pruned.observe(&Observation::Pruned { kind: "WorkerPool", object, fields: vec!["status.queued".to_owned()] });
        assert!(
            pruned
                .readiness_error()
                .is_some_and(|readiness_error| readiness_error.contains("WorkerPool status.queued. "))
        );
    }
}
