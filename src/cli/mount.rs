//! `swarmfs mount`: torrents as directories, in the background once the mount answers.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::background::{self, Role};
use super::selection::Selection;
use super::source::Source;
use super::{awaiting, log, options};
use crate::cache::DataDir;
use crate::config::Config;
use crate::engine::{AddOptions, Finding, LocalCopy, Network, Session};
use crate::error::Error;
use crate::fs::{self, MountOptions, Mounted, Tree};
use crate::metainfo::{Magnet, Metainfo};

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(override_usage = "swarmfs mount [OPTIONS] SOURCE... MOUNTPOINT")]
pub(crate) struct Arguments {
    /// .torrent files or their http(s) URLs, magnet links or info-hashes, then an empty directory
    #[arg(required = true, num_args = 1.., value_name = "SOURCE... MOUNTPOINT")]
    paths: Vec<PathBuf>,
    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,
    /// Let other users in
    #[arg(long)]
    allow_other: bool,
    /// Read files that are complete in the cache directory through swarmfs, too, which checks what it reads; the kernel
    /// reads them by itself otherwise (as root)
    #[arg(long)]
    no_passthrough: bool,
    /// Mount options as mount(8) passes them
    #[arg(short = 'o', value_name = "OPTION,...", value_delimiter = ',')]
    options: Vec<String>,
    /// Where the log goes in the background
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[command(flatten)]
    network: options::Network,
    #[command(flatten)]
    storage: options::Storage,
    #[command(flatten)]
    verbosity: options::Verbosity,
    /// The pipe on which the background process says that it is ready
    #[arg(long, hide = true)]
    ready_fd: Option<i32>,
}

/// Runs the command.
///
/// # Errors
/// One sentence.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Some((mountpoint, sources)) = arguments.paths.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        super::usage("swarmfs mount needs a SOURCE and a MOUNTPOINT");
    };
    if arguments.foreground {
        log::start(arguments.verbosity.verbose);
        serve(arguments, sources, mountpoint, || Ok(()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let named = || background::log_path(&std::path::absolute(mountpoint).unwrap_or_else(|_| mountpoint.to_owned()));
    let log_file = arguments.log.clone().unwrap_or_else(named);
    let own: Vec<OsString> = std::env::args_os().skip(1).collect();
    match background::enter(arguments.ready_fd, &own, &log_file)? {
        Role::Parent(code) => Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)),
        Role::Child(readiness) => {
            log::start(arguments.verbosity.verbose);
            let mut readiness = Some(readiness);
            let result = serve(arguments, sources, mountpoint, || match readiness.take() {
                Some(readiness) => readiness.ready().context("nobody waits for the mount any more"),
                None => Ok(()),
            });
            match (result, readiness) {
                (Ok(()), _) => Ok(ExitCode::SUCCESS),
                (Err(error), Some(readiness)) => {
                    readiness.failed(&format!("{error:#}"));
                    Ok(ExitCode::FAILURE)
                }
                (Err(error), None) => Err(error),
            }
        }
    }
}

/// Mounts, says so through `ready`, and stays until a signal or an unmount from outside.
fn serve(
    arguments: &Arguments,
    sources: &[PathBuf],
    mountpoint: &Path,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let config = arguments.storage.apply(arguments.network.config());
    let network = Network::of(&config)?;
    let sources = sources.iter().map(|source| Source::read(source, &network)).collect::<Result<Vec<_>>>()?;
    let mut seen = BTreeSet::new();
    if let Some(twin) = sources.iter().map(Source::id).find(|id| !seen.insert(id.wire())) {
        return Err(Error::Duplicate(twin).into());
    }
    let options = MountOptions {
        allow_other: arguments.allow_other,
        passthrough: !arguments.no_passthrough,
        extra: arguments.options.clone(),
        ..MountOptions::default()
    };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let result = runtime.block_on(mount(sources, (network, config), mountpoint, &options, ready));
    // What is still blocked by a copy of the mount elsewhere ends with the process.
    runtime.shutdown_background();
    result
}

