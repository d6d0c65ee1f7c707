//! The REST API: the operations of the original Camo-fleet, mapped to custom resources, plus events and logins. The
//! OpenAPI document is generated from the routes and types that serve the API.
//!
//! A request is about one namespace: the gateway's own, or any namespace under `/api/namespaces/{namespace}`. The API
//! keeps no state: it reads sessions and pools from the cache, and creates and deletes objects at the API server.

mod activity;
mod body;
mod compat;
mod convert;
pub mod documents;
mod events;
mod login;
mod lookup;
mod router;
mod sessions;
mod tokens;
mod workers;

pub use router::{document, router};
