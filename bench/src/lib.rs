//! Test harness for benchmarks and failure tests: a real etcd, API server, scheduler and controller manager on this
//! machine, the real operator binary, and simulated nodes and runners. Every process can be killed, paused and
//! restarted. Browsers are simulated too, so the benchmarks measure the operator alone.

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
