//! Checks that sibling modules of a crate never use each other in a circle.
//!
//! A parent and its children count as one, as the parent declares what its children fill in. Paths
//! are found in the text, starting at `crate`, `self` or `super`. A name that a parent re-exports
//! counts as the parent's.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// A module, as its path below the crate's root.
type Module = Vec<String>;

/// Which siblings below one parent use which.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// The circles among the modules of a crate with these sources, tests left out. Paths are relative
/// to `src`.
pub(crate) fn circles<'a>(sources: impl IntoIterator<Item = (&'a Path, &'a str)>) -> Vec<String> {
    let sources: Vec<(Module, &str)> =
        sources.into_iter().map(|(file, text)| (module_of(file), text)).collect();
    let modules: BTreeSet<&[String]> =
        sources.iter().map(|(module, _)| module.as_slice()).collect();
    let mut below: BTreeMap<&[String], Uses> = BTreeMap::new();
    for (module, text) in &sources {
        for path in paths(module, text) {
            let known = (0..=path.len()).rev().map(|length| &path[..length]);
            let used = known.into_iter().find(|path| modules.contains(path)).unwrap_or_default();
            let shared =
                module.iter().zip(used).take_while(|(ours, theirs)| ours == theirs).count();
            if let (Some(from), Some(to)) = (module.get(shared), used.get(shared)) {
                let uses = below.entry(&module[..shared]).or_default();
                uses.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    below.iter().filter_map(|(parent, uses)| circles_of(parent, uses)).collect()
}

/// The siblings that use each other in circles, or stand between two circles: those that are left
/// when what uses none of the rest, or is used by none, is taken away again and again.
fn circles_of(parent: &[String], uses: &Uses) -> Option<String> {
    let mut left: BTreeSet<&String> = uses.keys().collect();
    loop {
        let is_within = |module: &&String| {
            let uses_one = uses[*module].iter().any(|used| left.contains(used));
            uses_one && left.iter().any(|user| uses[*user].contains(*module))
        };
        let within: BTreeSet<&String> = left.iter().copied().filter(is_within).collect();
        if within.len() == left.len() {
            break;
        }
        left = within;
    }
    let place = parent.iter().fold("crate".to_owned(), |place, module| place + "::" + module);
    let members: Vec<&str> = left.into_iter().map(String::as_str).collect();
    let told = || format!("modules of {place} use each other in a circle: {}", members.join(", "));
    (!members.is_empty()).then(told)
}

/// The module that a file holds.
fn module_of(file: &Path) -> Module {
    let parts = file.with_extension("");
    let mut parts: Module = parts.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| ["lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Every path in a module's text that lies in its crate, from the crate's root.
fn paths(module: &[String], text: &str) -> Vec<Module> {
    let mut paths = Vec::new();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    for (start, base) in [("crate::", 0), ("self::", module.len())] {
        for (at, _) in text.match_indices(start) {
            if !text[..at]
                .ends_with(|before: char| before.is_alphanumeric() || "_:$".contains(before))
            {
                tree(&module[..base], &text[at + start.len()..], &mut paths);
            }
        }
    }
    for (at, _) in text.match_indices("super::") {
        if text[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &text[at..];
        let mut base = module;
        while let Some(after) = rest.strip_prefix("super::") {
            rest = after;
            base = base.split_last().map_or(&[][..], |(_, parent)| parent);
        }
        tree(base, rest, &mut paths);
    }
    paths
}

/// Adds the paths of a use tree, and returns the text after it.
fn tree<'a>(base: &[String], text: &'a str, paths: &mut Vec<Module>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        while !rest.trim_start().is_empty() {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            let after = tree(base, rest, paths);
            if after.len() == rest.len() {
                break;
            }
            rest = after;
        }
        return "";
    }
    let length = text.find(|next: char| !next.is_alphanumeric() && next != '_' && next != '*');
    let (name, rest) = text.split_at(length.unwrap_or(text.len()));
    let mut path = base.to_vec();
    if name != "self" {
        path.push(name.to_owned());
    }
    if let Some(rest) = rest.strip_prefix("::") {
        return tree(&path, rest, paths);
    }
    paths.push(path);
    let renamed = rest.trim_start().strip_prefix("as ");
    renamed.map_or(rest, |new| {
        new.trim_start_matches(|next: char| next.is_alphanumeric() || next == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sources: &[(&str, &str)]) -> Vec<String> {
        circles(sources.iter().map(|(file, text)| (Path::new(*file), *text)))
    }

    #[test]
    fn siblings_that_use_each_other_are_a_circle() {
        let two = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "fn f() { super::a::g() }"),
        ];
        assert_eq!(found(&two), ["modules of crate use each other in a circle: a, b"]);
        let three = [
            ("a.rs", "use crate::{b::{self, B}, d as e};"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use super::{a::x::Y, d};"),
            ("d.rs", ""),
        ];
        assert_eq!(found(&three), ["modules of crate use each other in a circle: a, b, c"]);
        let nested =
            [("a.rs", ""), ("a/x.rs", "use super::y::Y;"), ("a/y.rs", "use crate::a::x::X;")];
        assert_eq!(found(&nested), ["modules of crate::a use each other in a circle: x, y"]);
    }

    #[test]
    fn parents_and_their_children_are_one() {
        let sources = [
            ("lib.rs", "mod a; pub use a::A; use self::b::B;"),
            ("a.rs", "mod x; use x::X; // crate::b"),
            ("a/x.rs", "use super::A; use crate::{A as Other, b::B};"),
            ("b.rs", "use other_crate::a::A; use crate::Error;"),
        ];
        assert_eq!(found(&sources), Vec::<String>::new());
    }
}
