//! Failure tests with the real operator on a real API server, with simulated runners. Each ends with the same check of
//! invariants: no session is lost, none was published on two runners, and nothing is left behind.

mod admission;
mod api_errors;
mod browsers;
mod chaos;
mod chart;
mod clock;
mod control_plane;
mod fixture;
mod hostile;
mod keys;
mod leaders;
mod maintenance;
mod nodes;
mod objects;
mod pruned_fields;
mod runners;
mod uninstall;
