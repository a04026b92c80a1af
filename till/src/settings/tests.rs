use std::{collections::BTreeSet, fs};

use super::*;

fn names(names: &[&str]) -> Vec<OsString> {
    names.iter().map(OsString::from).collect()
}

fn refused(command: &str, variables: &[&str]) -> String {
    check(command, names(variables)).unwrap_err().to_string()
}

#[test]
fn a_misspelt_variable_is_refused_and_the_right_one_named() {
    for (wrong, right) in [
        ("TILL_IN_FLIHGT_MAX", "TILL_IN_FLIGHT_MAX"),
        ("TILL_API_KEY", "TILL_API_KEY_FILE"),
        ("TILL_STORE_CA", "TILL_STORE_CA_FILE"),
        ("TILL_LOGS", "TILL_LOG"),
    ] {
        let said = refused("order", &["PATH", wrong]);
        assert!(said.contains(wrong) && said.contains(&format!("is {right}")), "{said}");
    }
}

#[test]
fn variables_of_other_commands_and_of_others_are_let_be() {
    let variables = names(&["TILL_IN_FLIGHT_MAX", "TILL_LOG", "PD_ENDPOINTS", "HOME", "UNTILL_X"]);
    check("dev-kv", variables).unwrap();
}

#[test]
fn roles_of_one_machine_cannot_share_a_certificate() {
    let said = refused("up", &["TILL_TLS_CA_FILE"]);
    assert!(said.contains("till up") && said.contains("TILL_TLS_CA_FILE"), "{said}");
    check("order", names(&["TILL_TLS_CA_FILE"])).unwrap();
    check("up", names(&["TILL_TLS_DIR"])).unwrap();
}

#[test]
fn settings_that_contradict_each_other_are_refused_by_name() {
    for (line, said) in [
        (
            "order --insecure --tls-ca-file a --tls-cert-file b --tls-key-file c",
            ["--insecure", "--tls-ca-file"],
        ),
        ("order --tls-cert-file b --tls-ca-file a", ["--tls-cert-file", "--tls-key-file"]),
        ("stock --tls-key-file c", ["--tls-cert-file", "--tls-key-file"]),
        ("payment --tls-no-client-auth", ["--tls-no-client-auth", "--tls-cert-file"]),
        ("order --store-cert-file b", ["--store-cert-file", "--store-ca-file"]),
        ("dev-kv --tls-cert-file a", ["--tls-cert-file", "--tls-key-file"]),
        ("dev-kv --tls-trust-domain till", ["--tls-trust-domain", "--tls-ca-file"]),
        // Former names of these variables.
        ("dev-kv --tls-cert a", ["--tls-cert-file", "--tls-key-file"]),
        ("dev-kv --insecure --tls-cert a --tls-key b", ["--insecure", "TILL_INSECURE"]),
        ("http-bridge --tls-no-client-auth=1", ["--tls-no-client-auth", "TILL_TLS_NO_CLIENT_AUTH"]),
        ("up --insecure --tls-dir a", ["--tls-dir", "TILL_TLS_DIR"]),
        ("stock --insecure=perhaps", ["--insecure", "perhaps"]),
        ("health --endpoint a:1 --http --service x", ["--http", "--service"]),
    ] {
        let words = std::iter::once("till").chain(line.split(' '));
        let error = cli::parse(words).map(|_| ()).unwrap_err().to_string();
        let error = error.replace("--tls-ca ", "");
        assert!(said.iter().any(|each| error.contains(each)), "{line}: {error}");
    }
}

