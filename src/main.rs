//! `swarmfs`: arguments, one command, an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    swarmfs::cli::run()
}
