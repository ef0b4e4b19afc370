//! `swarmfs mount`: torrents as directories, in the background once the mount answers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::background::{self, Role};
use super::{log, options, source};
use crate::cache::DataDir;
use crate::config::Config;
use crate::engine::{AddOptions, LocalCopy, Session};
use crate::error::Error;
use crate::fs::{self, MountOptions, Tree};
use crate::metainfo::Metainfo;

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(override_usage = "swarmfs mount [OPTIONS] SOURCE... MOUNTPOINT")]
pub(crate) struct Arguments {
    /// .torrent files, then an empty directory
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
    let metas = sources.iter().map(|s| source::read(s).map(Arc::new)).collect::<Result<Vec<_>>>()?;
    if let Some(twin) = metas.iter().enumerate().find_map(|(i, m)| metas[..i].iter().find(|o| o.id == m.id)) {
        return Err(Error::Duplicate(twin.id).into());
    }
    let config = arguments.storage.apply(arguments.network.config());
    let options = MountOptions {
        allow_other: arguments.allow_other,
        passthrough: !arguments.no_passthrough,
        extra: arguments.options.clone(),
        ..MountOptions::default()
    };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let result = runtime.block_on(mount(metas, config, mountpoint, &options, ready));
    // What is still blocked by a copy of the mount elsewhere ends with the process.
    runtime.shutdown_background();
    result
}

async fn mount(
    metas: Vec<Arc<Metainfo>>,
    config: Config,
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
    let copies = |meta| tokio::task::block_in_place(|| data.as_deref().map(|dir| copy_in(dir, meta)).transpose());
    let copies = metas.iter().map(|meta| copies(meta)).collect::<Result<Vec<_>, Error>>()?;
    let session = Session::start(config)?;
    let add = |(meta, copy): (Arc<Metainfo>, _)| {
        session.add(Arc::clone(&meta), AddOptions { copy, ..AddOptions::default() }).map(|key| (key, meta))
    };
    let torrents = metas.into_iter().zip(copies).map(add).collect::<Result<Vec<_>, Error>>()?;
    let tree = Tree::new(&torrents);
    let content = session.content();
    let mounted = tokio::task::block_in_place(|| fs::mount(tree, content, mountpoint, options))?;
    ready()?;
    info!("mounted on {}", mounted.mountpoint().display());

    let unmounter = mounted.unmounter();
    let outside = tokio::task::spawn_blocking(move || mounted.wait_unmounted());
    tokio::select! {
        () = ending.signal() => {}
        _ = outside => info!("unmounted from outside"),
    }
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

/// The user's own copy of a torrent in `dir`, made as far as it is not there. What is there is hashed later.
fn copy_in(dir: &Path, meta: &Metainfo) -> Result<LocalCopy, Error> {
    let data = DataDir::create(meta, dir, None)?;
    Ok(LocalCopy { have: data.candidates(meta), data, unchecked: true })
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
