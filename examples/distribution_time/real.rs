//! The real half: a tracker, an origin and N downloads as processes on loopback, each with an address of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{MIB, RATE};

/// How long a process may take for what is done at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program to run: beside this one in the target directory, or what SWARMFS_BIN names.
pub(super) fn binary() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("SWARMFS_BIN") {
        return Ok(PathBuf::from(binary));
    }
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let beside = own.parent().and_then(Path::parent).map(|target| target.join("swarmfs"));
    match beside.filter(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("there is no swarmfs beside this program: build it with the same profile, or set SWARMFS_BIN"),
    }
}

/// The time from the start of the downloads until the last of them has everything. They stay until then.
pub(super) fn run(binary: &Path, nodes: u32, size: u64) -> Result<Duration> {
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let file = dir.path().join("data");
    write_noise(&file, size).with_context(|| format!("cannot write {}", file.display()))?;
    let torrent = dir.path().join("data.torrent");
    let mut processes = Processes::new(binary);

    let tracker = processes.start(&["tracker", "--listen", "127.0.0.1:0"])?;
    let url = processes.line(tracker, PATIENCE, |line| line.starts_with("http://"))?.0;
    let status = Command::new(binary)
        .arg("create")
        .arg(&file)
        .arg("-o")
        .arg(&torrent)
        .args(["--tracker", &url, "--piece-length", "256KiB"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    ensure!(status.success(), "swarmfs create failed: {status}");

    let torrent = utf8(&torrent)?;
    let limit = format!("{}MiB", RATE / MIB);
    let origin = processes.start(&[
        "seed",
        torrent,
        "--data",
        utf8(dir.path())?,
        "--listen",
        "127.0.0.1:6881",
        "--upload-limit",
        &limit,
    ])?;
    processes.line(origin, PATIENCE, |line| line.starts_with("seeding "))?;

    let begun = Instant::now();
    let mut downloads = Vec::new();
    for node in 0..nodes {
        let copy = dir.path().join(format!("copy-{node}"));
        let listen = format!("127.0.0.{}:6881", node + 2);
        downloads.push(processes.start(&[
            "get",
            torrent,
            "-o",
            utf8(&copy)?,
            "--listen",
            &listen,
            "--upload-limit",
            &limit,
            "--seed-time",
            "1h",
        ])?);
    }
    let end = begun + PATIENCE + Duration::from_secs(size / RATE) * (nodes + 2);
    let mut last = begun;
    for download in downloads {
        let left = end.saturating_duration_since(Instant::now());
        last = last.max(processes.line(download, left, |line| line.starts_with("fetched "))?.1);
    }
    Ok(last.saturating_duration_since(begun))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn write_noise(path: &Path, size: u64) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let (mut rng, mut block) = (StdRng::seed_from_u64(size), vec![0; 1 << 20]);
    let mut left = size;
    while left > 0 {
        rng.fill_bytes(&mut block);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.write_all(&block[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// A process, and what it says.
struct Process {
    name: String,
    child: Child,
    lines: Receiver<(String, Instant)>,
    /// What it said last: what a failure shows.
    last: String,
}

/// Processes that end with this value, whatever happens.
struct Processes<'a> {
    binary: &'a Path,
    all: Vec<Process>,
}

impl<'a> Processes<'a> {
    fn new(binary: &'a Path) -> Self {
        Self { binary, all: Vec::new() }
    }

    /// Starts one; returns its number.
    fn start(&mut self, arguments: &[&str]) -> Result<usize> {
        let mut child = Command::new(self.binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        let (sender, lines) = channel();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        self.all.push(Process { name: arguments.join(" "), child, lines, last: String::new() });
        out.into_iter().for_each(|out| listen(out, sender.clone()));
        err.into_iter().for_each(|err| listen(err, sender.clone()));
        Ok(self.all.len() - 1)
    }

    /// The first line that is `right`, and when it came.
    fn line(&mut self, process: usize, wait: Duration, right: impl Fn(&str) -> bool) -> Result<(String, Instant)> {
        let end = Instant::now() + wait;
        let process = &mut self.all[process];
        loop {
            let Ok((line, at)) = process.lines.recv_timeout(end.saturating_duration_since(Instant::now())) else {
                let state = process.child.try_wait().ok().flatten();
                let state = state.map_or_else(|| "goes on without it".to_owned(), |status| format!("ended: {status}"));
                bail!("swarmfs {}: what was awaited did not come; it {state}; last: {}", process.name, process.last);
            };
            if right(&line) {
                return Ok((line, at));
            }
            process.last = line;
        }
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        for process in &mut self.all {
            // Gone already is as good.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// Reads lines to the end, so that the process never waits for us.
fn listen(from: impl Read + Send + 'static, to: Sender<(String, Instant)>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // Nobody may want to know any more.
            let _ = to.send((line, Instant::now()));
        }
    });
}
