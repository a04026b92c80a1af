//! The simulation: thousands of whole shops, each in one process. See docs/reliability.md.

use std::process::Command;

use crate::{command, report::Part, workspace::Workspace};

/// What to simulate.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Wanted {
    /// Number of seeds: 2,000 unless given. With broken rules, most seeds for each: 1,000.
    #[arg(long, value_name = "N", conflicts_with = "seed")]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long, value_name = "S", conflicts_with_all = ["seed", "broken"])]
    from: Option<u64>,
    /// Print which calls met.
    #[arg(long, conflicts_with_all = ["seed", "broken"])]
    coverage: bool,
    /// Replay this seed, and print every event.
    #[arg(long, value_name = "S", conflicts_with = "broken")]
    seed: Option<u64>,
    /// Break every rule in turn, each of which must be noticed.
    #[arg(long, group = "broken")]
    mutations: bool,
    /// Break this rule alone.
    #[arg(long, value_name = "NAME", group = "broken")]
    mutation: Option<String>,
    /// With broken rules, print by how many seeds each was noticed.
    #[arg(long, requires = "broken")]
    shares: bool,
}

impl Wanted {
    /// This many seeds from this one on.
    pub(crate) fn seeds(count: u64, from: u64) -> Self {
        Self { seeds: Some(count), from: Some(from), ..Self::default() }
    }

    /// The command that simulates this.
    pub(crate) fn command(&self, workspace: &Workspace) -> Command {
        let mut cargo = workspace.cargo("test -p system-test --test sim");
        let usual = if self.mutations || self.mutation.is_some() {
            if self.mutation.is_none() {
                cargo.args(["--test", "sequences"]);
            }
            cargo.args(["--features", "mutations", "--", "every_break_of_a_rule_is_noticed"]);
            1_000
        } else {
            cargo.args(["--", "--exact", "no_trouble_loses_a_cent"]);
            2_000
        };
        let count = self.seed.is_none().then(|| self.seeds.unwrap_or(usual));
        let on = |is_on: bool| is_on.then(|| "1".to_owned());
        let variables = [
            ("SIM_SEEDS", count.map(|count| count.to_string())),
            ("SIM_FROM", self.from.map(|from| from.to_string())),
            ("SIM_COVERAGE", on(self.coverage)),
            ("SIM_SEED", self.seed.map(|seed| seed.to_string())),
            ("SIM_MUTATION", self.mutation.clone()),
            ("SIM_SHARES", on(self.shares)),
        ];
        cargo.envs(variables.into_iter().filter_map(|(name, value)| Some((name, value?))));
        cargo.arg("--nocapture");
        cargo
    }
}

/// Runs it once.
pub(crate) fn run(workspace: &Workspace, wanted: &Wanted) -> Part {
    command::check(&mut wanted.command(workspace))
}
