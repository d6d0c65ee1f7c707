//! Simulated browsers: they take the effects of the runner's state machine and return the events that real processes
//! would cause. They need no process, task or timer.

use camofleet_runner::core::{Effect, Event, StackId};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The browser version in reports.
const VERSION: &str = "153.0";

/// A fault of the browsers of one runner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Browsers work.
    #[default]
    None,
    /// Launches never finish.
    LaunchHangs,
    /// Launched browsers do not respond.
    Hangs,
    /// Browsers cannot load pages.
    PageLoadFails,
}

/// The browsers of one runner.
#[derive(Debug)]
pub(super) struct Browsers {
    launch_time: Duration,
    fault: Fault,
    /// Running launches and when each finishes.
    launching: BTreeMap<StackId, Instant>,
    launches: usize,
}

impl Browsers {
    pub(super) fn new(launch_time: Duration, fault: Fault) -> Self {
        Self { launch_time, fault, launching: BTreeMap::new(), launches: 0 }
    }

    /// Browsers of a restarted runner process: none is launched.
    pub(super) fn restarted(&self) -> Self {
        Self::new(self.launch_time, self.fault)
    }

    /// Sets the fault of running and future browsers. A launch that hangs stays hung.
    pub(super) fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
    }

    /// Number of launches started.
    pub(super) fn launches(&self) -> usize {
        self.launches
    }

    /// Carries out an effect and returns the event that it causes at once, if any.
    pub(super) fn carry_out(&mut self, effect: Effect, now: Instant) -> Option<Event> {
        match effect {
            Effect::Launch { stack, .. } => {
                self.launches += 1;
                match self.fault {
                    Fault::LaunchHangs => None,
                    Fault::None | Fault::Hangs | Fault::PageLoadFails if self.launch_time.is_zero() => {
                        Some(launched(stack))
                    }
                    Fault::None | Fault::Hangs | Fault::PageLoadFails => {
                        self.launching.insert(stack, now + self.launch_time);
                        None
                    }
                }
            }
            Effect::Bind { .. } => None,
            Effect::OpenPage { stack, url, .. } => match self.fault {
                Fault::None | Fault::LaunchHangs => Some(Event::PageFinished { stack, error: None }),
                Fault::PageLoadFails => Some(Event::PageFinished {
                    stack,
                    error: Some(format!("the simulated browser does not load {url}")),
                }),
                Fault::Hangs => None,
            },
            Effect::Ping { stack } => match self.fault {
                Fault::None | Fault::LaunchHangs | Fault::PageLoadFails => Some(Event::PingAnswered { stack }),
                Fault::Hangs => None,
            },
            // A browser that hangs can still be killed.
            Effect::Stop { stack } => {
                self.launching.remove(&stack);
                Some(Event::Removed { stack })
            }
        }
    }

    /// Removes a launch that has finished by now and returns its event.
    pub(super) fn next_launched(&mut self, now: Instant) -> Option<Event> {
        let (&stack, _) = self.launching.iter().find(|(_, ready)| **ready <= now)?;
        self.launching.remove(&stack);
        Some(launched(stack))
    }

    /// Time at which the next launch finishes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.launching.values().min().copied()
    }

    /// Crashes a browser and returns the resulting events.
    pub(super) fn crash(&mut self, stack: StackId) -> [Event; 2] {
        self.launching.remove(&stack);
        [Event::Failed { stack, message: "the simulated browser crashed".to_owned() }, Event::Removed { stack }]
    }
}

fn launched(stack: StackId) -> Event {
    Event::Launched { stack, version: VERSION.to_owned() }
}
