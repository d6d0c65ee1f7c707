//! What keeps a pool's runners from coming up.

use crate::core::{
    clock::Now,
    pool::state::{Pool, Trouble},
    runner::{
        pod_read::{self, Fate},
        state::Runner,
    },
};
use camofleet_crds::conditions::pool as reasons;
use std::time::Duration;

/// A pool that lacks runners and has got none for so long needs somebody's help; as with Deployments.
pub(in crate::core) const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// What keeps runners of the shape in which the pool makes them from coming up, for `Stalled`.
pub(in crate::core) fn trouble_of(pool: &Pool, runners: &[&Runner], now: Now) -> Option<Trouble> {
    let serving: Vec<_> = runners.iter().copied().filter(|runner| !pool.tests(&runner.pod.revision)).collect();
    let silence = || {
        pool.lacking.filter(|since| since.after(PROGRESS_DEADLINE) <= now.mono)?;
        let words = "no runner has come up for 10 minutes: look at the pods' events and logs";
        Some((reasons::NO_PROGRESS, words.to_owned()))
    };
    let refusal = if pool.makes_none() { pool.refusal() } else { None };
    let failed = || pool.trouble(&pool.makes().revision);
    refusal.or_else(failed).or_else(|| trouble_among(&serving)).or_else(silence)
}

/// The reason for `Stalled` when the canary cannot be created or cannot load a page.
pub(in crate::core) fn trouble_of_canary(pool: &Pool, runners: &[&Runner], now: Now) -> Option<Trouble> {
    if let Some(refusal) = pool.refusal() {
        return Some(refusal);
    }
    let canaries: Vec<_> = runners.iter().copied().filter(|runner| pool.tests(&runner.pod.revision)).collect();
    let silence = || {
        let silent = canaries.iter().find(|canary| canary.created.after(PROGRESS_DEADLINE) <= now.mono)?;
        let words =
            format!("pod {} has not loaded a page in 10 minutes: look at its events and logs", silent.pod.key.name);
        Some((reasons::NO_PROGRESS, words))
    };
    let failed = if pool.is_testing() { pool.trouble(&pool.wished.revision) } else { None };
    let (_, words) = failed.or_else(|| trouble_among(&canaries)).or_else(silence)?;
    let words = format!(
        "the first runner of the new shape does not come up: {words}. Runners of the former shape go on serving: correct the pool, \
         or set it back"
    );
    Some((reasons::CANARY_FAILED, words))
}

/// What these runners say themselves, or their pods.
fn trouble_among(runners: &[&Runner]) -> Option<Trouble> {
    let pending = runners.iter().find_map(|runner| match &runner.pod.fate {
        Fate::Pending(Some(pod_read::Trouble::Image(words))) => Some((
            reasons::IMAGE_ERROR,
            format!("pod {}: {words}; correct template.image or its pull secrets", runner.pod.key.name),
        )),
        Fate::Pending(Some(pod_read::Trouble::Unschedulable(words))) => Some((
            reasons::UNSCHEDULABLE,
            format!(
                "pod {}: {words}; add nodes, or change the template's resources, nodeSelector or tolerations",
                runner.pod.key.name
            ),
        )),
        // What set the gate removes it when the pod's turn has come.
        Fate::Pending(Some(pod_read::Trouble::Gated) | None) | Fate::Running | Fate::Over { .. } => None,
    });
    let browsers = || {
        runners.iter().filter_map(|runner| runner.state.as_ref()).find_map(|state| {
            let error = state.launch_error.as_ref().filter(|_| state.hot.headless + state.hot.headful == 0)?;
            Some((reasons::BROWSERS_FAILING, error.clone()))
        })
    };
    pending.or_else(browsers)
}
