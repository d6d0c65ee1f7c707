//! The core's messages: events in, effects out.

use crate::core::{config::DisplayKind, stack::StackId};
use camofleet_crds::v1alpha1::StartUrlWait;
use std::time::Duration;

/// Something that happened outside the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A browser was launched and is ready.
    Launched {
        /// The browser's stack.
        stack: StackId,
        /// Version that the browser reports.
        version: String,
    },
    /// A browser, its server or its display failed. The driver tears the stack down without an effect and then sends
    /// `Removed`.
    Failed {
        /// The failed stack.
        stack: StackId,
        /// The cause, for the session's status.
        message: String,
    },
    /// All processes and files of a stack are gone.
    Removed {
        /// The removed stack.
        stack: StackId,
    },
    /// A browser answered a ping.
    PingAnswered {
        /// The browser's stack.
        stack: StackId,
    },
    /// A page was loaded or failed to load.
    PageFinished {
        /// The browser's stack.
        stack: StackId,
        /// The cause of a failure; absent when the page was loaded.
        error: Option<String>,
    },
    /// A client connected to a session's Playwright server.
    ClientConnected {
        /// The session's stack.
        stack: StackId,
    },
    /// A client disconnected from a session's Playwright server.
    ClientDisconnected {
        /// The session's stack.
        stack: StackId,
    },
    /// A client of a session sent data.
    ClientActive {
        /// The session's stack.
        stack: StackId,
    },
    /// The runner's pod is being deleted.
    Drain,
    /// Time passed.
    Tick,
}

/// An operation for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Launch a browser. The driver replies with `Launched` or `Failed`.
    Launch {
        /// Id of the new stack.
        stack: StackId,
        /// Whether the browser has a display.
        kind: DisplayKind,
    },
    /// Prepare a browser for the clients of the session that it is assigned to.
    Bind {
        /// The browser's stack.
        stack: StackId,
        /// How long the contexts of a lost client with a name are kept.
        reconnect_grace: Duration,
    },
    /// Open a page. The driver replies with `PageFinished`.
    OpenPage {
        /// The browser's stack.
        stack: StackId,
        /// URL of the page.
        url: String,
        /// State at which the page counts as loaded.
        wait: StartUrlWait,
    },
    /// Check that a browser responds. The driver replies with `PingAnswered` when it does.
    Ping {
        /// The browser's stack.
        stack: StackId,
    },
    /// Tear a stack down. The driver replies with `Removed`.
    Stop {
        /// The stack to stop.
        stack: StackId,
    },
}
