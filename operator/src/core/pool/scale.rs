//! Computes the desired number of runners. Autoscaling scales up at once, and down after demand was lower for a delay.

use crate::core::clock::Monotonic;
use camofleet_crds::v1alpha1::{Autoscaling, WorkerPoolSpec};
use std::time::Duration;

/// Demand for a pool's runners, and the capacity of the existing ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::core) struct RunnerDemand {
    /// Runners that cannot be removed as idle: those with sessions, and those that drain, are spent or are unreachable.
    pub(in crate::core) busy_runners: u32,
    /// Free slots of the busy runners.
    pub(in crate::core) free_slots: u32,
    /// Waiting sessions that the pool's limits allow.
    pub(in crate::core) waiting_sessions: u32,
    /// Number of further sessions that `limits.maxSessions` allows.
    pub(in crate::core) sessions_allowed: u32,
}

impl RunnerDemand {
    /// Number of runners for the waiting sessions and the buffer.
    fn replicas(self, autoscaling: &Autoscaling, slots_per_runner: i32) -> i32 {
        let buffer = u32::try_from(autoscaling.buffer_slots).unwrap_or_default();
        let slots =
            self.waiting_sessions.saturating_add(buffer).min(self.sessions_allowed).saturating_sub(self.free_slots);
        let idle = slots.div_ceil(u32::try_from(slots_per_runner).unwrap_or(1).max(1));
        let runners = i32::try_from(self.busy_runners.saturating_add(idle)).unwrap_or(i32::MAX);
        runners.clamp(autoscaling.min_replicas, autoscaling.max_replicas.max(autoscaling.min_replicas))
    }
}

/// The desired number of runners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) struct Scale {
    pub(in crate::core) desired: i32,
    /// Since when fewer runners are needed, and the peak of the demand since then.
    scale_down: Option<(Monotonic, i32)>,
}

impl Scale {
    /// Resumes from the published number, so that a new leader also waits for `scaleDownDelaySeconds`.
    pub(in crate::core) fn resumed(spec: &WorkerPoolSpec, published: Option<i32>) -> Self {
        let desired = match &spec.autoscaling {
            Some(autoscaling) => published
                .unwrap_or_default()
                .clamp(autoscaling.min_replicas, autoscaling.max_replicas.max(autoscaling.min_replicas)),
            None => spec.fixed_replicas(),
        };
        Self { desired, scale_down: None }
    }

    pub(in crate::core) fn update(&mut self, spec: &WorkerPoolSpec, demand: RunnerDemand, now: Monotonic) {
        let Some(autoscaling) = &spec.autoscaling else {
            *self = Self { desired: spec.fixed_replicas(), scale_down: None };
            return;
        };
        let needed = demand.replicas(autoscaling, spec.slots_per_runner);
        if needed >= self.desired {
            *self = Self { desired: needed, scale_down: None };
            return;
        }
        // A lower `maxReplicas` applies without a delay.
        self.desired = self.desired.min(autoscaling.max_replicas);
        let (since, peak) = self.scale_down.unwrap_or((now, needed));
        let peak = peak.max(needed);
        self.scale_down = Some((since, peak));
        if since.after(delay_of(autoscaling)) <= now {
            // Scale down to the peak of the delay. A new delay starts if even fewer are needed now.
            *self = Self { desired: peak, scale_down: (needed < peak).then_some((now, needed)) };
        }
    }

    /// When the delay ends.
    pub(in crate::core) fn scale_down_at(&self, spec: &WorkerPoolSpec) -> Option<Monotonic> {
        let (since, _) = self.scale_down?;
        spec.autoscaling.as_ref().map(|autoscaling| since.after(delay_of(autoscaling)))
    }
}

fn delay_of(autoscaling: &Autoscaling) -> Duration {
    Duration::from_secs(u64::try_from(autoscaling.scale_down_delay_seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(min: i32, max: i32, buffer: i32, slots: i32) -> WorkerPoolSpec {
        let autoscaling =
            Autoscaling { min_replicas: min, max_replicas: max, buffer_slots: buffer, scale_down_delay_seconds: 60 };
        WorkerPoolSpec { autoscaling: Some(autoscaling), slots_per_runner: slots, ..WorkerPoolSpec::default() }
    }

    fn after(scale: &mut Scale, spec: &WorkerPoolSpec, second: i64, running: u32, waiting: u32) -> i32 {
        let demand = RunnerDemand {
            busy_runners: running,
            free_slots: 0,
            waiting_sessions: waiting,
            sessions_allowed: u32::MAX,
        };
        scale.update(spec, demand, Monotonic(second * 1000));
        scale.desired
    }

    #[test]
    fn scales_up_at_once_with_a_buffer_and_within_bounds() {
        let spec = spec(1, 5, 2, 2);
        let mut scale = Scale::resumed(&spec, None);
        assert_eq!(scale.desired, 1);
        assert_eq!(after(&mut scale, &spec, 0, 0, 0), 1);
        assert_eq!(after(&mut scale, &spec, 1, 1, 0), 2, "one full runner, and one for the buffer of two slots");
        assert_eq!(after(&mut scale, &spec, 2, 1, 4), 4);
        assert_eq!(after(&mut scale, &spec, 3, 1, 400), 5);
        let autoscaling = spec.autoscaling.unwrap();
        let replicas = |free_slots, waiting_sessions, sessions_allowed| {
            RunnerDemand { busy_runners: 1, free_slots, waiting_sessions, sessions_allowed }.replicas(&autoscaling, 2)
        };
        assert_eq!(
            [replicas(1, 0, 99), replicas(1, 1, 99), replicas(0, 9, 1), replicas(0, 0, 0)],
            [2, 2, 2, 1],
            "free slots and limits"
        );
    }

    #[test]
    fn scales_down_to_the_peak_of_the_delay() {
        let spec = spec(0, 9, 0, 1);
        let mut scale = Scale::resumed(&spec, Some(8));
        assert_eq!(after(&mut scale, &spec, 0, 2, 0), 8);
        assert_eq!(after(&mut scale, &spec, 30, 5, 0), 8);
        assert_eq!(after(&mut scale, &spec, 59, 0, 0), 8);
        assert_eq!(scale.scale_down_at(&spec), Some(Monotonic(60_000)));
        assert_eq!(after(&mut scale, &spec, 60, 0, 0), 5);
        assert_eq!(after(&mut scale, &spec, 119, 0, 0), 5);
        assert_eq!(after(&mut scale, &spec, 120, 0, 0), 0, "to zero");
        assert_eq!(scale.scale_down_at(&spec), None);
        assert_eq!(after(&mut scale, &spec, 121, 0, 1), 1, "and back");
    }

    #[test]
    fn applies_a_lower_maximum_and_fixed_replicas_at_once() {
        let mut scale = Scale::resumed(&spec(0, 9, 0, 1), Some(8));
        assert_eq!(after(&mut scale, &spec(0, 3, 0, 1), 0, 0, 0), 3);
        let fixed = WorkerPoolSpec { replicas: Some(7), ..WorkerPoolSpec::default() };
        assert_eq!(after(&mut scale, &fixed, 1, 0, 0), 7);
    }
}
