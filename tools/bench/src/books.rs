//! The audit after a run: `till audit`, if the store can be reached. It sees what no client can
//! see: votes, holds and journals.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::certificates::Certificates;

/// How many offences are shown in words.
const SHOWN_MAX: usize = 10;

/// What the audit reported.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Books {
    document: Value,
}

/// Runs the audit; `program` is this executable.
///
/// # Errors
/// In words, when the audit could not be carried out.
pub(crate) async fn audit(
    program: &Path,
    pd_endpoints: &[String],
    certificates: Option<&Certificates>,
) -> Result<Books, String> {
    let mut audit = Command::new(program);
    audit.args(["audit", "--json", "--pd-endpoints", &pd_endpoints.join(",")]);
    if let Some(tls) = certificates.map(Certificates::store) {
        audit.arg("--store-ca-file").arg(tls.ca);
        audit.arg("--store-cert-file").arg(tls.cert);
        audit.arg("--store-key-file").arg(tls.key);
    }
    let ended = audit
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("cannot run the audit: {error}"))?;
    // An audit with offences has its own exit code, and prints its document as well.
    serde_json::from_slice(&ended.stdout).map(|document| Books { document }).map_err(|_| {
        let said = String::from_utf8_lossy(&ended.stderr);
        format!("the audit ended with {}: {}", ended.status, said.trim())
    })
}

impl Books {
    /// What does not agree; empty when all is well.
    pub(crate) fn problems(&self) -> Vec<String> {
        if self.document["clean"] == true {
            return Vec::new();
        }
        let offences = self.document["offences"].as_array().into_iter().flatten().take(SHOWN_MAX);
        let word = |offence: &Value, name: &str| offence[name].as_str().unwrap_or("?").to_owned();
        let mut problems: Vec<String> = offences
            .map(|offence| {
                let [invariant, subject, problem] =
                    ["invariant", "subject", "problem"].map(|name| word(offence, name));
                format!("audit: {invariant}: {subject}: {problem}")
            })
            .collect();
        problems.push(format!("audit: offences by invariant: {}", self.document["by_invariant"]));
        problems
    }

    /// The audit's counts, for the report.
    pub(crate) fn json(&self) -> Value {
        let count = |name: &str| self.document[name].clone();
        json!({
            "clean": count("clean"),
            "orders": count("orders"),
            "paid": count("paid"),
            "items": count("items"),
            "users": count("users"),
            "transactions": count("transactions"),
            "unresolved": count("unresolved"),
        })
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let count = |name: &str| &self.document[name];
        format!(
            "  audit: {} orders, {} items, {} users, {} live transactions: every invariant holds",
            count("orders"),
            count("items"),
            count("users"),
            count("transactions"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offence_is_a_problem_by_its_name() {
        let clean = Books { document: json!({ "clean": true, "orders": 3 }) };
        assert_eq!(clean.problems(), Vec::<String>::new());
        assert_eq!(clean.json()["orders"], 3);
        let document = json!({
            "clean": false,
            "by_invariant": { "I1": 1 },
            "offences": [{ "invariant": "I1", "subject": "item 7", "problem": "one unit is gone" }],
        });
        let problems = Books { document }.problems();
        assert_eq!(problems[0], "audit: I1: item 7: one unit is gone");
        assert_eq!(problems.len(), 2);
    }

    #[test]
    fn books_that_say_nothing_are_not_clean() {
        assert!(!Books { document: json!({}) }.problems().is_empty());
    }

    #[tokio::test]
    async fn an_audit_that_fails_is_an_error() {
        let failed = audit(Path::new("/bin/false"), &[], None).await.unwrap_err();
        assert!(failed.contains("the audit ended with"), "{failed}");
    }
}
