//! Pools: state, scaling, launches, rollout and published status.

pub(in crate::core) mod autoscaling;
pub(in crate::core) mod diagnosis;
pub(in crate::core) mod disruption_budget;
pub(in crate::core) mod launch_budget;
pub(in crate::core) mod namespace_policy;
pub(in crate::core) mod ordinals;
pub(in crate::core) mod pod_creation;
pub(in crate::core) mod reconcile;
pub(in crate::core) mod rollout;
pub(in crate::core) mod scale;
pub(in crate::core) mod shapes;
pub(in crate::core) mod state;
pub(in crate::core) mod status;
pub(in crate::core) mod writes;
