//! The gateway's endpoints over real sockets: authorization, waiting for sessions, and relayed traffic.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod listener;
mod live_view;
mod playwright;
mod rest;
