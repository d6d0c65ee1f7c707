//! Pools: state, scaling, launches, rollout and published status.

pub(in crate::core) mod autoscaling;
pub(in crate::core) mod budget;
pub(in crate::core) mod diagnosis;
pub(in crate::core) mod launch;
pub(in crate::core) mod launches;
pub(in crate::core) mod namespace_policy;
pub(in crate::core) mod places;
pub(in crate::core) mod reconcile;
pub(in crate::core) mod rollout;
pub(in crate::core) mod scale;
pub(in crate::core) mod shapes;
pub(in crate::core) mod state;
pub(in crate::core) mod status;
pub(in crate::core) mod writes;
