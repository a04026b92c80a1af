//! Small random changes of the code that decides. Each must be noticed by a test of its crate, or
//! by the simulation.
//!
//! cargo-mutants makes them and runs the tests. `.cargo/mutants.toml` says in which files, and lists
//! those that no test can notice, each with its reason.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
};

use serde_json::Value;

use crate::{
    command, files,
    report::{Part, Stopped, Tally},
    workspace::Workspace,
};

/// Number of simulation seeds for mutants that the tests of their crate do not notice.
const SEEDS: &str = "300";
/// At most one of this many mutants may survive.
const SURVIVES_ONE_IN: usize = 20;

/// Which mutants to draw.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Wanted {
    /// The same seed draws the same changes.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Number of changes.
    #[arg(long, value_name = "M", default_value_t = 20)]
    pub(crate) count: usize,
}

/// Draws a sample, tests every mutant of it, and prints the survivors: those that neither the tests
/// of their own crate nor some hundred seeds of the simulation notice.
pub(crate) fn run(workspace: &Workspace, wanted: Wanted) -> Part {
    if !command::quietly(&mut workspace.cargo("mutants --version"))?.0 {
        let reason = "there is no cargo-mutants (cargo install --locked cargo-mutants)";
        return Err(Stopped::NotRun(reason.to_owned()));
    }
    let list = command::output(&mut workspace.cargo("mutants --workspace --list --json"))?;
    let sample = draw(names(&list)?, wanted);
    if sample.len() < wanted.count {
        return Err(format!("there are but {} mutants", sample.len()).into());
    }
    println!("{} mutants, seed {}", sample.len(), wanted.seed);
    let unit = tested(workspace, "mutants", &sample, &[])?;
    println!("{} are left for the simulation", unit.survived.len());
    let simulated = ["--test-package", "system-test", "--", "--test", "sim", "no_trouble"];
    let survived = match unit.survived.as_slice() {
        [] => Vec::new(),
        left => tested(workspace, "mutants-simulated", left, &simulated)?.survived,
    };
    println!("{} do not compile; survived:", unit.unviable);
    for name in &survived {
        println!("  {name}");
    }
    let judged = sample.len() - unit.unviable;
    let mut tally = Tally::default();
    let enough = survived.len() * SURVIVES_ONE_IN <= judged;
    tally.check("mutants", if enough { Ok(()) } else { Err("too many survive".to_owned()) });
    Ok(tally)
}

/// The result of testing mutants.
struct Tested {
    survived: Vec<String>,
    unviable: usize,
}

/// Tests these mutants, each by the tests of its crate unless `args` say otherwise.
fn tested(
    workspace: &Workspace,
    folder: &str,
    sample: &[String],
    args: &[&str],
) -> Result<Tested, String> {
    let folder = workspace.scratch(folder)?;
    let mut test = workspace.cargo("mutants --workspace --colors never --output");
    test.arg(&folder).env("SIM_SEEDS", SEEDS);
    for name in sample {
        test.arg("--re").arg(format!("^{}$", escaped(name)));
    }
    // The command fails if a mutant survives.
    command::watch(test.args(args), |_| {})?;
    verdict(&folder.join("mutants.out"), sample.len())
}

/// Parses the names of mutants from `cargo mutants --list --json`.
fn names(list: &str) -> Result<BTreeSet<String>, String> {
    let list: Value = serde_json::from_str(list).map_err(|error| error.to_string())?;
    let list = list.as_array().ok_or("cargo-mutants lists nothing")?;
    Ok(list.iter().filter_map(|mutant| mutant["name"].as_str()).map(ToOwned::to_owned).collect())
}

/// The names with the smallest hashes, so that the sample depends only on names and seed.
fn draw(names: BTreeSet<String>, Wanted { seed, count }: Wanted) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_by_cached_key(|name| hash(seed, name));
    names.truncate(count);
    names
}

/// The same for the same seed and name, with one toolchain.
fn hash(seed: u64, name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, name).hash(&mut hasher);
    hasher.finish()
}

/// A regular expression that matches exactly this text.
fn escaped(name: &str) -> String {
    let special = |letter: char| letter.is_ascii_punctuation() && !"/_:,".contains(letter);
    let escaped =
        name.chars().flat_map(|letter| special(letter).then_some('\\').into_iter().chain([letter]));
    escaped.collect()
}

/// Reads the results of cargo-mutants.
fn verdict(results: &Path, drawn: usize) -> Result<Tested, String> {
    let lines = |name: &str| -> Result<Vec<String>, String> {
        Ok(files::read(results.join(name))?.lines().map(ToOwned::to_owned).collect())
    };
    let survived = lines("missed.txt")?;
    let (caught, timed_out) = (lines("caught.txt")?.len(), lines("timeout.txt")?.len());
    let unviable = lines("unviable.txt")?.len();
    if caught + timed_out + unviable + survived.len() < drawn {
        return Err("not all were tested".to_owned());
    }
    Ok(Tested { survived, unviable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_depends_on_its_seed_alone() {
        let list =
            r#"[{"name": "a: replace < with <="}, {"name": "b"}, {"name": "c"}, {"name": "d"}]"#;
        let names = names(list).unwrap();
        let draw = |seed, count| draw(names.clone(), Wanted { seed, count });
        assert_eq!(draw(1, 2), draw(1, 3)[..2]);
        assert_eq!(draw(7, 9).len(), 4);
        let firsts: BTreeSet<String> = (0..20).flat_map(|seed| draw(seed, 1)).collect();
        assert_eq!(firsts, names, "every one is drawn some day");
    }

    #[test]
    fn a_name_is_matched_to_the_letter() {
        assert_eq!(
            escaped("a.rs:1:2: replace + with * in A::b"),
            r"a\.rs:1:2: replace \+ with \* in A::b"
        );
    }
}