#[test]
fn a_setting_that_says_no_contradicts_nothing() {
    let tls = "--tls-ca-file a --tls-cert-file b --tls-key-file c";
    for line in [
        format!("order --insecure=false {tls}"),
        format!("coordinator {tls} --tls-no-client-auth=no"),
        "stock --tls-no-client-auth=false".to_owned(),
        "dev-kv --insecure=off --tls-cert a --tls-key b --tls-ca c".to_owned(),
        format!("dev-kv --insecure=off {tls} --tls-trust-domain till"),
        "up --insecure=0 --tls-dir a".to_owned(),
        "order --insecure".to_owned(),
        "up --insecure".to_owned(),
    ] {
        let words = std::iter::once("till").chain(line.split(' '));
        let parsed = cli::parse(words).map(drop);
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}

fn shown(line: &str, variables: &[&str]) -> String {
    let words = std::iter::once("till").chain(line.split(' '));
    let matches = Cli::command().try_get_matches_from(words).unwrap();
    show(&matches, names(variables))
}

#[test]
fn what_is_in_force_is_shown_with_where_it_comes_from() {
    let text =
        shown("http-bridge --in-flight-max 7 --print-config", &["OTEL_EXPORTER_OTLP_HEADERS"]);
    let has = |line: &str| assert!(text.lines().any(|each| each == line), "{line} in\n{text}");
    has("# till http-bridge");
    has("TILL_IN_FLIGHT_MAX=7  # command line");
    has("TILL_REQUEST_TIMEOUT_MS=30000  # default");
    has("# TILL_API_KEY_FILE is not set");
    has("# OTEL_EXPORTER_OTLP_HEADERS is set, to what is not shown");
    assert_eq!(text.matches("TILL_LOG_FORMAT=").count(), 1, "{text}");
    let text = shown("tx list --limit 5", &[]);
    assert!(
        text.contains("# till tx list\n") && text.contains("--limit=5  # command line"),
        "{text}"
    );
}

/// Commands that the page describes, in its order.
const DOCUMENTED: [&str; 12] = [
    "up",
    "order",
    "stock",
    "payment",
    "coordinator",
    "http-bridge",
    "dev-kv",
    "bench",
    "audit",
    "tx",
    "health",
    "participant",
];

/// One line of the page's tables.
fn row(setting: &Arg) -> String {
    let long = setting.get_long().map(|long| format!("`--{long}`")).unwrap_or_default();
    let variable = setting.get_env().and_then(OsStr::to_str);
    let variable = variable.map(|name| format!("`{name}`")).unwrap_or_default();
    let default: Vec<_> =
        setting.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match default.join(",") {
        empty if empty.is_empty() => String::new(),
        flag if flag == "false" => String::new(),
        value => format!("`{value}`"),
    };
    let help = setting.get_help().map(ToString::to_string).unwrap_or_default();
    format!(
        "| {long} | {variable} | {default} | {} |\n",
        help.replace('|', "\\|").replace('\n', " ")
    )
}

fn is_documented(setting: &Arg) -> bool {
    let id = setting.get_id().as_str();
    !setting.is_hide_set() && setting.get_long().is_some() && !["help", "version"].contains(&id)
}

fn table<'a>(settings: impl Iterator<Item = &'a Arg>) -> String {
    let rows: String = settings.map(row).collect();
    format!("| flag | variable | default | |\n|---|---|---|---|\n{rows}")
}

/// The text of docs/configuration.md. Settings of all commands are listed once, at the top.
fn page() -> String {
    let command = Cli::command();
    let mut text = include_str!("introduction.md").to_owned();
    text.push_str("\n## Every command\n\n");
    text.push_str(&table(command.get_arguments().filter(|setting| is_documented(setting))));
    for name in DOCUMENTED {
        let sub = command.find_subcommand(name).unwrap();
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(text, "\n## till {name}\n\n{about}").unwrap();
        if sub.get_arguments().any(is_documented) {
            text.push('\n');
            text.push_str(&table(sub.get_arguments().filter(|setting| is_documented(setting))));
        }
        for question in sub.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let about = question.get_about().map(ToString::to_string).unwrap_or_default();
            writeln!(text, "\n`till {name} {}`: {about}", question.get_name()).unwrap();
            if question.get_arguments().any(is_documented) {
                text.push('\n');
                text.push_str(&table(
                    question.get_arguments().filter(|setting| is_documented(setting)),
                ));
            }
        }
    }
    text
}

#[test]
fn the_page_about_settings_is_what_the_command_line_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let now = page();
    if std::env::vars_os().any(|(name, _)| name == "UPDATE_GOLDEN") {
        fs::write(path, &now).unwrap();
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == now,
        "docs/configuration.md differs from the command line; UPDATE_GOLDEN=1 cargo test -p till \
         the_page writes it anew"
    );
}

#[test]
fn the_page_tells_of_every_command() {
    let documented: BTreeSet<&str> = DOCUMENTED.into_iter().collect();
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        assert!(documented.contains(command.get_name()), "{}", command.get_name());
    }
}
