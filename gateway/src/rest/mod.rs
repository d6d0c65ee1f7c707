//! The REST API: the calls of the original Camo-fleet on custom resources, events, and logins. The OpenAPI document is
//! made from the same routes and types that serve it.
//!
//! It speaks of one namespace: the gateway's own, or under `/api/namespaces/{namespace}` any other. It holds nothing:
//! sessions and pools are the watch's, and what is made or ended is an object at the API server.

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
