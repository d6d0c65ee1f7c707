//! What a runner is configured to be, and the kinds of browsers that it runs.

use camofleet_crds::v1alpha1::Display;
use camofleet_runner_api::Hot;
use std::time::Duration;

/// Whether a browser has a display. It never changes while the browser runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Without a display.
    Headless,
    /// On a display, which clients can view.
    Headful,
}

impl Kind {
    /// The share of this kind in a number of hot browsers.
    pub(super) fn of(self, hot: Hot) -> u32 {
        match self {
            Self::Headless => hot.headless,
            Self::Headful => hot.headful,
        }
    }
}

impl From<Display> for Kind {
    fn from(display: Display) -> Self {
        match display {
            Display::Headless => Self::Headless,
            Display::Headful | Display::LiveView => Self::Headful,
        }
    }
}

/// A runner's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sessions at once.
    pub slots: u32,
    /// Sessions in all, after which the runner takes no more; 0: no limit.
    pub sessions: u32,
    /// Hot browsers to keep, together at most `slots`.
    pub prewarm: Hot,
    /// The kind of browser that has to load a page once before the runner counts as warm.
    pub smoke_test: Option<Kind>,
    /// Launches at once.
    pub launches: u32,
    /// How long live sessions continue once the runner drains.
    pub drain_timeout: Duration,
}
