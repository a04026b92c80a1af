//! The registry of invariants, `docs/invariants.md`. Each has one name and an existing guard, and
//! each name that is used elsewhere must be in the registry.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Texts, links::prose, of};
use crate::{report::Tally, workspace::Workspace};

/// The registry's page.
const PAGE: &str = "docs/invariants.md";
/// Names the breaks of rules.
const MUTATIONS: &str = "libs/types/src/mutation.rs";
/// Guards that are not single tests.
const KINDS: [&str; 4] = ["model", "sequences", "simulation", "audit"];
/// Sources whose comments and messages name rules.
const SOURCES: [&str; 12] = [
    "libs/audit/",
    "libs/journal/",
    "libs/participant/",
    "libs/rpc/",
    "libs/storage/",
    "libs/twopc/",
    "libs/types/",
    "coordinator/",
    "order/",
    "payment/",
    "stock/",
    "till/",
];

/// The pages that state these rules in full.
const RULES: [(char, &str); 2] = [('P', "docs/protocol.md"), ('J', "docs/journal.md")];

/// A row of the registry: a name, and its guards.
type Row<'a> = (&'a str, Vec<&'a str>);

/// Checks the registry, and every use of its names.
pub(super) fn check(workspace: &Workspace, texts: &Texts, checks: &mut Tally) {
    let text = |file: &str| texts.get(Path::new(file)).map_or("", String::as_str);
    let rows: Vec<Row<'_>> = prose(text(PAGE)).filter_map(row).collect();
    let names: BTreeSet<&str> = rows.iter().map(|(name, _)| *name).collect();
    let breaks = text(MUTATIONS);
    let tests: Vec<(&PathBuf, &str)> = of(texts, &["rs", "py"])
        .flat_map(|(file, text)| tests_in(text).map(move |test| (file, test)))
        .collect();
    let is_test = |guard: &str| {
        let (module, name) = guard.rsplit_once("::").unwrap_or(("", guard));
        let module = module.split("::").next().unwrap_or_default();
        let lies_in = |file: &Path| file.with_extension("").iter().any(|part| part == module);
        tests.iter().any(|(file, test)| *test == name && (module.is_empty() || lies_in(file)))
    };
    let is_there = |row: &str, guard: &str| {
        KINDS.contains(&guard)
            || (guard != row && names.contains(guard))
            || breaks.contains(&format!("Self::{guard},"))
            || (guard.contains('/') && workspace.root.join(guard).exists())
            || is_test(guard)
    };
    let twice =
        if names.len() < rows.len() { Err("a name stands twice".to_owned()) } else { Ok(()) };
    checks.check(PAGE, twice);
    for (name, guards) in &rows {
        checks.check(name, guarded(guards, |guard| is_there(name, guard)));
    }
    for (letter, page) in RULES {
        let text = text(page);
        for name in names.iter().filter(|name| name.starts_with(letter)) {
            let told = text.contains(&format!("**{name}, "));
            let told = if told { Ok(()) } else { Err(format!("{page} has no such rule")) };
            checks.check(name, told);
        }
    }
    for (file, text) in texts.iter().filter(|(file, _)| names_rules(file)) {
        let unknown: Vec<&str> =
            prose(text).flat_map(named).filter(|name| !names.contains(name)).collect();
        let known = if unknown.is_empty() {
            Ok(())
        } else {
            Err(format!("names no invariant of {PAGE}: {}", unknown.join(", ")))
        };
        checks.check(&file.display().to_string(), known);
    }
}

/// The names of the functions that a test runner calls: in Rust by their attribute, in Python by
/// their name.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let mut marked = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        marked |= line == "#[test]" || line.starts_with("#[tokio::test");
        let name = line.split_once("fn ").map(|(_, rest)| rest);
        let name = name.and_then(|rest| rest.split(['(', '<']).next());
        if let Some(name) = name {
            return std::mem::take(&mut marked).then_some(name);
        }
        let python = line.strip_prefix("async ").unwrap_or(line).strip_prefix("def ")?;
        python.split('(').next().filter(|name| name.starts_with("test_"))
    })
}

fn guarded(guards: &[&str], is_there: impl Fn(&str) -> bool) -> Result<(), String> {
    if guards.is_empty() {
        return Err("nobody would notice".to_owned());
    }
    match guards.iter().find(|guard| !is_there(guard)) {
        Some(guard) => Err(format!("held by {guard}, which is not there")),
        None => Ok(()),
    }
}

/// Whether names in this file mean invariants.
fn names_rules(file: &Path) -> bool {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("md") => file != Path::new("CHANGELOG.md"),
        Some("rs") => SOURCES.iter().any(|below| file.starts_with(below)),
        _ => false,
    }
}

/// Parses a line of a table whose first cell is the name of an invariant.
fn row(line: &str) -> Option<Row<'_>> {
    let mut cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim);
    let name = cells.next().filter(|name| is_name(name) || *name == "R")?;
    let guards = cells.nth(1)?.split(',').map(|guard| guard.trim().trim_matches('`'));
    Some((name, guards.filter(|guard| !guard.is_empty()).collect()))
}

/// Names of invariants in a line.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split(|char: char| !char.is_alphanumeric() && char != '_').filter(|word| is_name(word))
}

/// Whether the word is one of the letters with a number.
fn is_name(word: &str) -> bool {
    let number = word.strip_prefix(['P', 'J', 'L', 'S', 'E', 'I']);
    number.is_some_and(|number| {
        (1..=2).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_name_and_its_guards() {
        let found = row("| P2 | One record decides | model, `PrimaryNotFirst`, `a::b` |");
        assert_eq!(found, Some(("P2", vec!["model", "PrimaryNotFirst", "a::b"])));
        assert_eq!(row("| P3 | It holds |  |"), Some(("P3", vec![])));
        assert_eq!(row("| name | what | held by |"), None);
        assert_eq!(row("P2 is a rule"), None);
    }

    #[test]
    fn a_rule_needs_guards_that_are_there() {
        let is_there = |guard: &str| guard == "model";
        assert!(guarded(&["model"], is_there).is_ok());
        assert!(guarded(&[], is_there).is_err());
        assert!(guarded(&["model", "a_test_that_has_gone"], is_there).is_err());
    }

    #[test]
    fn tests_are_told_from_other_functions() {
        let text = "fn helper() {}\n#[tokio::test(start_paused = true)]\n#[should_panic]\nasync fn it_holds() {\n\
                    }\nfn other() {}\n    #[test]\n    fn so_does_this(a in 0..3u8) {\ndef test_of_python(shop):\ndef no():";
        assert_eq!(
            tests_in(text).collect::<Vec<_>>(),
            ["it_holds", "so_does_this", "test_of_python"]
        );
    }

    #[test]
    fn names_are_a_letter_and_a_number() {
        let line = "fail(\"P9: see J10\") // not SP2, P, P100, P2a or p50 (L1)";
        assert_eq!(named(line).collect::<Vec<_>>(), ["P9", "J10", "L1"]);
    }
}
