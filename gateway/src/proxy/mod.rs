//! Connections into sessions: finds the session's runner, connects to the runner, and relays bytes in both directions.

pub mod client_options;
pub mod close_frame;
pub mod keepalive;
pub mod live_view;
pub mod playwright;
pub mod relay;
pub mod runner_client;
pub mod upstream;
