//! Measures the fleet of `dev/up`, started by hand: `cargo run -p camofleet-e2e --bin measure gateway|live-view`. Each
//! measurement prints a table and one line of JSON. All its figures are from one run, so that their ratios are valid.

mod gateway;
mod live_view;
mod report;

use camofleet_e2e::test;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("gateway") => test("measure-gateway", gateway::measure),
        Some("live-view") => test("measure-live-view", live_view::measure),
        _ => {
            eprintln!("usage: measure gateway|live-view");
            std::process::exit(2);
        }
    }
}
