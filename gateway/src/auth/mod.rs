//! Authentication and authorization: which principal a credential identifies, and which actions the principal is
//! allowed.
//!
//! A principal holds a static token or a session token. A static token comes from the Secret and has a role. A session
//! token is signed by the gateway and has one scope for one session. A browser uses a login instead of a static token;
//! the login is valid only while that token is.

pub mod authenticator;
pub mod credential;
pub mod extract;
pub mod principal;
pub mod static_tokens;
pub mod subprotocol;
