//! Golden files: rewrites what tests compare with.

use crate::{
    report::{Outcome, Part},
    test,
    workspace::Workspace,
};

/// Runs the tests with `UPDATE_GOLDEN=1`, so that a test with a golden file writes it instead of
/// comparing. Read the diff before you commit it.
pub(crate) fn write(workspace: &Workspace) -> Part {
    let outcome = test::rust(workspace, &[("UPDATE_GOLDEN", "1")])?;
    if let Outcome::Ran(_) = outcome {
        println!("now read `git diff`: every changed line is a changed promise");
    }
    Ok(outcome)
}
