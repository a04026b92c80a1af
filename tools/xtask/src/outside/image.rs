//! Lints the Dockerfiles by hadolint. `cargo xtask live docker` builds and runs the images.

use super::tools;
use crate::{
    command,
    report::{Part, Tally},
    workspace::Workspace,
};

/// Runs hadolint over every Dockerfile of the project.
pub(super) fn lint(workspace: &Workspace) -> Part {
    let mut tally = Tally::default();
    for file in workspace.files()? {
        if file.file_name().is_some_and(|name| name == "Dockerfile") {
            let mut hadolint = tools(workspace)?.tool("hadolint");
            hadolint.args(["--failure-threshold", "style"]).arg(&file);
            let result = command::captured(hadolint.current_dir(&workspace.root)).map(drop);
            tally.check(&file.display().to_string(), result);
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use crate::roles;

    /// The lines of a file in the project's root, without comments.
    fn lines(file: &str) -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = fs::read_to_string(root.join(file)).unwrap();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    /// Every role inherits the image's variables, so one of them for all would bind them all to the
    /// same port.
    #[test]
    fn each_role_is_told_by_a_flag_where_to_listen_and_none_by_a_variable() {
        let files = ["Dockerfile", "compose.yaml", "compose.dev-kv.yaml", "compose.ha.yaml"];
        for file in files.into_iter().chain(["compose.tls.yaml"]) {
            let set = lines(file).into_iter().find(|line| line.contains("TILL_LISTEN"));
            assert_eq!(set, None, "{file}");
        }
        let whole_shop = r#"CMD ["up", "--listen", "[::]", "--listen", "0.0.0.0"]"#;
        assert!(lines("Dockerfile").iter().any(|line| line == whole_shop), "not {whole_shop}");
        for role in roles::NAMES {
            let command = format!("command: [{role}, --listen, \"0.0.0.0:");
            let is_told = lines("compose.yaml").iter().any(|line| line.contains(&command));
            assert!(is_told, "compose.yaml starts {role} without --listen");
        }
    }
}
