//! Arguments, one command, an exit code.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let json = args.iter().any(|arg| arg == "--json");
    let words: Vec<_> = args.iter().filter(|arg| *arg != "--json").collect();
    let [command, source] = words[..] else {
        eprintln!("usage: swarmfs info SOURCE [--json]");
        return ExitCode::from(2);
    };
    if command != "info" {
        eprintln!("usage: swarmfs info SOURCE [--json]");
        return ExitCode::from(2);
    }
    match swarmfs::cli::info::run(Path::new(source), json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("swarmfs: {error}");
            ExitCode::FAILURE
        }
    }
}
