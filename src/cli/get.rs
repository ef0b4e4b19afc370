//! `swarmfs get`: looks at what is there already, fetches the rest, and seeds on as it is told to.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::info::{escaped, human};
use super::lifetime::Lifetime;
use super::mount::Ending;
use super::progress::{self, Rates, per_second, transfer_line};
use super::rules::StopRules;
use super::selection::Selection;
use super::source::Source;
use super::{awaiting, log, options, reached, say, values};
use crate::cache::{DataDir, VerifyReport};
use crate::config::{Config, Fill};
use crate::engine::{AddOptions, LocalCopy, Network, Session};
use crate::error::Error;
use crate::metainfo::Metainfo;
use crate::swarm::TorrentKey;

/// How often the line on a terminal changes.
const DRAW: Duration = Duration::from_millis(200);

/// The command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A .torrent file or its http(s) URL, a magnet link or an info-hash
    source: PathBuf,
    /// The directory that the copy goes to; what is there of it already is not fetched again
    #[arg(short = 'o', long = "output", value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Only files that match: by path in the torrent, by name, or by a directory above them; again and again
    #[arg(long, value_name = "GLOB")]
    select: Vec<String>,
    #[command(flatten)]
    rules: StopRules,
    #[command(flatten)]
    network: options::Network,
    /// Memory for pieces (KiB, MiB, GiB)
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::memory)]
    memory: u64,
    #[command(flatten)]
    verbosity: options::Verbosity,
}

/// Runs the command. The exit code is 130 if a signal ended it before everything was there.
///
/// # Errors
/// One sentence.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    log::start(arguments.verbosity.verbose);
    let network = Network::of(&arguments.network.config())?;
    let source = Source::read(&arguments.source, &network)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let result = runtime.block_on(get(arguments, source, network));
    // A disk that does not answer holds nobody up.
    runtime.shutdown_background();
    let complete = result.map_err(|error| explain(error, &arguments.dir))?;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(130) })
}

/// True if everything is there in the end.
async fn get(arguments: &Arguments, source: Source, network: Network) -> Result<bool> {
    let mut ending = Ending::watch()?;
    let mut session = None;
    let outcome = get_over(arguments, source, network, &mut session, &mut ending).await;
    // However it ended, trackers and the gateway are told.
    if let Some(session) = session {
        tokio::select! {
            () = session.stop() => {}
            () = ending.signal() => {}
        }
    }
    outcome
}

/// As [`get`]; leaves its session, if it has begun one.
async fn get_over(
    arguments: &Arguments,
    source: Source,
    network: Network,
    session: &mut Option<Session>,
    ending: &mut Ending,
) -> Result<bool> {
    let config = Config {
        fill: Fill::All,
        data: Some(arguments.dir.clone()),
        memory: arguments.memory,
        ..arguments.network.config()
    };
    let (meta, found) = match source {
        Source::Torrent(meta) => (Arc::new(*meta), None),
        Source::Magnet(magnet) => {
            let session = session.insert(Session::start_over(network.clone(), config.clone())?);
            let finding = session.find(magnet)?;
            match awaiting::on_the_terminal(&finding, ending).await? {
                Some(meta) => (meta, Some(finding.magnet().clone())),
                None => return Ok(false),
            }
        }
    };
    let link = found.as_ref();
    let selection = match link {
        Some(magnet) if arguments.select.is_empty() => Selection::of_indices(&meta, magnet.select.as_deref()),
        _ => Selection::new(&meta, &arguments.select)?,
    };
    let selection = Arc::new(selection);
    let peers = link.map(|magnet| magnet.peers.clone()).unwrap_or_default();
    let (name, dir) = (escaped(&meta.name), escaped(&arguments.dir.to_string_lossy()));
    let stop = Arc::new(AtomicBool::new(false));
    let check = {
        let (meta, selection, dir, stop) =
            (Arc::clone(&meta), Arc::clone(&selection), arguments.dir.clone(), Arc::clone(&stop));
        tokio::task::spawn_blocking(move || check(&meta, &selection, &dir, &stop))
    };
    let (data, report) = tokio::select! {
        checked = check => checked.context("the check of what is there ended early")??,
        () = ending.signal() => {
            stop.store(true, Ordering::Relaxed);
            return Ok(false);
        }
    };
    let (files, size) = selection.size(&meta);
    let left = selection.missing(&meta, &report.have);
    let what = format!("{name}: {} in {files} file{}", human(size), if files == 1 { "" } else { "s" });
    if left == 0 {
        say(&format!("{what}, all of it is in {dir} already"));
        if !arguments.rules.any() {
            return Ok(true);
        }
    }
    let begun = match session.take() {
        Some(session) => session,
        None => Session::start_over(network, config)?,
    };
    let session = &*session.insert(begun);
    let copy = Some(LocalCopy { data, have: report.have, unchecked: false });
    let torrent = session.add(Arc::clone(&meta), AddOptions { copy, wanted: selection.bytes(&meta), peers })?;
    let mut lifetime = Lifetime::open(&meta.id);
    let mut outcome = Ok(true);
    if left > 0 {
        say(&format!("fetching {what}, {} of it to come, to {dir} ({})", human(left), reached(session)));
        outcome = fetch(session, torrent, &meta.name, left, ending).await;
        if matches!(outcome, Ok(false)) {
            let missing = session.snapshot(torrent).map_or(0, |snapshot| snapshot.wanted_left);
            say(&format!("{} of {name} are still missing; the same command goes on from here", human(missing)));
        }
    }
    if matches!(outcome, Ok(true)) && arguments.rules.any() {
        say(&format!("seeding {name} ({}); Ctrl-C ends it", reached(session)));
        let bar = progress::message_bar(&meta.name);
        arguments.rules.seed(session, torrent, size, &bar, &mut lifetime, ending).await;
        bar.finish_and_clear();
        let given = lifetime.uploaded(&session.totals(torrent).unwrap_or_default());
        say(&format!("{} of {name} were given to others", human(given)));
    }
    lifetime.save(&session.totals(torrent).unwrap_or_default());
    Ok(outcome?)
}

