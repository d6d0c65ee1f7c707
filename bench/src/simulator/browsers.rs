//! Simulated browsers: they take the effects of the runner's core and return the events that processes would cause, without a task
//! or a timer of their own.

use camofleet_runner::core::{Effect, Event, StackId};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The version that simulated browsers report.
const VERSION: &str = "153.0";

/// What is wrong with the browsers of a runner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// A launch never ends.
    LaunchHangs,
    /// A browser does not respond once it is launched.
    Hangs,
    /// A browser cannot load a page.
    PageLoadFails,
}

/// The browsers of one runner.
#[derive(Debug)]
pub(super) struct Browsers {
    launch_time: Duration,
    fault: Fault,
    /// Launches under way, and when each ends.
    launching: BTreeMap<StackId, Instant>,
    launches: usize,
}

impl Browsers {
    /// Browsers that take `launch_time` to launch, and have that fault.
    pub(super) fn new(launch_time: Duration, fault: Fault) -> Self {
        Self { launch_time, fault, launching: BTreeMap::new(), launches: 0 }
    }

    /// Those of another run of the runner's process, with nothing launched yet.
    pub(super) fn restarted(&self) -> Self {
        Self::new(self.launch_time, self.fault)
    }

    /// Sets what is wrong from now on, also with browsers that run. A launch that hangs is not cured.
    pub(super) fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
    }

    /// How many launches have begun.
    pub(super) fn launches(&self) -> usize {
        self.launches
    }

    /// Carries out an effect. Returns the event that follows at once, if one does.
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
            Effect::Open { stack, url, .. } => match self.fault {
                Fault::None | Fault::LaunchHangs => Some(Event::StartPage { stack, error: None }),
                Fault::PageLoadFails => {
                    Some(Event::StartPage { stack, error: Some(format!("the simulated browser does not load {url}")) })
                }
                Fault::Hangs => None,
            },
            Effect::Ping { stack } => match self.fault {
                Fault::None | Fault::LaunchHangs | Fault::PageLoadFails => Some(Event::Answered { stack }),
                Fault::Hangs => None,
            },
            // Even one that hangs can be killed.
            Effect::End { stack } => {
                self.launching.remove(&stack);
                Some(Event::Gone { stack })
            }
        }
    }

    /// A launch that ended by now, if there is one.
    pub(super) fn next_launched(&mut self, now: Instant) -> Option<Event> {
        let (&stack, _) = self.launching.iter().find(|(_, ready)| **ready <= now)?;
        self.launching.remove(&stack);
        Some(launched(stack))
    }

    /// When the next launch ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.launching.values().min().copied()
    }

    /// A browser crashes. Returns the events that follow.
    pub(super) fn crash(&mut self, stack: StackId) -> [Event; 2] {
        self.launching.remove(&stack);
        [Event::Broke { stack, message: "the simulated browser crashed".to_owned() }, Event::Gone { stack }]
    }
}

fn launched(stack: StackId) -> Event {
    Event::Launched { stack, version: VERSION.to_owned() }
}
