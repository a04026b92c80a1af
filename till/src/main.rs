//! Every role of the shop in one executable: reads the command line, sets the process up, runs one
//! role.
//!
//! Must not know: how a role does its work (its crate does), nor the wire.
//!
//! Modules: [`cli`] the command line; [`settings`] the environment and the settings in force;
//! [`common`] what all commands share; [`process`] runtime and exit codes; [`role`] binds and runs
//! one role; [`health`] asks a role for its health; [`audit`] whether the books agree; [`tx`] what
//! became of transactions; [`participant_check`] the conformance kit; [`up`] a whole shop on one
//! machine, as child processes.
//!
//! Invariants: ports are bound before anything heavy begins. The first SIGINT or SIGTERM ends the
//! role in order, the second at once. Exit codes are 0, 1 (failure) and 64 (usage); `audit`, `tx`
//! and `participant check` use 2 if what they check does not hold.

use std::process::ExitCode;

mod audit;
mod cli;
mod common;
mod health;
mod participant_check;
mod process;
mod role;
mod settings;
mod tx;
mod up;

/// A checkout makes a few hundred allocations on its way through the roles. With the C library's
/// allocator they took a quarter of all processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// Only simulations may break the rules.
const _: () = assert!(!types::mutation::POSSIBLE, "this executable must not have mutations");

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return process::usage(&error),
    };
    let variables = || std::env::vars_os().map(|(name, _)| name);
    if let Err(error) = settings::check(cli.command.name(), variables()) {
        return process::usage(&error);
    }
    if let Err(error) = settings::check_telemetry(&cli.command) {
        return process::usage(&error);
    }
    if cli.process.print_config {
        return process::print(&settings::show(&cli::matches(std::env::args_os()), variables()));
    }
    process::main(cli)
}
