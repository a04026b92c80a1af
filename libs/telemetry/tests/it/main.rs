//! What a process writes: this binary runs itself, once for each format, and reads its standard error.

use std::process::{Command, Output};

use telemetry::{FILTER_VARIABLE, Format};

/// Set for the process that is looked at.
const PLAY: &str = "TELEMETRY_TEST_PLAYS";

/// What the looked-at process does. In the test run itself it is an empty test.
#[test]
fn play() {
    let Some(format) = std::env::var_os(PLAY) else {
        return;
    };
    let format = format.to_str().and_then(|text| text.parse().ok());
    let _guard = telemetry::init("stock-1", format.unwrap_or_default());
    let _again = telemetry::init("somebody-else", Format::Json);
    tracing::info!(shards = 16, "started");
    tracing::debug!("details");
    panic!("as asked");
}

fn look(format: Format, filter: Option<&str>) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
    command.args(["--exact", "play", "--nocapture"]).env(PLAY, format.to_string());
    command.env_remove(FILTER_VARIABLE).envs(filter.map(|filter| (FILTER_VARIABLE, filter)));
    let Output { stderr, .. } = command.output().expect("this binary runs");
    let text = String::from_utf8(stderr).expect("logs are UTF-8");
    text.lines().filter(|line| line.contains("stock-1")).map(str::to_owned).collect()
}

#[test]
fn a_panic_is_an_error_line_with_its_place() {
    let lines = look(Format::Pretty, None);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("INFO") && lines[0].contains("started shards=16"), "{lines:#?}");
    let panic = &lines[1];
    assert!(panic.contains("ERROR") && panic.contains("panic"), "{panic}");
    assert!(panic.contains("as asked") && panic.contains("tests/it/main.rs:"), "{panic}");
}

#[test]
fn machines_get_the_same_in_objects() {
    let lines = look(Format::Json, None);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines.iter().all(|line| line.starts_with("{\"role\":\"stock-1\",")), "{lines:#?}");
    assert!(lines[1].contains("\"level\":\"ERROR\""), "{lines:#?}");
}

#[test]
fn the_filter_is_taken_from_the_environment() {
    assert_eq!(look(Format::Pretty, Some("debug")).len(), 3);
    assert_eq!(look(Format::Pretty, Some("error")).len(), 1);
}
