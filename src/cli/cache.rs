//! `swarmfs cache`: what the cache directory holds, and how it is made smaller or checked.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::info::{escaped, human};
use super::{log, options, progress, say, values};
use crate::Error;
use crate::cache::{Checkup, Listed, Store};

/// The command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the torrents in the cache, also while it is in use
    List {
        #[command(flatten)]
        place: PlaceArgument,
        /// For programs: one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Drop what was used longest ago until the cache is no larger than this
    Trim {
        /// Bytes on the disk (KiB, MiB, GiB)
        #[arg(value_parser = values::size)]
        size: u64,
        #[command(flatten)]
        place: PlaceArgument,
    },
    /// Drop torrents from the cache, or everything
    Clear {
        /// Info-hashes, or how they begin; none is everything
        #[arg(value_name = "INFO-HASH")]
        torrents: Vec<String>,
        #[command(flatten)]
        place: PlaceArgument,
    },
    /// Hash everything in the cache; what is damaged is dropped, and the exit code is 1 then
    Verify {
        #[command(flatten)]
        place: PlaceArgument,
        /// For programs: one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct PlaceArgument {
    /// The cache directory [default: $XDG_CACHE_HOME/swarmfs or ~/.cache/swarmfs]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

impl PlaceArgument {
    fn path(&self) -> Result<PathBuf> {
        let path = self.cache_dir.clone().or_else(options::default_cache_dir);
        path.context("there is no home directory and so no cache; name one with --cache-dir")
    }

    /// The store there, if there is one. Nothing is made.
    fn open(&self) -> Result<Option<Store>> {
        let path = self.path()?;
        if !path.is_dir() {
            return Ok(None);
        }
        match Store::open(&path, u64::MAX) {
            Ok(store) => Ok(Some(store)),
            Err(Error::CacheInUse(path)) => bail!("{}: a mount uses it; unmount it first", path.display()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// One sentence.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    log::start(0);
    match &arguments.action {
        Action::List { place, json } => list(&place.path()?, *json).map(|()| ExitCode::SUCCESS),
        Action::Trim { size, place } => trim(place, *size).map(|()| ExitCode::SUCCESS),
        Action::Clear { torrents, place } => clear(place, torrents).map(|()| ExitCode::SUCCESS),
        Action::Verify { place, json } => verify(place, *json),
    }
}

#[derive(Serialize)]
struct TorrentRow {
    info_hash: String,
    /// None if its directory is damaged.
    name: Option<String>,
    size: u64,
    held: u64,
    disk: u64,
    /// Seconds since 1970; none if nothing of it is there.
    last_used: Option<u32>,
    downloaded: u64,
    uploaded: u64,
    /// Uploaded by downloaded; none if nothing was.
    ratio: Option<f64>,
}

#[derive(Serialize)]
struct ListReport {
    path: PathBuf,
    disk: u64,
    torrents: Vec<TorrentRow>,
}

fn list(path: &Path, json: bool) -> Result<()> {
    let listed = Store::list(path)?;
    let row = |listed: Listed| TorrentRow {
        ratio: (listed.downloaded > 0).then(|| listed.uploaded as f64 / listed.downloaded as f64),
        info_hash: listed.id,
        name: listed.name,
        size: listed.size,
        held: listed.held,
        disk: listed.allocated,
        last_used: (listed.used > 0).then_some(listed.used),
        downloaded: listed.downloaded,
        uploaded: listed.uploaded,
    };
    let mut torrents: Vec<TorrentRow> = listed.into_iter().map(row).collect();
    torrents.sort_by_key(|row| std::cmp::Reverse(row.last_used));
    let report = ListReport { path: path.to_owned(), disk: torrents.iter().map(|row| row.disk).sum(), torrents };
    print(json.then_some(&report), |out| {
        if !report.torrents.is_empty() {
            writeln!(out, "{:>10}  {:>5}  {:>10}  {:>6}  {:8}  name", "on disk", "held", "last used", "ratio", "hash")?;
        }
        for row in &report.torrents {
            let percent = row.held as f64 * 100.0 / row.size.max(1) as f64;
            writeln!(
                out,
                "{:>10}  {percent:>3.0} %  {:>10}  {:>6}  {:8}  {}",
                human(row.disk),
                row.last_used.map_or_else(|| "-".to_owned(), ago),
                row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
                row.info_hash.get(..8).unwrap_or_default(),
                row.name.as_deref().map_or_else(|| "(damaged)".to_owned(), escaped),
            )?;
        }
        let count = report.torrents.len();
        let plural = if count == 1 { "" } else { "s" };
        writeln!(out, "{} in {count} torrent{plural}, {}", human(report.disk), report.path.display())
    })
}

/// A moment in the past, as people say it.
fn ago(seconds: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match now.saturating_sub(seconds.into()) {
        past @ 0..60 => format!("{past} s ago"),
        past @ 60..3_600 => format!("{} min ago", past / 60),
        past @ 3_600..86_400 => format!("{} h ago", past / 3_600),
        past => format!("{} d ago", past / 86_400),
    }
}

fn trim(place: &PlaceArgument, size: u64) -> Result<()> {
    let Some(store) = place.open()? else { return nothing(place) };
    let before = store.allocated();
    store.trim(size)?;
    say(&format!("{} were freed, {} are left", human(before - store.allocated()), human(store.allocated())));
    Ok(())
}

fn nothing(place: &PlaceArgument) -> Result<()> {
    say(&format!("{}: there is no cache", place.path()?.display()));
    Ok(())
}

fn clear(place: &PlaceArgument, torrents: &[String]) -> Result<()> {
    let wanted: Vec<String> = torrents.iter().map(|torrent| torrent.to_ascii_lowercase()).collect();
    if let Some(odd) = wanted.iter().find(|wanted| wanted.is_empty() || !wanted.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        bail!("`{odd}` is no info-hash; `swarmfs cache list` shows those of the cache");
    }
    let ids: Vec<String> = Store::list(&place.path()?)?.into_iter().map(|listed| listed.id).collect();
    for wanted in &wanted {
        match ids.iter().filter(|id| id.starts_with(wanted)).count() {
            1 => {}
            0 => bail!("no torrent of the cache begins with {wanted}; `swarmfs cache list` shows them"),
            count => bail!("{count} torrents of the cache begin with {wanted}; write more of the info-hash"),
        }
    }
    let Some(store) = place.open()? else { return nothing(place) };
    let freed = store.clear(|id| wanted.is_empty() || wanted.iter().any(|wanted| id.starts_with(wanted)))?;
    say(&format!("{} were freed, {} are left", human(freed), human(store.allocated())));
    Ok(())
}

#[derive(Serialize)]
struct CheckedRow {
    info_hash: String,
    name: String,
    good_pieces: u32,
    damaged_pieces: u32,
}

#[derive(Serialize)]
struct VerifyReport {
    path: PathBuf,
    damaged_pieces: u32,
    torrents: Vec<CheckedRow>,
}

fn verify(place: &PlaceArgument, json: bool) -> Result<ExitCode> {
    let Some(store) = place.open()? else { return nothing(place).map(|()| ExitCode::SUCCESS) };
    let bar = progress::bytes_bar("checking the cache", store.held());
    let checked = store.verify(&|bytes| bar.inc(bytes), &AtomicBool::new(false));
    bar.finish_and_clear();
    let row = |Checkup { id, name, good, damaged }| CheckedRow {
        info_hash: id,
        name,
        good_pieces: good,
        damaged_pieces: damaged,
    };
    let torrents: Vec<CheckedRow> = checked.into_iter().map(row).collect();
    let damaged = torrents.iter().map(|row| row.damaged_pieces).sum();
    let report = VerifyReport { path: store.path().to_owned(), damaged_pieces: damaged, torrents };
    print(json.then_some(&report), |out| {
        for row in &report.torrents {
            let all = row.good_pieces + row.damaged_pieces;
            let (good, name) = (row.good_pieces, escaped(&row.name));
            writeln!(
                out,
                "{name}: {good} of {all} pieces are right{}",
                if good < all { ", the others are gone" } else { "" }
            )?;
        }
        Ok(())
    })?;
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a report for programs, or what `text` writes for people.
fn print(json: Option<&impl Serialize>, text: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = match json {
        Some(report) => {
            serde_json::to_writer_pretty(&mut out, report).map_err(io::Error::from).and_then(|()| writeln!(out))
        }
        None => text(&mut out),
    };
    super::printed(printed.and_then(|()| out.flush()))
}
