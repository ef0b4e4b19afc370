//! `swarmfs demo`: a whole swarm on this machine. A tracker, three seeds with capped rates and a mount, a file that is
//! streamed through the mount while the screen shows it, and the comparison with the original.

mod dataset;
mod screen;
mod stage;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use super::info::{escaped, human};
use super::mount::Ending;
use super::{log, options, progress};
use crate::create;
use crate::fs::{self, MountOptions, Mounted};
use crate::metainfo::{File, FileKind, Metainfo};
use crate::tracker::{Tracker, TrackerConfig};
use screen::Screen;
use stage::{Reading, Stage};

/// The command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A file or a folder to share, but for what no torrent can hold; without it, a dataset is made
    path: Option<PathBuf>,
    /// Where to mount: an empty directory, or one that is to be made; without it, a temporary one
    mountpoint: Option<PathBuf>,
    /// End after the comparison; without a terminal that is always so
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    verbosity: options::Verbosity,
}

/// How a demo ended.
enum End {
    /// The streamed file is the original, byte for byte.
    Right,
    /// It was interrupted before that was known.
    Interrupted,
}

/// Runs the command.
///
/// # Errors
/// One sentence.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    log::start(arguments.verbosity.verbose);
    // Dropped last: the mount in it is gone by then.
    let scratch = tempfile::Builder::new().prefix("swarmfs-demo-").tempdir();
    let scratch = scratch.with_context(|| format!("cannot make a directory in {}", std::env::temp_dir().display()))?;
    let mountpoint = Mountpoint::make(arguments.mountpoint.as_deref(), &scratch)?;
    // What cannot work is said before anything is made.
    fs::check(&mountpoint.path, &MountOptions::default())?;
    let stays = !arguments.once && std::io::stdout().is_terminal();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let end = runtime.block_on(play(arguments.path.as_deref(), &mountpoint.path, scratch.path(), stays));
    runtime.shutdown_background();
    Ok(match end? {
        End::Right => ExitCode::SUCCESS,
        End::Interrupted => ExitCode::FAILURE,
    })
}

/// The directory to mount on, taken away again if it was made here.
struct Mountpoint {
    path: PathBuf,
    made: bool,
}

impl Mountpoint {
    fn make(given: Option<&Path>, scratch: &TempDir) -> Result<Self> {
        let path = given.map_or_else(|| scratch.path().join("mnt"), Path::to_owned);
        let made = match std::fs::create_dir(&path) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e).with_context(|| format!("{}: cannot make the mountpoint", path.display())),
        };
        Ok(Self { path, made })
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        if self.made {
            // Where something was left in it, it stays.
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

async fn play(path: Option<&Path>, mountpoint: &Path, scratch: &Path, stays: bool) -> Result<End> {
    let mut ending = Ending::watch()?;
    let path = match path {
        Some(path) => apart(path, mountpoint)?,
        None => dataset::make(scratch)?,
    };
    let tracker = Tracker::start(TrackerConfig {
        listen: vec![stage::address(1)],
        interval: stage::INTERVAL,
        ..TrackerConfig::default()
    });
    let tracker = tracker.await?;
    let url = format!("http://{}/announce", tracker.addr());
    let stop = Arc::new(AtomicBool::new(false));
    let making = tokio::task::spawn_blocking({
        let (path, stop) = (path.clone(), Arc::clone(&stop));
        let options = create::Options { trackers: vec![url.clone()], skip_unfit: true, ..create::Options::default() };
        let file = scratch.join("demo.torrent");
        move || torrent(&path, &options, &file, &stop)
    });
    let meta = tokio::select! {
        made = making => made.context("the torrent was not made")??,
        () = ending.signal() => {
            stop.store(true, Ordering::Relaxed);
            return Ok(End::Interrupted);
        }
    };
    let star = star(&meta, &path)?;
    let show = async {
        let stage = Stage::start(&meta, &path, star.length).await?;
        let pieces = meta.geometry.pieces();
        let length = human(u64::from(meta.geometry.nominal_piece_length()));
        let files = meta.files.iter().filter(|file| file.visible()).count();
        let total = human(meta.geometry.total());
        say(&format!("torrent  {}: {total}, {files} files, {pieces} pieces of {length}", shortened(&meta.name, 24)));
        say(&format!("tracker  {url}"));
        say(&format!("seeds    3, each gives {}/s at the most", human(stage.rate)));
        let mounted = stage.mount(mountpoint)?;
        say(&format!("mount    {}", mountpoint.display()));
        anyhow::Ok((stage, mounted))
    };
    let (stage, mounted) = tokio::select! {
        ready = show => ready?,
        () = ending.signal() => return Ok(End::Interrupted),
    };
    let end = stream(&stage, &mounted, &meta, star, &path, &mut ending).await;
    let end = match end {
        Ok(End::Right) if stays => {
            say_what_next(&meta, mounted.mountpoint(), scratch);
            ending.signal().await;
            Ok(End::Right)
        }
        end => end,
    };
    let unmounter = mounted.unmounter();
    let over = async {
        let unmount = tokio::task::spawn_blocking(move || unmounter.unmount());
        let _ = tokio::join!(unmount, stage.stop());
        tracker.stop().await;
    };
    tokio::select! {
        () = over => {}
        () = ending.signal() => {}
    }
    end
}

/// The canonical path of what is shared, once the mount does not lie in it.
fn apart(path: &Path, mountpoint: &Path) -> Result<PathBuf> {
    let canonical =
        |path: &Path| std::fs::canonicalize(path).with_context(|| format!("{}: cannot be used", path.display()));
    let (shared, mount) = (canonical(path)?, canonical(mountpoint)?);
    if mount.starts_with(&shared) || shared.starts_with(&mount) {
        bail!("{}: lies within {}; choose a mountpoint elsewhere", mountpoint.display(), path.display());
    }
    Ok(shared)
}

/// Makes the torrent, with a progress bar, and writes it to `file`.
fn torrent(path: &Path, options: &create::Options, file: &Path, stop: &AtomicBool) -> Result<Arc<Metainfo>> {
    let bar = progress::bytes_bar("hashing", 0);
    let bytes = create::create(path, options, &|total| bar.set_length(total), &|bytes| bar.inc(bytes), stop);
    bar.finish_and_clear();
    let bytes = bytes?;
    std::fs::write(file, &bytes).with_context(|| format!("{}: cannot be written", file.display()))?;
    let meta = Metainfo::parse(&bytes).map_err(|cause| crate::Error::Metainfo { path: path.to_owned(), cause })?;
    Ok(Arc::new(meta))
}

/// The file that is streamed: the largest one.
fn star<'a>(meta: &'a Metainfo, path: &Path) -> Result<&'a File> {
    let regular = meta.files.iter().filter(|file| matches!(file.kind, FileKind::Regular { .. }) && file.length > 0);
    // The first of the largest.
    regular.rev().max_by_key(|file| file.length).ok_or_else(|| anyhow!("{}: has no file to stream", path.display()))
}

