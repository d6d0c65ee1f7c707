//! A runner's configuration, and the kinds of browsers that it runs.

use camofleet_crds::v1alpha1::Display;
use camofleet_runner_api::BrowserCounts;
use std::time::Duration;

/// Whether a browser has a display. It is fixed at launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DisplayKind {
    /// Without a display.
    Headless,
    /// On a display, which clients can view.
    Headful,
}

impl DisplayKind {
    /// Returns the number of hot browsers of this kind.
    pub(super) fn count_in(self, hot: BrowserCounts) -> u32 {
        match self {
            Self::Headless => hot.headless,
            Self::Headful => hot.headful,
        }
    }
}

impl From<Display> for DisplayKind {
    fn from(display: Display) -> Self {
        match display {
            Display::Headless => Self::Headless,
            Display::Headful | Display::LiveView => Self::Headful,
        }
    }
}

/// A runner's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerConfig {
    /// Maximum number of concurrent sessions.
    pub slots: u32,
    /// 0 means no limit.
    pub max_total_sessions: u32,
    /// Number of hot browsers to keep ready, in total at most `slots`.
    pub prewarm: BrowserCounts,
    /// Kind of browser that has to load a page once before the runner counts as warm.
    pub smoke_test: Option<DisplayKind>,
    /// Number of CPUs, because launches are CPU-bound.
    pub max_concurrent_launches: u32,
    /// How long live sessions continue after the runner has begun to drain.
    pub drain_timeout: Duration,
}
