//! What stays whole while things fail: tests on a real API server, with the real operator and simulated runners. Each
//! ends with the same account: no session lost, none published on two runners, nothing left behind.

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
