//! The activity of a session, which its runner knows and its status does not hold.

use camofleet_runner_api::StartPage;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// What a runner reports of a session beyond its published status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// When a client was last active in it.
    pub last_active: Timestamp,
    /// The state of its start page.
    pub start_page: StartPage,
    /// Number of connected clients.
    pub clients: u32,
}

impl Activity {
    /// Whether both reports are the same. The time of the last activity may differ by less than a second, because it
    /// is computed from an age.
    pub(super) fn is_equivalent(&self, other: &Self) -> bool {
        self.last_active.duration_since(other.last_active).abs() < SignedDuration::from_secs(1)
            && self.start_page == other.start_page
            && self.clients == other.clients
    }
}
