//! Scenarios on the fleet of `dev/up`, with real browsers and a real Playwright client. No other program may use the
//! fleet during a run.

mod cold;
mod hot;
mod measured_pool;

use anyhow::Result;
use camofleet_bench::{machine, report::Report};
use camofleet_e2e::{TestNamespace, test_alone};
use clap::Subcommand;
use measured_pool::{MeasuredPool, POOL};
use serde_json::{Value, json};

/// Scenarios on a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterScenario {
    /// On the fleet of dev/up: claims of hot browsers one after another, and page loads in them.
    Hot(hot::Hot),
    /// On the fleet of dev/up: claims that launch a browser, and page loads in it.
    Cold(cold::Cold),
}

impl ClusterScenario {
    /// Runs the scenario and prints its report.
    ///
    /// # Panics
    /// If the scenario fails, after printing the state of the fleet.
    pub fn run(self) {
        match self {
            Self::Hot(hot) => {
                let pool = json!({ "sessionsPerRunner": 0 });
                test_alone("bench-hot", |space| {
                    measure_and_print(space, pool, async |measured| hot.run(measured).await)
                });
            }
            Self::Cold(cold) => {
                let never_hot = json!({ "sessionsPerRunner": 0, "prewarm": { "headless": 0, "headful": 0 } });
                test_alone("bench-cold", |space| {
                    measure_and_print(space, never_hot, async |measured| cold.run(measured).await)
                });
            }
        }
    }
}

/// Creates a pool with this spec, runs the measurement and prints the report.
async fn measure_and_print(
    space: TestNamespace,
    pool: Value,
    measure: impl AsyncFnOnce(&MeasuredPool) -> Result<Report>,
) -> Result<()> {
    let machine = machine::describe();
    space.pool(POOL, pool).await?;
    let measured = MeasuredPool::start(space).await?;
    let versions = measured.versions().await?;
    measure(&measured).await?.print(machine, versions);
    Ok(())
}
