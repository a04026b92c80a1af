//! Links between our own pages. Each must lead to an existing file and heading, and each page of
//! `docs/` must be reached from another page.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use super::{Texts, of};
use crate::{report::Tally, workspace::Workspace};

/// Checks all links of all pages.
pub(super) fn check(workspace: &Workspace, texts: &Texts, checks: &mut Tally) {
    let mut reached = BTreeSet::new();
    for (file, text) in of(texts, &["md"]) {
        let result = follow(workspace, texts, file, text, &mut reached);
        checks.check(&file.display().to_string(), result);
        // README also names files of the course's template.
        if file != Path::new("README.md") {
            checks.check(&file.display().to_string(), check_paths(workspace, texts, text));
        }
    }
    for (file, _) in of(texts, &["md"]).filter(|(file, _)| file.starts_with("docs")) {
        let is_reached = file.ancestors().any(|path| reached.contains(path));
        let result = if is_reached { Ok(()) } else { Err("no page leads here".to_owned()) };
        checks.check(&file.display().to_string(), result);
    }
}

/// Follows the links of one page, and records where they lead.
fn follow(
    workspace: &Workspace,
    texts: &Texts,
    file: &Path,
    text: &str,
    reached: &mut BTreeSet<PathBuf>,
) -> Result<(), String> {
    let mut dead = Vec::new();
    for link in prose(text).flat_map(targets) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        match target(workspace, texts, file, link) {
            Some(there) if there == *file => {}
            Some(there) => {
                reached.insert(there);
            }
            None => dead.push(link),
        }
    }
    if dead.is_empty() { Ok(()) } else { Err(format!("links to nothing: {}", dead.join(", "))) }
}

/// The file that a page's link leads to; none if the file or the heading does not exist.
fn target(workspace: &Workspace, texts: &Texts, file: &Path, link: &str) -> Option<PathBuf> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let there = if path.is_empty() { Some(file.to_owned()) } else { normal(&folder.join(path)) };
    let there = there.filter(|there| workspace.root.join(there).exists())?;
    if heading.is_empty() {
        return Some(there);
    }
    let page = texts.get(&there)?;
    prose(page).filter_map(anchor).any(|anchor| anchor == heading).then_some(there)
}

/// Checks that the files and folders that a page names in backticks are there.
fn check_paths(workspace: &Workspace, texts: &Texts, text: &str) -> Result<(), String> {
    let top = |path: &str| {
        let folder = path.split('/').next().unwrap_or_default();
        texts.keys().any(|file| file.starts_with(folder))
    };
    let gone: Vec<&str> = prose(text)
        .flat_map(paths)
        .filter(|path| top(path) && !workspace.root.join(path).exists())
        .collect();
    if gone.is_empty() { Ok(()) } else { Err(format!("names no file: {}", gone.join(", "))) }
}

/// What stands in backticks and looks like the path of one file or folder. Words in capitals are
/// placeholders.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|code| {
        let plain = |char: char| char.is_ascii_alphanumeric() || "_.-/".contains(char);
        let placeholder = |part: &str| {
            let name = part.split('.').next().unwrap_or_default();
            name.len() > 1 && name.chars().all(|char| char.is_ascii_uppercase())
        };
        let relative = code.contains('/') && !code.starts_with('/');
        relative && code.chars().all(plain) && !code.split('/').any(placeholder)
    })
}

/// The lines outside of code blocks.
pub(super) fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The targets of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

/// A heading's anchor: lowercase, with hyphens for blanks, and of the other characters only
/// letters, digits, `-` and `_`.
fn anchor(line: &str) -> Option<String> {
    let heading = line.trim_start_matches('#');
    let is_heading = heading.len() < line.len() && heading.starts_with(' ');
    is_heading.then(|| {
        heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect()
    })
}

/// The path without `.` and `..`; none if it leaves the project.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::Normal(name) => normal.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_from_where_they_stand() {
        let found: Vec<&str> = targets("see [a](b.md#c) and [d](../e \"title\")").collect();
        assert_eq!(found, ["b.md#c", "../e"]);
        assert_eq!(normal(Path::new("docs/../a/./b.md")), Some(PathBuf::from("a/b.md")));
        assert_eq!(normal(Path::new("../a")), None);
    }

    #[test]
    fn headings_are_called_as_hosts_of_git_call_them() {
        let anchor = |line| anchor(line).unwrap_or_default();
        assert_eq!(
            anchor("## What is checked, and what was not run"),
            "what-is-checked-and-what-was-not-run"
        );
        assert_eq!(anchor("# `till up` 2"), "till-up-2");
        assert_eq!(anchor("#hashtag"), "");
        assert_eq!(anchor("text"), "");
    }

    #[test]
    fn paths_are_told_from_other_words() {
        let line = "`order/src/rules.rs`, `a::b`, `proto/SERVICE/v1/x.proto`, `/docs`, `a b/c`";
        assert_eq!(paths(line).collect::<Vec<_>>(), ["order/src/rules.rs"]);
    }

    #[test]
    fn code_is_no_prose() {
        let lines: Vec<&str> = prose("a\n```sh\n# b\n```\nc\n").collect();
        assert_eq!(lines, ["a", "c"]);
    }
}
