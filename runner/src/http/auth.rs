//! Authenticates callers by their bearer tokens.

use crate::core::{HighestEpoch, Term};
use axum::http::{header::AUTHORIZATION, request::Parts};
use camofleet_auth::token::{Caller, PublicKeys, TokenError};
use camofleet_runner_api::{ErrorReason, ErrorResponse};
use camofleet_runtime::server::ConnectionHandle;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Minimum interval between reads of the key file that are caused by invalid tokens, because any client can send those.
const REREAD_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum age of the keys that verify a token, which bounds how long a removed key remains valid.
const KEYS_LIFETIME: Duration = Duration::from_secs(10);

/// Verifies tokens against the key file, and rejects operators of earlier terms.
pub(crate) struct Authenticator {
    pod_uid: String,
    keys_file: PathBuf,
    keys: Mutex<(PublicKeys, Instant)>,
    highest_epoch: HighestEpoch,
}

impl Authenticator {
    pub(crate) fn new(pod_uid: String, keys_file: PathBuf) -> Self {
        let keys = Mutex::new((read_keys(&keys_file).unwrap_or_default(), Instant::now()));
        Self { pod_uid, keys_file, keys, highest_epoch: HighestEpoch::default() }
    }

    /// Returns the caller that the request's token identifies.
    ///
    /// # Errors
    /// When the token is missing or invalid, or belongs to an operator of an earlier term.
    pub(crate) fn authenticate(&self, parts: &Parts) -> Result<Caller, ErrorResponse> {
        let unauthorized = |message: String| ErrorResponse { reason: ErrorReason::Unauthorized, message };
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        // The scheme's case does not matter (RFC 9110 section 11.1).
        let bearer =
            header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = bearer.ok_or_else(|| unauthorized("`Authorization: Bearer <token>` is missing".to_owned()))?;
        let caller = self.verify(token.trim()).map_err(|error| unauthorized(error.to_string()))?;
        if let Caller::Operator { epoch } = caller {
            self.term(epoch).check()?;
        }
        if let Some(connection) = parts.extensions.get::<ConnectionHandle>() {
            connection.authenticated();
        }
        Ok(caller)
    }

    /// Returns the term of an operator with this epoch.
    pub(crate) fn term(&self, epoch: u64) -> Term {
        self.highest_epoch.term(epoch)
    }

    fn verify(&self, token: &str) -> Result<Caller, TokenError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = keys.0.verify(token, &self.pod_uid);
        let lifetime = if verified.is_ok() { KEYS_LIFETIME } else { REREAD_INTERVAL };
        if keys.1.elapsed() < lifetime {
            return verified;
        }
        keys.1 = Instant::now();
        match read_keys(&self.keys_file) {
            Some(read) if read != keys.0 => {
                keys.0 = read;
                keys.0.verify(token, &self.pod_uid)
            }
            Some(_) | None => verified,
        }
    }
}

fn read_keys(file: &Path) -> Option<PublicKeys> {
    let keys = fs::read(file).map_err(|error| error.to_string());
    let keys = keys.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    keys.inspect_err(|error| tracing::warn!(file = %file.display(), error, "could not read the public keys")).ok()
}
