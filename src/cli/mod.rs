//! The command line: one file per command. Errors are one sentence on stderr; exit code 1 for failures, 2 for usage.

mod background;
mod create;
mod demo;
mod info;
mod log;
mod mount;
mod options;
mod out_file;
mod progress;
mod seed;
mod source;
mod tracker;
mod unmount;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Mounts torrents as read-only directories: files are there at once, their bytes stream from the swarm.
#[derive(Debug, Parser)]
#[command(name = "swarmfs", version, max_term_width = 100, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount one or several torrents
    Mount(mount::Arguments),
    /// Serve a copy of a torrent to its swarm
    Seed(seed::Arguments),
    /// Show what is in a .torrent file
    Info {
        /// A .torrent file
        source: PathBuf,
        /// For programs: one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Unmount a swarmfs mount
    Unmount {
        /// Where it is mounted
        mountpoint: PathBuf,
        /// Detach at once, even while files are open
        #[arg(long)]
        lazy: bool,
    },
    /// Make a .torrent file
    Create(create::Arguments),
    /// Fetch a copy (not built yet)
    Get(Unbuilt),
    /// Check a copy (not built yet)
    Verify(Unbuilt),
    /// Run a tracker: HTTP and UDP on one port
    Tracker(tracker::Arguments),
    /// Show a whole swarm on this machine: a tracker, three seeds, and a file that streams through a mount
    Demo(demo::Arguments),
    /// Add a torrent to a running mount (not built yet)
    Add(Unbuilt),
    /// Remove a torrent from a running mount (not built yet)
    Remove(Unbuilt),
    /// Show what a running mount does (not built yet)
    Status(Unbuilt),
}

/// Whatever a command that is not built is given.
#[derive(Debug, clap::Args)]
struct Unbuilt {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let unbuilt = |name: &str| Err(anyhow::anyhow!("`swarmfs {name}` is not built yet"));
    let result = match arguments.command {
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Seed(arguments) => seed::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Info { source, json } => info::run(&source, json).map(|()| ExitCode::SUCCESS),
        Command::Unmount { mountpoint, lazy } => unmount::run(&mountpoint, lazy).map(|()| ExitCode::SUCCESS),
        Command::Create(arguments) => create::run(&arguments),
        Command::Get(_) => unbuilt("get"),
        Command::Verify(_) => unbuilt("verify"),
        Command::Tracker(arguments) => tracker::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Add(_) => unbuilt("add"),
        Command::Remove(_) => unbuilt("remove"),
        Command::Status(_) => unbuilt("status"),
    };
    result.unwrap_or_else(|error| {
        eprintln!("swarmfs: {error:#}");
        ExitCode::FAILURE
    })
}

/// A command line that makes no sense: says so as clap does, with exit code 2.
fn usage(message: &str) -> ! {
    use clap::CommandFactory;
    Arguments::command().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit()
}
