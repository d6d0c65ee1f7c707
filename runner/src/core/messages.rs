//! What goes into the core and what comes out of it.

use crate::core::{plan::Kind, stack::StackId};
use camofleet_crds::v1alpha1::StartUrlWait;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A browser is ready.
    Launched {
        /// Its stack.
        stack: StackId,
        /// The browser's version.
        version: String,
    },
    /// A browser, its server or its display failed. The driver takes the stack down without being asked, and reports `Removed`.
    Failed {
        /// Its stack.
        stack: StackId,
        /// Why, for the session's status.
        message: String,
    },
    /// Nothing of a stack is left.
    Removed {
        /// The stack.
        stack: StackId,
    },
    /// A browser answered a ping.
    PingAnswered {
        /// Its stack.
        stack: StackId,
    },
    /// A page was loaded or failed to load.
    PageFinished {
        /// The browser's stack.
        stack: StackId,
        /// Why it failed; absent when it was loaded.
        error: Option<String>,
    },
    /// A client connected to a session's Playwright server.
    ClientConnected {
        /// The session's stack.
        stack: StackId,
    },
    /// Such a client left.
    ClientDisconnected {
        /// The session's stack.
        stack: StackId,
    },
    /// A client of a session sent something.
    ClientActive {
        /// The session's stack.
        stack: StackId,
    },
    /// The runner's pod is being deleted.
    Drain,
    /// Time passed.
    Tick,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Launch a browser. Answered by `Launched` or `Failed`.
    Launch {
        /// Its stack.
        stack: StackId,
        /// With or without a display.
        kind: Kind,
    },
    /// Load a page. Answered by `PageFinished`.
    OpenPage {
        /// The browser's stack.
        stack: StackId,
        /// The page.
        url: String,
        /// What of the page counts as loaded.
        wait: StartUrlWait,
    },
    /// Ask a browser whether it responds. Answered by `PingAnswered`.
    Ping {
        /// Its stack.
        stack: StackId,
    },
    /// Take a stack down. Answered by `Removed`.
    Stop {
        /// The stack.
        stack: StackId,
    },
}