/// Streams the star through the mount and compares it, while the screen shows how it goes.
async fn stream(
    stage: &Stage,
    mounted: &Mounted,
    meta: &Metainfo,
    star: &File,
    path: &Path,
    ending: &mut Ending,
) -> Result<End> {
    let (copy, original) = if meta.single_file {
        (mounted.mountpoint().join(&meta.name), path.to_owned())
    } else {
        (mounted.mountpoint().join(&meta.name).join(&*star.path), path.join(&*star.path))
    };
    let name = star.path.rsplit('/').next().unwrap_or_default();
    let mut screen = Screen::new(name, star.length);
    let reading = Reading::start(copy, original)?;
    let mut tick = tokio::time::interval(screen::TICK);
    let result = loop {
        tokio::select! {
            _ = tick.tick() => screen.draw(&reading, stage),
            result = reading.finished() => break result,
            () = ending.signal() => {
                screen.clear();
                return Ok(End::Interrupted);
            }
        }
    };
    screen.draw(&reading, stage);
    screen.clear();
    let took = reading.elapsed();
    result.with_context(|| format!("{} is not right", escaped(&star.path)))?;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "for people"
    )]
    let rate = (star.length as f64 / took.as_secs_f64().max(1e-6)) as u64;
    say(&format!(
        "streamed {}: {} in {:.1} s, {}/s, first byte after {:.0} ms",
        shortened(name, 18),
        human(star.length),
        took.as_secs_f64(),
        human(rate),
        reading.first_byte().as_secs_f64() * 1000.0
    ));
    say("compared with the original: the same, byte for byte");
    Ok(End::Right)
}

/// At most so many characters of a name, safe for a terminal.
fn shortened(name: &str, most: usize) -> String {
    let name = escaped(name);
    if name.chars().count() <= most {
        return name;
    }
    name.chars().take(most.saturating_sub(3)).chain("...".chars()).collect()
}

fn say(line: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn say_what_next(meta: &Metainfo, mountpoint: &Path, scratch: &Path) {
    let place = mountpoint.join(&meta.name);
    let place = place.display();
    let torrent = scratch.join("demo.torrent");
    say("\nIt stays mounted until Ctrl-C. In another terminal:");
    if meta.single_file {
        say(&format!("  tail -c 64 {place} | od -c"));
    } else {
        say(&format!("  ls -lR {place}"));
        say(&format!("  grep -rl swarm {place}"));
    }
    say("How much of it has come:");
    say(&format!("  getfattr -d {place}"));
    say("Join its swarm:");
    say(&format!("  {} get {} -o copy", binary(), torrent.display()));
    say("Share a folder of your own:");
    say(&format!("  {} demo FOLDER", binary()));
}

/// This program as it can be typed where it was started.
fn binary() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "swarmfs".into());
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(&path).display().to_string()
}
