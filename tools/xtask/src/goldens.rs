//! Golden files: rewrites what tests compare with.

use crate::{report::Part, test, workspace::Workspace};

/// Runs the tests with `UPDATE_GOLDEN=1`, so that a test with a golden file writes it instead of
/// comparing. Read the diff before you commit it.
pub(crate) fn write(workspace: &Workspace) -> Part {
    let tally = test::rust(workspace, &[("UPDATE_GOLDEN", "1")])?;
    println!("now read `git diff`: every changed line is a changed promise");
    Ok(tally)
}
