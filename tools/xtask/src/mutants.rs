//! Small changes of the code that decides, drawn at random: some test of its crate must notice each.
//!
//! cargo-mutants makes them and runs the tests; `.cargo/mutants.toml` names those that no test can notice, each
//! with its reason.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::{
    command,
    report::{Outcome, Part, Tally},
    workspace::Workspace,
};

/// What decides: the protocol, what a shard does with its calls, what a coordinator does with answers, and the
/// services' rules.
const FILES: [&str; 15] = [
    "libs/twopc/src/**/*.rs",
    "libs/participant/src/balance.rs",
    "libs/participant/src/core/*.rs",
    "libs/participant/src/fill.rs",
    "libs/participant/src/lane/*.rs",
    "coordinator/src/attempts.rs",
    "coordinator/src/checkout.rs",
    "coordinator/src/plan.rs",
    "coordinator/src/resolve.rs",
    "order/src/app.rs",
    "order/src/domain.rs",
    "payment/src/app.rs",
    "payment/src/domain.rs",
    "stock/src/app.rs",
    "stock/src/domain.rs",
];
/// Of so many mutants at most one may survive.
const SURVIVES_ONE_IN: usize = 20;

/// Which mutants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    seed: u64,
    count: usize,
}

impl Wanted {
    /// Reads what comes after `cargo xtask mutants`.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut wanted = Self { seed: 0, count: 20 };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let number = || format!("{name} needs a number");
            let value = args.next().ok_or_else(number)?;
            match name.as_str() {
                "--seed" => wanted.seed = value.parse().map_err(|_| number())?,
                "--count" => wanted.count = value.parse().map_err(|_| number())?,
                _ => return Err(format!("{name} does not fit here")),
            }
        }
        Ok(wanted)
    }
}

/// Draws a sample, has every mutant of it tested, and prints those that survive.
pub(crate) fn run(workspace: &Workspace, wanted: Wanted) -> Part {
    if !command::quietly(&mut workspace.cargo(&["mutants", "--version"]))?.0 {
        let reason = "there is no cargo-mutants (cargo install --locked cargo-mutants)";
        return Ok(Outcome::NotRun(reason.to_owned()));
    }
    let of_files = |args: &[&str]| {
        let mut cargo = workspace.cargo(&["mutants"]);
        cargo.args(args).args(FILES.iter().flat_map(|file| ["--file", file]));
        cargo
    };
    let list = command::output(&mut of_files(&["--list", "--json"]))?;
    let sample = draw(names(&list)?, wanted);
    println!("{} mutants, seed {}", sample.len(), wanted.seed);
    let folder = workspace.scratch("mutants")?;
    let mut test = of_files(&["--colors", "never", "--output"]);
    test.arg(&folder);
    for name in &sample {
        test.arg("--re").arg(format!("^{}$", escaped(name)));
    }
    // It fails when one survives.
    command::watch(&mut test, |_| {})?;
    verdict(&folder.join("mutants.out"), sample.len())
}

/// Names of mutants, as `cargo mutants --list --json` tells them.
fn names(list: &str) -> Result<BTreeSet<String>, String> {
    let list: Value = serde_json::from_str(list).map_err(|error| error.to_string())?;
    let list = list.as_array().ok_or("cargo-mutants lists nothing")?;
    Ok(list.iter().filter_map(|mutant| mutant["name"].as_str()).map(ToOwned::to_owned).collect())
}

/// Those that hash to the least: which ones these are depends on nothing but their names and the seed.
fn draw(names: BTreeSet<String>, Wanted { seed, count }: Wanted) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_by_cached_key(|name| hash(seed, name));
    names.truncate(count);
    names
}

/// FNV-1a with SplitMix64's final mix (Steele, Lea, Flood 2014).
fn hash(seed: u64, name: &str) -> u64 {
    let mut hash = name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The text as a regular expression that matches it alone.
fn escaped(name: &str) -> String {
    let special = |letter: char| letter.is_ascii_punctuation() && !"/_:,".contains(letter);
    let escaped =
        name.chars().flat_map(|letter| special(letter).then_some('\\').into_iter().chain([letter]));
    escaped.collect()
}

/// Reads what cargo-mutants has written.
fn verdict(results: &Path, drawn: usize) -> Part {
    let lines = |name: &str| -> Result<Vec<String>, String> {
        let path = results.join(name);
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(text.lines().map(ToOwned::to_owned).collect())
    };
    let survived = lines("missed.txt")?;
    let (caught, timed_out) = (lines("caught.txt")?.len(), lines("timeout.txt")?.len());
    let unviable = lines("unviable.txt")?.len();
    println!("{caught} caught, {timed_out} timed out, {unviable} do not compile; survived:");
    for name in &survived {
        println!("  {name}");
    }
    if caught + timed_out + unviable + survived.len() < drawn {
        return Err("not all were tested".to_owned());
    }
    let judged = drawn - unviable;
    let mut tally = Tally::default();
    let enough = survived.len() * SURVIVES_ONE_IN <= judged;
    tally.check("mutants", if enough { Ok(()) } else { Err("too many survive".to_owned()) });
    Ok(Outcome::Ran(tally))
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

    #[test]
    fn seeds_and_counts_are_read() {
        let parse = |text: &str| {
            let args: Vec<String> = text.split_whitespace().map(ToOwned::to_owned).collect();
            Wanted::parse(&args)
        };
        assert_eq!(parse(""), Ok(Wanted { seed: 0, count: 20 }));
        assert_eq!(parse("--count 200 --seed 7"), Ok(Wanted { seed: 7, count: 200 }));
        for wrong in ["--seed", "--count x", "--sort 1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
