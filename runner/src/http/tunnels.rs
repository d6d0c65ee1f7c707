//! How many tunnels each session has.

use camofleet_runner_api::{ErrorReason, ErrorResponse};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The tunnels of each session. No session can take the connections that the others need.
#[derive(Debug)]
pub(crate) struct Tunnels {
    /// The most tunnels of one session, clients and viewers together.
    most: usize,
    open: Mutex<HashMap<String, usize>>,
}

/// One tunnel, until this is dropped.
#[derive(Debug)]
pub(crate) struct Tunnel {
    tunnels: Arc<Tunnels>,
    session: String,
}

impl Tunnels {
    /// `all`: tunnels that the runner can hold; each of its slots has an equal share.
    pub(crate) fn new(all: usize, slots: u32) -> Self {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX).max(1);
        Self { most: (all / slots).max(1), open: Mutex::default() }
    }

    pub(crate) fn open(self: &Arc<Self>, session: &str) -> Result<Tunnel, ErrorResponse> {
        let mut open = self.table();
        let count = open.entry(session.to_owned()).or_default();
        if *count >= self.most {
            let message = format!(
                "session {session} has {} clients and viewers, as many as it may: close one before you connect another",
                self.most
            );
            return Err(ErrorResponse { reason: ErrorReason::TooManyConnections, message });
        }
        *count += 1;
        Ok(Tunnel { tunnels: Arc::clone(self), session: session.to_owned() })
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut open = self.tunnels.table();
        if let Some(count) = open.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_has_its_share_of_tunnels() {
        let tunnels = Arc::new(Tunnels::new(896, 32));
        let held: Vec<_> = (0..28).map(|_| tunnels.open("a").unwrap()).collect();
        let error = tunnels.open("a").unwrap_err();
        assert_eq!((error.reason, error.reason.status()), (ErrorReason::TooManyConnections, 429));
        assert!(tunnels.open("b").is_ok(), "another session has its own");
        drop(held);
        assert!(tunnels.open("a").is_ok());
        assert!(tunnels.table().is_empty(), "sessions without tunnels are forgotten");
        assert!(Arc::new(Tunnels::new(0, 1)).open("a").is_ok(), "there is always one");
    }
}
