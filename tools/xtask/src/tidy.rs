//! Checks the form of the sources: lengths, leftovers, docs, line ends, links.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    report::{Part, Tally},
    workspace::Workspace,
};

mod doc_tests;
mod functions;
mod invariants;
mod links;

/// Most lines of a source file: about 500.
const FILE_LINES_MAX: usize = 550;
/// Most lines of a Python function: about 70. Clippy bounds those of Rust.
const FUNCTION_LINES_MAX: usize = 80;

/// A file that may be longer, and the reason.
struct Exemption {
    path: &'static str,
    reason: &'static str,
}

/// Tables, protocols and state machines that would be harder to read in pieces.
const EXEMPT: &[Exemption] = &[
    Exemption {
        path: "tools/dev-kv/src/engine.rs",
        reason: "one state behind one lock, and all that happens under it",
    },
    Exemption {
        path: "tools/dev-kv/src/model/tests.rs",
        reason: "one list of cases for one state machine",
    },
    Exemption {
        path: "libs/twopc/src/model/world.rs",
        reason: "the one world that the model check explores: its state, every step in it, what must hold",
    },
];

/// What no file may contain, and why. The words are split so that this file passes.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "finish it or leave it out"),
    (concat!("FIX", "ME"), "finish it or leave it out"),
    (concat!("to", "do!("), "finish it or leave it out"),
    (concat!("unimple", "mented!("), "finish it or leave it out"),
    (concat!("#[ig", "nore"), "a test runs or is not there"),
    (concat!("pytest.mark.sk", "ip"), "a test runs or is not there"),
    (concat!("pytest.mark.xf", "ail"), "a test runs or is not there"),
    (concat!("/wo", "rk/"), "a path of a build machine"),
    (concat!("/ro", "ot/"), "a path of a build machine"),
    (concat!("file:/", "//"), "a path of one machine"),
];

/// Every file that is text, by its path below the project's root.
type Texts = BTreeMap<PathBuf, String>;

/// The texts of the files with one of these extensions.
fn of<'a>(
    texts: &'a Texts,
    extensions: &'a [&str],
) -> impl Iterator<Item = (&'a PathBuf, &'a str)> + 'a {
    texts.iter().filter_map(move |(file, text)| {
        let extension = file.extension()?.to_str()?;
        extensions.contains(&extension).then_some((file, text.as_str()))
    })
}

/// Checks every file.
pub(crate) fn check(workspace: &Workspace) -> Part {
    let mut texts = Texts::new();
    for file in workspace.files()? {
        if let Some(text) = workspace.read(&file)? {
            texts.insert(file, text);
        }
    }
    let mut checks = Tally::default();
    for (file, text) in &texts {
        checks.check(&file.display().to_string(), check_file(file, text));
    }
    links::check(workspace, &texts, &mut checks);
    doc_tests::check(&texts, &mut checks);
    invariants::check(workspace, &texts, &mut checks);
    for exemption in EXEMPT {
        let stands = texts.contains_key(Path::new(exemption.path)) && !exemption.reason.is_empty();
        let result =
            if stands { Ok(()) } else { Err("exempts nothing, or says no reason".to_owned()) };
        checks.check(exemption.path, result);
    }
    Ok(checks.as_one())
}

fn check_file(file: &Path, text: &str) -> Result<(), String> {
    let extension = file.extension().unwrap_or_default().to_string_lossy();
    check_lines(text, &extension)?;
    if file.file_name().is_some_and(|name| name != "Cargo.lock" && name != "LICENSE") {
        check_words(text)?;
    }
    match &*extension {
        "rs" | "py" => {
            check_lengths(file, text)?;
            check_head(file, text)
        }
        _ => Ok(()),
    }
}

fn check_lines(text: &str, extension: &str) -> Result<(), String> {
    if text.contains('\r') {
        return Err("has line ends other than LF".to_owned());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("does not end with a line end".to_owned());
    }
    if text.ends_with("\n\n") {
        return Err("ends with a blank line".to_owned());
    }
    for (number, line) in (1..).zip(text.lines()) {
        if line.ends_with([' ', '\t']) {
            return Err(format!("line {number} ends with blanks"));
        }
        if extension == "rs" && line.contains('\t') {
            return Err(format!("line {number} has a tab"));
        }
    }
    Ok(())
}

fn check_words(text: &str) -> Result<(), String> {
    for (number, line) in (1..).zip(text.lines()) {
        if let Some((word, reason)) = FORBIDDEN.iter().find(|(word, _)| line.contains(word)) {
            return Err(format!("line {number} says `{word}`: {reason}"));
        }
    }
    Ok(())
}

fn check_lengths(file: &Path, text: &str) -> Result<(), String> {
    let is_exempt = EXEMPT.iter().any(|exemption| Path::new(exemption.path) == file);
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !is_exempt {
        return Err(format!("has {lines} lines, more than {FILE_LINES_MAX}"));
    }
    if file.extension().is_some_and(|extension| extension == "py") {
        for (name, lines) in functions::of_python(text) {
            if lines > FUNCTION_LINES_MAX {
                return Err(format!("`{name}` has {lines} lines, more than {FUNCTION_LINES_MAX}"));
            }
        }
    }
    Ok(())
}

/// Every crate and every Python module must start with a description.
fn check_head(file: &Path, text: &str) -> Result<(), String> {
    let is_root = ["lib.rs", "main.rs", "build.rs"].iter().any(|root| file.ends_with(root));
    if is_root && !text.starts_with("//!") {
        return Err("does not open with what it is".to_owned());
    }
    let is_python = file.extension().is_some_and(|extension| extension == "py");
    let opens = text.trim_start_matches("#!/usr/bin/env python3\n").starts_with("\"\"\"");
    if is_python && !text.is_empty() && !opens {
        return Err("does not open with what it is".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_found() {
        for (word, _) in FORBIDDEN {
            assert!(check_words(&format!("fine\n  {word} later\n")).is_err(), "{word}");
        }
        assert!(check_words("a method that does it all\n").is_ok());
    }

    #[test]
    fn line_ends_are_checked() {
        for text in ["a\r\n", "a", "a \n", "a\t\n", "a\n\n"] {
            assert!(check_lines(text, "md").is_err(), "{text:?}");
        }
        assert!(check_lines("a\n\nb\n", "md").is_ok());
        assert!(check_lines("", "py").is_ok());
        assert!(check_lines("\ta\n", "rs").is_err());
    }

    #[test]
    fn long_files_and_functions_are_found() {
        let file = Path::new("a/src/b.rs");
        assert!(check_lengths(file, &"//\n".repeat(FILE_LINES_MAX)).is_ok());
        assert!(check_lengths(file, &"//\n".repeat(FILE_LINES_MAX + 1)).is_err());
        let body = "    a = 1\n".repeat(FUNCTION_LINES_MAX);
        assert!(check_lengths(Path::new("a/b.py"), &format!("def a():\n{body}")).is_err());
    }

    #[test]
    fn a_crate_says_first_what_it_is() {
        assert!(check_head(Path::new("a/src/lib.rs"), "//! Adds.\n").is_ok());
        assert!(check_head(Path::new("a/src/lib.rs"), "mod a;\n").is_err());
        assert!(check_head(Path::new("a/src/b.rs"), "mod a;\n").is_ok());
        assert!(check_head(Path::new("a/b.py"), "import os\n").is_err());
    }
}
