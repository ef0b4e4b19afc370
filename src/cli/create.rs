//! `swarmfs create PATH`: makes a .torrent file.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::info::{escaped, human};
use super::mount::Ending;
use super::out_file::OutFile;
use super::{log, options, progress, values};
use crate::Error;
use crate::create::{self, Options, create};
use crate::metainfo::{FileKind, Metainfo};

/// Ended by Ctrl-C, as shells say it.
const INTERRUPTED: u8 = 130;

/// What `--help` says after the options.
const NOTES: &str = "\
Everything below PATH goes in: hidden files, empty files, executable bits, and links that stay inside PATH (other
programs may not know links and see an empty file instead). Empty directories do not: torrents have no place for them.
What cannot go in (an unreadable file, a link that leads out, a socket, a name that is not UTF-8) is refused by its
name before anything is hashed, or left out with --skip-unfit.

The same files and options give the same .torrent, byte for byte. OUT appears whole or not at all.";

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(after_long_help = NOTES)]
pub(crate) struct Arguments {
    /// The file or directory
    path: PathBuf,
    /// Where the .torrent goes: a file, a directory, or - for the standard output [default: NAME.torrent here]
    #[arg(short, long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// Replace OUT if it is there (should it lie inside PATH, it stays out of the torrent)
    #[arg(long)]
    force: bool,
    /// A tracker's announce address (http, https, udp); again and again, the first is asked first
    #[arg(long = "tracker", value_name = "URL", value_parser = checked(create::tracker))]
    trackers: Vec<String>,
    /// Bytes of a piece: a power of two from 16KiB to 512MiB [default: by the size, some 1,000 to 2,000 pieces]
    #[arg(long, value_name = "SIZE", value_parser = piece_length)]
    piece_length: Option<u32>,
    /// Let peers come from the trackers alone
    #[arg(long)]
    private: bool,
    /// A text for people
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// An http or https address that serves the file, or the directory that PATH is in; again and again
    #[arg(long = "web-seed", value_name = "URL", value_parser = checked(create::web_seed))]
    web_seeds: Vec<String>,
    /// Leave out what matches: a name anywhere ('*.tmp'), or a path below PATH ('build/*.o', 'a/**/b'); 'name/' takes
    /// directories only; again and again
    #[arg(long, value_name = "GLOB", value_parser = checked(create::exclude))]
    exclude: Vec<String>,
    /// Leave out what cannot go in, with a warning, and do not refuse it; -v names it
    #[arg(long)]
    skip_unfit: bool,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    verbosity: options::Verbosity,
}

fn piece_length(text: &str) -> Result<u32, String> {
    values::size(text).and_then(create::piece_length)
}

/// A parser of values that are kept as they are written.
fn checked(
    check: fn(&str) -> Result<(), String>,
) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| check(text).map(|()| text.to_owned())
}

/// Runs the command.
///
/// # Errors
/// One sentence.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    log::start(arguments.verbosity.verbose);
    let name = create::name(&arguments.path)?;
    let path = match &arguments.out {
        Some(out) if out.as_os_str() == "-" => None,
        Some(out) if out.is_dir() => Some(out.join(format!("{name}.torrent"))),
        Some(out) => Some(out.clone()),
        None => Some(format!("{name}.torrent").into()),
    };
    let out = path.as_deref().map(|path| OutFile::check(path, arguments.force)).transpose()?;
    if path.is_none() && arguments.json {
        super::usage("-o - and --json both want the standard output");
    }
    if path.is_none() && io::stdout().is_terminal() {
        bail!("a .torrent is not for terminals; choose a file with -o, or lead the standard output to one");
    }
    let options = Options {
        trackers: arguments.trackers.clone(),
        piece_length: arguments.piece_length,
        private: arguments.private,
        comment: arguments.comment.clone(),
        web_seeds: arguments.web_seeds.clone(),
        exclude: arguments.exclude.clone(),
        skip_unfit: arguments.skip_unfit,
        out: path.clone(),
    };
    let bytes = match until_signal(&arguments.path, &name, &options) {
        Err(error) if matches!(error.downcast_ref(), Some(Error::Stopped)) => {
            eprintln!("swarmfs: {error}; nothing was written");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        result => result?,
    };
    let meta = Metainfo::parse(&bytes).context("the .torrent does not read back")?;
    if meta.private && meta.trackers.is_empty() {
        tracing::warn!("a private torrent without a --tracker finds no peers");
    }
    let written = match out {
        Some(out) => {
            out.write(&bytes)?;
            print(&meta, path.as_deref(), arguments.json, &mut io::stdout().lock())
        }
        None => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("cannot write to the standard output")?;
            print(&meta, None, false, &mut io::stderr().lock())
        }
    };
    match written {
        // Whoever read it has seen enough; the .torrent is there.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to the standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Makes the torrent, with a progress bar, until a signal stops it.
fn until_signal(path: &Path, name: &str, options: &Options) -> Result<Vec<u8>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let mut ending = runtime.block_on(async { Ending::watch() })?;
    let bar = progress::bytes_bar(&format!("hashing {name}"), 0);
    let begun = |total| {
        bar.set_length(total);
        bar.reset_eta();
    };
    let stop = AtomicBool::new(false);
    let (sender, mut done) = tokio::sync::oneshot::channel();
    let result = thread::scope(|scope| {
        let work = scope.spawn(|| {
            let result = create(path, options, &begun, &|bytes| bar.inc(bytes), &stop);
            let _ = sender.send(());
            result
        });
        runtime.block_on(async {
            tokio::select! {
                _ = &mut done => return,
                () = ending.signal() => stop.store(true, Ordering::Relaxed),
            }
            tokio::select! {
                _ = done => {}
                // A disk that does not answer. Nothing is written yet.
                () = ending.signal() => std::process::exit(INTERRUPTED.into()),
            }
        });
        work.join()
    });
    bar.finish_and_clear();
    match result {
        Ok(result) => Ok(result?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Says what was made, and where it is.
fn print(meta: &Metainfo, out: Option<&Path>, json: bool, to: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Made<'a> {
        name: &'a str,
        info_hash: String,
        size: u64,
        piece_length: u32,
        pieces: u32,
        files: usize,
        links: usize,
        torrent: Option<String>,
    }
    let links = meta.files.iter().filter(|file| matches!(file.kind, FileKind::Symlink { .. })).count();
    let made = Made {
        name: &meta.name,
        info_hash: meta.id.to_string(),
        size: meta.geometry.total(),
        piece_length: meta.geometry.nominal_piece_length(),
        pieces: meta.geometry.pieces(),
        files: meta.files.len() - links,
        links,
        torrent: out.map(|out| out.to_string_lossy().into_owned()),
    };
    if json {
        serde_json::to_writer_pretty(&mut *to, &made)?;
        return writeln!(to);
    }
    let mut line = |key: &str, value: String| writeln!(to, "{key:<13} {value}");
    line("name", escaped(made.name))?;
    line("info-hash", made.info_hash)?;
    line("size", format!("{} bytes ({})", made.size, human(made.size)))?;
    line("pieces", format!("{} of {}", made.pieces, human(made.piece_length.into())))?;
    line("files", made.files.to_string())?;
    if links > 0 {
        line("links", links.to_string())?;
    }
    made.torrent.map_or(Ok(()), |torrent| line("written to", escaped(&torrent)))
}
