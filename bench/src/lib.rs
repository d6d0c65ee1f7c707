//! The harness of the benchmarks: a real etcd, API server, scheduler and controller manager on this machine, nodes and
//! runners that are simulated, and the real operator's binary. Everything can be killed, paused and started again, so tests
//! of failures use it too. There is no browser: what is measured is the operator.

pub mod arrivals;
pub mod attacker;
pub mod binaries;
pub mod cgroup;
pub mod comparison;
pub mod control_plane;
pub mod cpu;
pub mod daemon;
pub mod harness;
pub mod invariants;
pub mod machine;
pub mod network;
pub mod operator;
pub mod proxy;
pub mod report;
pub mod sessions;
pub mod simulator;
pub mod stats;
