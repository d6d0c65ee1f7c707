//! Polls runners for the activity of sessions: last activity, start page, connected clients. Runners are polled only
//! while a client reads sessions, and for each session at most once per interval.

use crate::{
    cache::{
        activity::Activity,
        changes::Changed,
        session::{Key, Session},
    },
    proxy::runner_client,
    state::Gateway,
};
use camofleet_auth::token::Scope;
use camofleet_crds::v1alpha1::RunnerRef;
use futures::{StreamExt, stream};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Number of concurrent polls.
const CONCURRENCY: usize = 32;
/// How long a request waits for polls. The response omits activity that was not reported by then.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// Polls the runners of these sessions whose activity is older than `max_age`, and records the sessions whose activity
/// changed.
pub async fn refresh(gateway: &Gateway, keys: &[Key], max_age: Duration) {
    let now = Instant::now();
    let due = |key: &Key| {
        gateway.sessions.take_due_poll(key, max_age, now).map(|(session, runner)| (key.clone(), session, runner))
    };
    let polls = stream::iter(keys.iter().filter_map(due)).for_each_concurrent(
        CONCURRENCY,
        |(key, session, runner)| async move {
            poll(gateway, &key, &session, &runner).await;
        },
    );
    if timeout(POLL_TIMEOUT, polls).await.is_err() {
        tracing::debug!("timed out polling runners for the activity of sessions");
    }
}

async fn poll(gateway: &Gateway, key: &Key, session: &Session, runner: &RunnerRef) {
    let uid = session.uid();
    let token = gateway.signer.hop_token(&runner.uid, uid, Scope::View, None);
    let report = match runner_client::report(&runner.address, uid, &token).await {
        Ok(report) => report,
        Err(error) => {
            return tracing::debug!(session = uid, %error, "could not read the session's report from its runner");
        }
    };
    let idle = SignedDuration::from_millis(report.idle_milliseconds.unwrap_or_default().try_into().unwrap_or_default());
    let activity = Activity {
        last_active: Timestamp::now().checked_sub(idle).unwrap_or(Timestamp::MIN),
        start_page: report.session.start_page,
        clients: report.session.clients,
    };
    if gateway.sessions.record_activity(key, uid, activity) {
        gateway.changes.record(Changed::Session(key.clone()));
    }
}
