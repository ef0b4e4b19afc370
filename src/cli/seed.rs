//! `swarmfs seed`: checks a copy, then serves it until Ctrl-C or until it has given enough.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use tracing::warn;

use super::info::{escaped, human};
use super::lifetime::Lifetime;
use super::mount::Ending;
use super::rules::StopRules;
use super::{log, options, progress, reached, say, source};
use crate::cache::DataDir;
use crate::config::{Config, Fill};
use crate::engine::{AddOptions, LocalCopy, Network, Session};

/// The command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A .torrent file
    torrent: PathBuf,
    /// The directory that holds the copy
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Show each peer one piece at a time: others pass it on, and little more than one copy is uploaded (BEP 16)
    #[arg(long, help_heading = "Seeding")]
    super_seed: bool,
    #[command(flatten)]
    rules: StopRules,
    #[command(flatten)]
    network: options::Network,
    #[command(flatten)]
    verbosity: options::Verbosity,
}

/// Runs the command.
///
/// # Errors
/// One sentence.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    log::start(arguments.verbosity.verbose);
    let network = Network::of(&arguments.network.config())?;
    let meta = source::torrent(&arguments.torrent, &network)?;
    let data = DataDir::open(&meta, &arguments.data)?;
    let bar = progress::bytes_bar(&format!("checking {}", meta.name), meta.geometry.total());
    let report = data.verify(&meta, &|bytes| bar.inc(bytes), &AtomicBool::new(false))?;
    bar.finish_and_clear();
    let pieces = meta.geometry.pieces();
    let good = report.have.iter().filter(|h| **h).count();
    let name = escaped(&meta.name);
    if good == 0 {
        let why =
            report.bad_files.first().map_or_else(String::new, |(path, why)| format!(" ({}: {why})", path.display()));
        bail!("{} does not hold {name}: no piece of it is right{why}", arguments.data.display());
    }
    let meta = Arc::new(meta);
    let complete = good == report.have.len();
    if arguments.super_seed && !complete {
        warn!("super-seeding needs all of {name}: what is there is served without it");
    }
    let config = Config {
        fill: Fill::All,
        data: Some(arguments.data.clone()),
        super_seed: arguments.super_seed && complete,
        ..arguments.network.config()
    };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut ending = Ending::watch()?;
        let session = Session::start_over(network, config)?;
        // Nothing is wanted: what is there is given, and what is missing stays so.
        let copy = Some(LocalCopy { data, have: report.have, unchecked: false });
        let torrent =
            session.add(Arc::clone(&meta), AddOptions { copy, wanted: Some(Vec::new()), ..AddOptions::default() })?;
        for (path, why) in &report.bad_files {
            warn!("{}: {why}", path.display());
        }
        say(&format!("seeding {name} ({good} of {pieces} pieces) {}; Ctrl-C ends it", reached(&session)));
        let bar = progress::message_bar(&meta.name);
        let mut lifetime = Lifetime::open(&meta.id);
        let enough = arguments.rules.seed(&session, torrent, report.good, &bar, &mut lifetime, &mut ending).await;
        bar.finish_and_clear();
        let totals = session.totals(torrent).unwrap_or_default();
        lifetime.save(&totals);
        if enough {
            let given = lifetime.uploaded(&totals);
            say(&format!("{} of {name} were given to others", human(given)));
        }
        tokio::select! {
            () = session.stop() => {}
            () = ending.signal() => {}
        }
        anyhow::Ok(())
    })?;
    runtime.shutdown_background();
    Ok(())
}
