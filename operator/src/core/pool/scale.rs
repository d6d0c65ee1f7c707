//! How many runners an autoscaled pool should have: up at once with demand, down once demand was lower for a while.

use crate::core::clock::Mono;
use camofleet_crds::v1alpha1::{Autoscaling, WorkerPoolSpec};
use std::time::Duration;

/// What a pool's runners are needed for, and what they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::core) struct Need {
    /// Runners that have sessions, or can take no more: those that drain or are spent keep their place until they are gone.
    pub(in crate::core) kept: u32,
    /// Slots that are free on them.
    pub(in crate::core) free: u32,
    /// Sessions that wait for the pool and that its limits would let in.
    pub(in crate::core) waiting: u32,
    /// Sessions that its limits would let in at all.
    pub(in crate::core) allowed: u32,
}

impl Need {
    /// The runners that have room for that and for the buffer.
    fn replicas(self, autoscaling: &Autoscaling, slots_per_runner: i32) -> i32 {
        let buffer = u32::try_from(autoscaling.buffer_slots).unwrap_or_default();
        let slots = self.waiting.saturating_add(buffer).min(self.allowed).saturating_sub(self.free);
        let idle = slots.div_ceil(u32::try_from(slots_per_runner).unwrap_or(1).max(1));
        let runners = i32::try_from(self.kept.saturating_add(idle)).unwrap_or(i32::MAX);
        runners.clamp(autoscaling.min_replicas, autoscaling.max_replicas.max(autoscaling.min_replicas))
    }
}

/// How many runners a pool is to have now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) struct Scale {
    pub(in crate::core) desired: i32,
    /// Since when fewer would have done, and how many would have at most.
    scale_down: Option<(Mono, i32)>,
}

impl Scale {
    /// As it was when this operator came to the pool: what was published last, so that nothing is removed before it was
    /// too much for as long as the pool says.
    pub(in crate::core) fn resumed(spec: &WorkerPoolSpec, published: Option<i32>) -> Self {
        let desired = match &spec.autoscaling {
            Some(autoscaling) => published
                .unwrap_or_default()
                .clamp(autoscaling.min_replicas, autoscaling.max_replicas.max(autoscaling.min_replicas)),
            None => spec.fixed_replicas(),
        };
        Self { desired, scale_down: None }
    }

    pub(in crate::core) fn update(&mut self, spec: &WorkerPoolSpec, need: Need, now: Mono) {
        let Some(autoscaling) = &spec.autoscaling else {
            *self = Self { desired: spec.fixed_replicas(), scale_down: None };
            return;
        };
        let needed = need.replicas(autoscaling, spec.slots_per_runner);
        if needed >= self.desired {
            *self = Self { desired: needed, scale_down: None };
            return;
        }
        // More than the pool may have now is not waited for.
        self.desired = self.desired.min(autoscaling.max_replicas);
        let (since, peak) = self.scale_down.unwrap_or((now, needed));
        let peak = peak.max(needed);
        self.scale_down = Some((since, peak));
        if since.after(delay_of(autoscaling)) <= now {
            // What would have done is what did at the busiest moment; from here on it is looked at anew.
            *self = Self { desired: peak, scale_down: (needed < peak).then_some((now, needed)) };
        }
    }

    /// When there may be fewer.
    pub(in crate::core) fn scale_down_at(&self, spec: &WorkerPoolSpec) -> Option<Mono> {
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
        let need = Need { kept: running, free: 0, waiting, allowed: u32::MAX };
        scale.update(spec, need, Mono(second * 1000));
        scale.desired
    }

    #[test]
    fn scales_up_at_once_with_a_buffer_and_within_bounds() {
        let spec = spec(1, 5, 2, 2);
        let mut scale = Scale::resumed(&spec, None);
        assert_eq!(scale.desired, 1);
        assert_eq!(after(&mut scale, &spec, 0, 0, 0), 1);
        assert_eq!(after(&mut scale, &spec, 1, 1, 0), 2, "one runner that is full, and one with two slots to spare");
        assert_eq!(after(&mut scale, &spec, 2, 1, 4), 4);
        assert_eq!(after(&mut scale, &spec, 3, 1, 400), 5);
        let autoscaling = spec.autoscaling.unwrap();
        let need = |free, waiting, allowed| Need { kept: 1, free, waiting, allowed }.replicas(&autoscaling, 2);
        assert_eq!(
            [need(1, 0, 99), need(1, 1, 99), need(0, 9, 1), need(0, 0, 0)],
            [2, 2, 2, 1],
            "what is free, and what may be"
        );
    }

    #[test]
    fn scales_down_to_the_peak_of_the_delay() {
        let spec = spec(0, 9, 0, 1);
        let mut scale = Scale::resumed(&spec, Some(8));
        assert_eq!(after(&mut scale, &spec, 0, 2, 0), 8);
        assert_eq!(after(&mut scale, &spec, 30, 5, 0), 8);
        assert_eq!(after(&mut scale, &spec, 59, 0, 0), 8);
        assert_eq!(scale.scale_down_at(&spec), Some(Mono(60_000)));
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
