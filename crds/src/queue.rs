//! The order in which waiting sessions are served. Everyone who shows a queue position computes it from here.

use crate::v1alpha1::BrowserSession;
use k8s_openapi::jiff::Timestamp;

/// Where a session stands in the queue: the smaller is served first. A function of the object alone, so that every start
/// of the operator finds the same order.
///
/// `creationTimestamp` has whole seconds; within one, the UID decides. That is not the order of arrival, but it is the
/// same order every time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    created: Timestamp,
    uid: String,
}

impl QueueKey {
    /// The place of this session.
    pub fn of(session: &BrowserSession) -> Self {
        Self {
            created: session.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0),
            uid: session.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn earlier_comes_first_and_the_uid_breaks_ties() {
        let key = |second, uid: &str| {
            let mut session = BrowserSession::new("s", crate::v1alpha1::BrowserSessionSpec::default());
            session.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
            session.metadata.uid = Some(uid.to_owned());
            QueueKey::of(&session)
        };
        assert!(key(1, "z") < key(2, "a"));
        assert!(key(2, "a") < key(2, "b"));
    }
}
