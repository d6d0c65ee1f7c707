//! Who calls. A handler gets its session's UID only from one of the extractors below, each of which has checked the token:
//! none can forget to.

use crate::http::server::{App, Refused};
use axum::{
    extract::{FromRequestParts, Path},
    http::{header::AUTHORIZATION, request::Parts},
};
use camofleet_auth::token::{Caller, PublicKeys, Role, TokenError};
use camofleet_runner_api::{Refusal, RefusalReason};
use camofleet_runtime::server::ConnectionHandle;
use std::{
    fs,
    path::{Path as FilePath, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A token that does not verify makes the key file be read again, but not more often than this: anybody can send one.
const REREAD_INTERVAL: Duration = Duration::from_secs(1);
/// A token that verifies does so by a key file that was read at most so long ago: a key that was taken out is good no longer.
const KEYS_LIFETIME: Duration = Duration::from_secs(10);

/// Checks tokens against the key file, and fences off operators of earlier terms.
pub(crate) struct Gate {
    pod_uid: String,
    keys_file: PathBuf,
    keys: Mutex<(PublicKeys, Instant)>,
    /// The highest epoch that an operator has shown.
    highest_epoch: Arc<AtomicU64>,
}

impl Gate {
    pub(crate) fn new(pod_uid: String, keys_file: PathBuf) -> Self {
        let keys = Mutex::new((read_keys(&keys_file).unwrap_or_default(), Instant::now()));
        Self { pod_uid, keys_file, keys, highest_epoch: Arc::default() }
    }

    /// Who sent this request.
    fn admit(&self, parts: &Parts) -> Result<Caller, Refusal> {
        let unauthorized = |message: String| Refusal { reason: RefusalReason::Unauthorized, message };
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        // The scheme's case does not matter (RFC 9110 section 11.1).
        let bearer =
            header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = bearer.ok_or_else(|| unauthorized("`Authorization: Bearer <token>` is missing".to_owned()))?;
        let caller = self.verify(token.trim()).map_err(|error| unauthorized(error.to_string()))?;
        if let Caller::Operator { epoch } = caller {
            self.highest_epoch.fetch_max(epoch, Ordering::AcqRel);
            self.term(epoch).check()?;
        }
        if let Some(connection) = parts.extensions.get::<ConnectionHandle>() {
            connection.authenticated();
        }
        Ok(caller)
    }

    fn term(&self, epoch: u64) -> Term {
        Term { epoch, highest: self.highest_epoch.clone() }
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

/// The term of the leader that calls. It may be over before what it asks for is decided: the body of a request can be slow.
pub(crate) struct Term {
    epoch: u64,
    highest: Arc<AtomicU64>,
}

impl Term {
    /// Whether no leader of a later term has called until now.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let (epoch, highest) = (self.epoch, self.highest.load(Ordering::Acquire));
        if epoch >= highest {
            return Ok(());
        }
        let message = format!("a leader of epoch {highest} has called before, and this is one of epoch {epoch}");
        Err(Refusal { reason: RefusalReason::StaleEpoch, message })
    }
}

fn read_keys(file: &FilePath) -> Option<PublicKeys> {
    let keys = fs::read(file).map_err(|error| error.to_string());
    let keys = keys.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    keys.inspect_err(
        |error| tracing::warn!(file = %file.display(), error, "cannot read the public keys: no token is good"),
    )
    .ok()
}

const OPERATORS_CALL: &str = "this call is the operator's";

/// The operator, about no session.
pub(crate) struct Operator;

/// Anybody with a token.
pub(crate) struct Anyone;

/// The operator in this term, about the session with this UID.
pub(crate) struct OperatorOn(pub(crate) String, pub(crate) Term);

/// The operator or the gateway, about the session with this UID.
pub(crate) struct About(pub(crate) String);

/// The gateway, for a connection to the session with this UID in this role.
pub(crate) struct Hop {
    pub(crate) uid: String,
    pub(crate) role: Role,
    /// Id of the user's token, when that is good for one connection only.
    pub(crate) once: Option<String>,
}

impl FromRequestParts<App> for Operator {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        match app.gate.admit(parts)? {
            Caller::Operator { .. } => Ok(Self),
            Caller::Gateway { .. } => Err(forbidden(OPERATORS_CALL)),
        }
    }
}

impl FromRequestParts<App> for Anyone {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        match app.gate.admit(parts)? {
            Caller::Operator { .. } | Caller::Gateway { .. } => Ok(Self),
        }
    }
}

impl FromRequestParts<App> for OperatorOn {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        match app.gate.admit(parts)? {
            Caller::Operator { epoch } => Ok(Self(uid(parts, app).await?, app.gate.term(epoch))),
            Caller::Gateway { .. } => Err(forbidden(OPERATORS_CALL)),
        }
    }
}

impl FromRequestParts<App> for About {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        let caller = app.gate.admit(parts)?;
        let uid = uid(parts, app).await?;
        match caller {
            Caller::Operator { .. } => Ok(Self(uid)),
            Caller::Gateway { session, .. } if session == uid => Ok(Self(uid)),
            Caller::Gateway { .. } => Err(forbidden("the token is for another session")),
        }
    }
}

impl FromRequestParts<App> for Hop {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        let caller = app.gate.admit(parts)?;
        let uid = uid(parts, app).await?;
        match caller {
            Caller::Gateway { session, role, once } if session == uid => Ok(Self { uid, role, once }),
            Caller::Gateway { .. } => Err(forbidden("the token is for another session")),
            Caller::Operator { .. } => Err(forbidden("only the gateway connects to sessions")),
        }
    }
}

async fn uid(parts: &mut Parts, app: &App) -> Result<String, Refused> {
    let path = Path::<String>::from_request_parts(parts, app).await;
    path.map(|Path(uid)| uid)
        .map_err(|error| Refusal { reason: RefusalReason::Invalid, message: error.to_string() }.into())
}

/// The refusal of a valid token that is not for this.
pub(crate) fn forbidden(why: &str) -> Refused {
    Refusal { reason: RefusalReason::Forbidden, message: why.to_owned() }.into()
}
