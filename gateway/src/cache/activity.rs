//! The activity of a session, which its runner reports and its status does not contain.

use camofleet_runner_api::StartPage;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// What a runner reports about a session beyond the session's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// When a client last sent data. Computed from an age, so it is accurate to about a second.
    pub last_active: Timestamp,
    /// The state of the start page.
    pub start_page: StartPage,
    /// Number of connected clients.
    pub clients: u32,
}

impl Activity {
    /// Whether both reports are equal, except for less than a second between their `last_active`.
    pub(super) fn is_equivalent(&self, other: &Self) -> bool {
        self.last_active.duration_since(other.last_active).abs() < SignedDuration::from_secs(1)
            && self.start_page == other.start_page
            && self.clients == other.clients
    }
}
