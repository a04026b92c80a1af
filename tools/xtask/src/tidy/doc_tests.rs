//! Our pages name tests, which are named by sentences. Each such name must be that of an existing
//! function.

use std::collections::BTreeSet;

use super::{Texts, links::prose, of};
use crate::report::Tally;

/// Number of words from which on a name counts as a sentence.
const WORDS_MIN: usize = 5;
/// Prefixes of metrics, which have long names, too. A test of libs/telemetry compares them with
/// what is exported.
const METRICS: [&str; 5] = ["till_", "rpc_", "http_server_", "db_client_", "otel_sdk_"];

/// Checks the names on all pages.
pub(super) fn check(texts: &Texts, checks: &mut Tally) {
    let functions = of(texts, &["rs", "py"]).flat_map(|(_, text)| defined(text)).collect();
    for (file, text) in of(texts, &["md"]) {
        checks.check(&file.display().to_string(), look_up(text, &functions));
    }
}

fn look_up(text: &str, functions: &BTreeSet<&str>) -> Result<(), String> {
    let unknown: Vec<&str> =
        prose(text).flat_map(sentences).filter(|name| !functions.contains(name)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(format!("names tests that are not there: {}", unknown.join(", ")))
}

/// Names of the functions that a Rust or Python file defines.
fn defined(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("fn ").or_else(|| line.split_once("def "))?;
        let end = rest.find(|char: char| !is_of_name(char))?;
        rest.get(..end)
    })
}

/// Names in backticks that are sentences, without their modules.
fn sentences(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter_map(|code| code.rsplit("::").next()).filter(|name| {
        name.chars().all(is_of_name)
            && name.split('_').filter(|word| !word.is_empty()).count() >= WORDS_MIN
            && !METRICS.iter().any(|metric| name.starts_with(metric))
    })
}

fn is_of_name(char: char) -> bool {
    char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tests_are_looked_up() {
        let source = "#[test]\nfn a_test_that_is_there() {\n    async fn of_a_helper() {}\n";
        let python = "    async def test_that_it_is_there(shop):\n";
        let text = format!("{source}{python}");
        let functions = defined(&text).collect();
        let look = |page| look_up(page, &functions).is_ok();
        assert!(look("Held by `a_test_that_is_there`, `shop::test_that_it_is_there`."));
        assert!(!look("Held by `a_test_that_is_there` and `a_test_that_has_gone`."));
        assert!(!look("Held by `lane::a_test_that_has_gone`."));
        assert!(look(
            "`a_short_name`, `till_a_metric_with_a_name_total`, `SOME_SETTING_OF_THE_SHOP_X`"
        ));
        assert!(look("```\n`a_test_that_has_gone`\n```"));
    }
}
