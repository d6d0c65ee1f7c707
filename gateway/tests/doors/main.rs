//! The doors of the gateway, over real sockets: who is let in, what is waited for, what passes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod listener;
mod live_view;
mod playwright;
mod rest;
