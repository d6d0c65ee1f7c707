//! What time it is. The wall clock of this machine may be wrong, or be set while sessions wait: it is read once, carried on by
//! the monotonic clock, and corrected by the API server's, which stamps each write of the lease.

use crate::core::{Mono, Now};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::{SignedDuration, Timestamp},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Stamps have whole seconds, and answers take their time: what differs by no more than this is right.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(3);

/// Tells the time. All clones tell the same.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    start: Instant,
    /// The wall time at the start.
    started: Arc<Mutex<Timestamp>>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), started: Arc::new(Mutex::new(Timestamp::now())) }
    }

    pub(super) fn now(&self) -> Now {
        let elapsed = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::MAX);
        let started = *self.started.lock().unwrap_or_else(PoisonError::into_inner);
        Now {
            mono: Mono(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)),
            wall: started.saturating_add(elapsed).unwrap_or(started),
        }
    }

    /// Takes over the API server's time from what it has written since it was asked to, at that time by this clock.
    pub(super) fn correct(&self, asked: Timestamp, written: &ObjectMeta) {
        let stamps = written.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref());
        let Some(told) = stamps.map(|time| time.0).max() else { return };
        let wrong_by = told.duration_since(self.now().wall);
        if wrong_by > TOLERANCE || told.duration_since(asked) < -TOLERANCE {
            tracing::warn!(
                seconds = wrong_by.as_secs(),
                "the clock of this machine is not the API server's, which counts"
            );
            let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
            *started = started.saturating_add(wrong_by).unwrap_or(*started);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};

    fn written(at: Timestamp) -> ObjectMeta {
        let entry = |time| ManagedFieldsEntry { time: Some(Time(time)), ..ManagedFieldsEntry::default() };
        let former = at - SignedDuration::from_hours(5);
        ObjectMeta { managed_fields: Some(vec![entry(former), entry(at)]), ..ObjectMeta::default() }
    }

    #[test]
    fn the_api_servers_time_counts_where_it_differs_by_more_than_a_stamp_can() {
        let clock = Clock::start();
        let before = clock.now().wall;
        let second = SignedDuration::from_secs(1);
        clock.correct(before, &written(before - second));
        // It took its time to answer.
        clock.correct(before - second * 5, &written(before - second * 5));
        assert!(clock.now().wall.duration_since(before).abs() < second);
        let hour = SignedDuration::from_hours(1);
        for told in [before + hour, before - hour] {
            clock.correct(clock.now().wall, &written(told));
            assert!(clock.now().wall.duration_since(told).abs() < second);
        }
    }
}
