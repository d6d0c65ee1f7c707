//! Authentication and authorization: which principal a credential identifies, and which actions that principal is
//! allowed. A principal holds a static token of the Secret, which has a role, or a session token that the gateway
//! signed, which has one scope of one session. A browser has a login in place of a static token, which is valid for as
//! long as that token.

pub mod authenticator;
pub mod credential;
pub mod extract;
pub mod principal;
pub mod subprotocol;
pub mod tokens;
