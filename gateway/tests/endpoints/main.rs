//! The endpoints of the gateway, over real sockets: authorization, waiting for sessions, and what is relayed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod listener;
mod live_view;
mod playwright;
mod rest;