/// Makes what is missing of the copy's files, and says which pieces are there.
fn check(meta: &Metainfo, selection: &Selection, dir: &Path, stop: &AtomicBool) -> Result<(DataDir, VerifyReport)> {
    let data = DataDir::create(meta, dir, selection.files.as_deref())?;
    let bar = progress::bytes_bar(&format!("checking {}", meta.name), meta.geometry.total());
    let report = data.verify(meta, &|bytes| bar.inc(bytes), stop)?;
    bar.finish_and_clear();
    Ok((data, report))
}

/// Waits until everything is there and on the disk (true), or a signal comes (false).
///
/// # Errors
/// The copy cannot be written.
async fn fetch(
    session: &Session,
    torrent: TorrentKey,
    name: &str,
    left: u64,
    ending: &mut Ending,
) -> Result<bool, Arc<Error>> {
    let (start, mut rates) = (Instant::now(), Rates::default());
    let bar = progress::transfer_bar(name, left);
    let finished = session.finished(torrent);
    let failed = session.copy_failed(torrent);
    tokio::pin!(finished, failed);
    loop {
        tokio::select! {
            biased;
            error = &mut failed => {
                bar.finish_and_clear();
                return Err(error);
            }
            () = &mut finished => break,
            () = ending.signal() => {
                bar.finish_and_clear();
                return Ok(false);
            }
            () = tokio::time::sleep(DRAW), if !bar.is_hidden() => {
                let Some(snapshot) = session.snapshot(torrent) else { continue };
                rates.add(Instant::now(), &snapshot.totals);
                bar.set_position(left.saturating_sub(snapshot.wanted_left));
                bar.set_message(transfer_line(&snapshot.totals, snapshot.wanted_left, &rates));
            }
        }
    }
    bar.finish_and_clear();
    let took = start.elapsed();
    tokio::select! {
        synced = session.sync(torrent) => synced.map_err(Arc::new)?,
        // Everything is written; only a power cut could still lose it.
        () = ending.signal() => {}
    }
    let rate = human(per_second(left, took));
    say(&format!("fetched {}: {} in {:.1} s, {rate}/s", escaped(name), human(left), took.as_secs_f64()));
    Ok(true)
}

/// What is to be done about a disk that is full.
fn explain(error: anyhow::Error, dir: &Path) -> anyhow::Error {
    let cause = match error.downcast_ref::<Arc<Error>>().map(|error| &**error).or_else(|| error.downcast_ref()) {
        Some(Error::Io { path, cause, .. }) => Some((path, cause.kind())),
        _ => None,
    };
    match cause {
        Some((path, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) => anyhow!(
            "{}: the disk is full; make room in {} and run the same command again: it goes on from what is there",
            path.display(),
            dir.display()
        ),
        _ => error,
    }
}