async fn mount(
    sources: Vec<Source>,
    (network, config): (Network, Config),
    mountpoint: &Path,
    options: &MountOptions,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut ending = Ending::watch()?;
    // Before any tracker hears of us.
    fs::check(mountpoint, options)?;
    let data = config.data.clone();
    refuse_inside(mountpoint, config.cache_dir.as_deref().filter(|_| config.cache_size > 0), "--cache-dir")?;
    refuse_inside(mountpoint, data.as_deref(), "--data")?;
    let copy = |meta: &Metainfo| tokio::task::block_in_place(|| copy_in(data.as_deref(), meta));
    // Before anybody hears of us.
    let prepared = sources.into_iter().map(|source| match source {
        Source::Torrent(meta) => Ok(Ok((AddOptions { copy: copy(&meta)?, ..AddOptions::default() }, Arc::new(*meta)))),
        Source::Magnet(magnet) => Ok(Err(magnet)),
    });
    let prepared = prepared.collect::<Result<Vec<_>, Error>>()?;
    let session = Arc::new(Session::start_over(network, config)?);
    let (mut there, mut awaited) = (Vec::new(), Vec::new());
    for source in prepared {
        let (options, meta) = match source {
            Ok(torrent) => torrent,
            Err(magnet) => {
                let finding = session.find(magnet)?;
                let Some(meta) = finding.known() else {
                    awaited.push(finding);
                    continue;
                };
                (linked(&meta, finding.magnet(), copy(&meta)?), meta)
            }
        };
        there.push((session.add(Arc::clone(&meta), options)?, meta));
    }
    let content = session.content();
    let mounted = tokio::task::block_in_place(|| fs::mount(Tree::new(&there), content, mountpoint, options))?;
    ready()?;
    let mounted = Arc::new(mounted);
    let mut arrivals = JoinSet::new();
    for finding in awaited {
        arrivals.spawn(arrive(Arc::clone(&session), Arc::clone(&mounted), data.clone(), finding));
    }
    info!("mounted on {}", mounted.mountpoint().display());

    let unmounter = mounted.unmounter();
    let outside = tokio::task::spawn_blocking(move || mounted.wait_unmounted());
    tokio::select! {
        () = ending.signal() => {}
        _ = outside => info!("unmounted from outside"),
    }
    arrivals.abort_all();
    let unmount = tokio::task::spawn_blocking(move || unmounter.unmount());
    let end = async {
        let (unmounted, ()) = tokio::join!(unmount, session.stop());
        if unmounted.is_err() {
            warn!("the unmount failed: `swarmfs unmount` cleans up what is left");
        }
    };
    tokio::select! {
        () = end => {}
        () = ending.signal() => {}
    }
    Ok(())
}

/// A torrent appears in the mount once its metadata is there.
async fn arrive(session: Arc<Session>, mounted: Arc<Mounted>, data: Option<PathBuf>, finding: Finding) {
    let name = finding.magnet().label();
    let shown = async {
        let meta = awaiting::in_the_log(&finding).await?;
        let there = Arc::clone(&meta);
        let copy = tokio::task::spawn_blocking(move || copy_in(data.as_deref(), &there));
        let copy = copy.await.context("the copy was not looked at")??;
        let key = session.add(Arc::clone(&meta), linked(&meta, finding.magnet(), copy))?;
        info!(torrent = %meta.name, "its metadata is there: it appears in the mount");
        // It asks the kernel to forget what it has listed.
        tokio::task::spawn_blocking(move || mounted.add(key, &meta)).await.context("the mount was not told")
    };
    if let Err(error) = shown.await {
        warn!(torrent = %name, "it cannot be mounted: {error:#}");
        session.give_up(&finding);
    }
}

/// How a torrent of a magnet link is added.
fn linked(meta: &Metainfo, link: &Magnet, copy: Option<LocalCopy>) -> AddOptions {
    let wanted = Selection::of_indices(meta, link.select.as_deref()).bytes(meta);
    AddOptions { copy, wanted, peers: link.peers.clone() }
}

/// The user's own copy of a torrent in `dir`, made as far as it is not there. What is there is hashed later.
fn copy_in(dir: Option<&Path>, meta: &Metainfo) -> Result<Option<LocalCopy>, Error> {
    let Some(dir) = dir else { return Ok(None) };
    let data = DataDir::create(meta, dir, None)?;
    Ok(Some(LocalCopy { have: data.candidates(meta), data, unchecked: true }))
}

/// Refuses a directory below the mountpoint: the mount would hide it, and to read it would be to read the mount.
fn refuse_inside(mountpoint: &Path, dir: Option<&Path>, option: &str) -> Result<(), Error> {
    let Some(dir) = dir else { return Ok(()) };
    let real = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // What is not there yet lies where the part of the path that is there leads to.
        let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
        let Some((above, real)) = there else { return path };
        real.join(path.strip_prefix(above).unwrap_or_else(|_| Path::new("")))
    };
    if real(dir).starts_with(real(mountpoint)) {
        let reason = format!("it lies below the mountpoint; choose another with {option}");
        return Err(Error::Cache { path: dir.to_owned(), reason });
    }
    Ok(())
}

/// The signals that end a command, watched from the moment this is made.
pub(crate) struct Ending {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Ending {
    /// Watches for SIGINT and SIGTERM, and ignores SIGHUP.
    ///
    /// # Errors
    /// If the process cannot watch for signals.
    pub(crate) fn watch() -> Result<Self> {
        let watch = |kind| signal(kind).context("cannot watch for signals");
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGINT or SIGTERM.
    pub(crate) async fn signal(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => {}
            }
        }
    }
}
