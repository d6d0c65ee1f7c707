//! Runs a scenario with two operator binaries alternately.

use super::{Scenario, steps::with_harness};
use anyhow::{Result, ensure};
use camofleet_bench::{
    binaries::OperatorProgram,
    comparison::{Comparison, Variant, order},
    harness::{Harness, Options},
};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Operators, number of runs, and scenario.
#[derive(Clone, Debug, Args)]
pub struct Compare {
    /// Path of the baseline operator binary, such as that of the previous version.
    #[arg(long)]
    operator_a: PathBuf,
    /// Path of the candidate operator binary. Default: built from this checkout with the release profile.
    #[arg(long)]
    operator_b: Option<PathBuf>,
    /// Pairs of runs: one with each operator.
    #[arg(long, default_value_t = 12)]
    pairs: usize,
    #[command(subcommand)]
    scenario: Scenario,
}

impl Compare {
    /// The candidate operator.
    ///
    /// # Errors
    /// Returns an error if the binary does not exist or cannot be built.
    pub async fn operator_b(&self) -> Result<OperatorProgram> {
        OperatorProgram::find(self.operator_b.clone()).await
    }

    /// Alternates runs with both operators, each on a new cluster. `options.operator` is the candidate.
    pub async fn run(self, options: Options, interrupted: &CancellationToken) -> Result<(Comparison, Value)> {
        ensure!(self.pairs > 0, "--pairs must be at least 1");
        let a = OperatorProgram::find(Some(self.operator_a.clone())).await?;
        let b = options.operator.clone();
        let [name_a, name_b] = [&a, &b].map(|program| program.path.display().to_string());
        let mut comparison = Comparison::new(self.scenario.name(), &name_a, &name_b);
        let mut versions = json!({});
        for (index, variant) in order(self.pairs).enumerate() {
            eprintln!("run {} of {}: {variant:?}", index + 1, self.pairs * 2);
            let (operator, key) = match variant {
                Variant::A => (a.clone(), "a"),
                Variant::B => (b.clone(), "b"),
            };
            let scenario = self.scenario.clone();
            let once = async |harness: &mut Harness| Ok((scenario.run(harness).await?, harness.versions().await?));
            let (report, with) = with_harness(Options { operator, ..options.clone() }, interrupted, once).await?;
            comparison.add(variant, report.metrics());
            versions[key] = with;
        }
        Ok((comparison, versions))
    }
}
