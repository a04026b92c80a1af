//! README's tours: each command must print the lines that README shows, in that order, except for
//! ids and times. It may print more.

use std::path::Path;

use crate::workspace::Workspace;

/// One command of a tour, and the lines that it should print.
#[derive(Debug, PartialEq, Eq)]
struct Stop {
    command: String,
    lines: Vec<String>,
}

/// Runs every command below a heading by `run`, which returns the output. Each of these places is
/// looked for at its real address. Returns a text with the number of commands.
pub(crate) fn run(
    workspace: &Workspace,
    heading: &str,
    places: &[(String, String)],
    mut run: impl FnMut(&str) -> Result<String, String>,
) -> Result<String, String> {
    let text = workspace.read(Path::new("README.md"))?.ok_or("no README.md")?;
    let stops = stops(&text, heading);
    if stops.is_empty() {
        return Err(format!("README.md has no commands below {heading:?}"));
    }
    for stop in &stops {
        let command = stop.command.clone();
        let command = places.iter().fold(command, |line, (from, to)| line.replace(from, to));
        let printed = run(&command)?;
        let mut rest = plain(&printed);
        for line in &stop.lines {
            let wanted = plain(line);
            let at = rest.find(&wanted).ok_or_else(|| {
                format!("{} printed no {line:?} where README.md has it: {printed}", stop.command)
            })?;
            rest = rest.split_off(at + wanted.len());
        }
    }
    Ok(format!("{} commands print what README.md says", stops.len()))
}

fn stops(text: &str, heading: &str) -> Vec<Stop> {
    let mut stops: Vec<Stop> = Vec::new();
    let (mut is_below, mut is_code) = (false, false);
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if !is_code && line.starts_with('#') {
            is_below = line.trim_start_matches('#').trim() == heading;
        } else if is_below && is_code {
            if let Some(command) = line.strip_prefix("$ ") {
                stops.push(Stop { command: command.to_owned(), lines: Vec::new() });
            } else if let Some(stop) = stops.last_mut() {
                stop.lines.push(line.to_owned());
            }
        }
    }
    stops
}

/// Fewest digits of a time: no amount has as many.
const TIME_DIGITS: usize = 13;

/// The text without white space, with all times and all base64 texts alike, as those differ each
/// time.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for part in text.split('"') {
        let part = if part.ends_with("==") { "#" } else { part };
        let mut rest = part;
        while let Some(first) = rest.chars().next() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (token, after) = rest.split_at(digits.max(first.len_utf8()));
            rest = after;
            if digits >= TIME_DIGITS {
                plain.push('#');
            } else if !first.is_whitespace() {
                plain.push_str(token);
            }
        }
        plain.push('"');
    }
    plain.pop();
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_they_print_are_read() {
        let text = "# A\n```\n$ no\n```\n## A tour\n\n```\n$ one 2\nprints 17\n$ three\n```\n## B\n```\n$ no\n```\n";
        let found = stops(text, "A tour");
        let stop = |command: &str, lines: &[&str]| Stop {
            command: command.to_owned(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(found, [stop("one 2", &["prints 17"]), stop("three", &[])]);
    }

    #[test]
    fn space_ids_and_times_make_no_difference_and_amounts_do() {
        assert_eq!(plain("a 12\n b:\"x\""), plain("a 12 b:\"x\""));
        assert_eq!(plain("{\"txId\": \"AaH9==\"}"), plain("{\"txId\":\"Zz1==\"}"));
        assert_eq!(plain("v: 470614102246162433,"), plain("v:470614102250356737,"));
        assert_ne!(plain("credit 997"), plain("credit 1007"));
        assert_ne!(plain("sold"), plain("refused"));
    }
}
