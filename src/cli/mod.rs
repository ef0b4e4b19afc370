//! The command line: one file per command. Errors are one sentence on stderr; exit code 1 for failures, 2 for usage.

mod awaiting;
mod background;
mod cache;
mod create;
mod demo;
mod get;
mod info;
mod lifetime;
mod log;
mod mount;
mod options;
mod out_file;
mod progress;
mod rules;
mod scrape;
mod seed;
mod selection;
mod source;
mod tracker;
mod unmount;
mod values;
mod verify;

use std::ffi::OsString;
use std::io::Write;
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
    /// Show what is in a .torrent file, or what a magnet link says
    Info {
        /// A .torrent file or its http(s) URL, a magnet link or an info-hash
        source: PathBuf,
        /// For programs: one JSON object
        #[arg(long)]
        json: bool,
        /// Ask its trackers for their seeds and leechers; exit code 1 if none of them answers
        #[arg(long)]
        scrape: bool,
        /// Where a mount keeps what it fetched: the metadata of links is there, too
        /// [default: $XDG_CACHE_HOME/swarmfs or ~/.cache/swarmfs]
        #[arg(long, value_name = "DIR")]
        cache_dir: Option<PathBuf>,
        #[command(flatten)]
        way: options::Way,
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
    /// Fetch a copy of a torrent, or of some of its files
    Get(get::Arguments),
    /// Compare a copy with its torrent
    Verify(verify::Arguments),
    /// Show, shrink, empty or check the cache directory
    Cache(cache::Arguments),
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
    map_large_blocks();
    let arguments = Arguments::parse();
    let unbuilt = |name: &str| Err(anyhow::anyhow!("`swarmfs {name}` is not built yet"));
    let result = match arguments.command {
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Seed(arguments) => seed::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Info { source, json, scrape, cache_dir, way } => {
            let cache = cache_dir.or_else(options::default_cache_dir);
            info::run(&source, cache.as_deref(), json, scrape, &way).map(|()| ExitCode::SUCCESS)
        }
        Command::Unmount { mountpoint, lazy } => unmount::run(&mountpoint, lazy).map(|()| ExitCode::SUCCESS),
        Command::Create(arguments) => create::run(&arguments),
        Command::Get(arguments) => get::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Cache(arguments) => cache::run(&arguments),
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

/// Whatever is as large as a piece is mapped by itself and goes back to the kernel when it is freed. glibc would keep it in
/// heaps, one for each few threads, whose holes no budget counts (seen: 70 MiB over --memory).
fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only sets a number, before there is any other thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

/// How peers reach us, in a report.
fn reached(session: &crate::engine::Session) -> String {
    session.port().map_or_else(|| "through the proxy".to_owned(), |port| format!("on port {port}"))
}

/// A line for people. Nobody may be there to read it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What became of a report on the standard output. A reader that goes away is no error.
fn printed(result: std::io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(cause) if cause.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(crate::Error::System { what: "write to the standard output", cause }.into())
        }
        _ => Ok(()),
    }
}

/// A command line that makes no sense: says so as clap does, with exit code 2.
fn usage(message: &str) -> ! {
    use clap::CommandFactory;
    Arguments::command().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit()
}
