//! The programs that read from a swarm: started, read through, measured and ended.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bench::Bench;
use crate::http;
use crate::support::foreign::libtorrent;
use crate::support::mounts::{Mount, detach, mount_by};
use crate::support::process::{Running, installed};
use crate::support::usage::{Usage, usage};
use crate::support::{holds_within, wait_until};
use crate::swarm::Swarm;

/// Longer than any run takes.
const LIFE: Duration = Duration::from_secs(900);

/// What takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Ours,
    /// The same without the disk store.
    Memory,
    /// The program that `SWARMFS_BENCH_BIN` names, for two builds in one run.
    Other,
    /// A plain download to disk.
    Libtorrent,
    /// Its HTTP stream.
    Rqbit,
    Btfs,
    /// A plain download to disk.
    Aria2,
    /// Blocks over loopback TCP, hashed: no protocol, no file system.
    Wire,
    /// A file system that answers from one static buffer, which stays in the processor's cache.
    Static,
    /// The same with a buffer as large as the file.
    StaticLarge,
}

impl Who {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Memory => "ours-memory",
            Self::Other => "other",
            Self::Libtorrent => "libtorrent",
            Self::Rqbit => "rqbit",
            Self::Btfs => "btfs",
            Self::Aria2 => "aria2c",
            Self::Wire => "wire",
            Self::Static => "static",
            Self::StaticLarge => "static-large",
        }
    }

    /// Why it cannot be measured here, if it cannot.
    pub(crate) fn missing(self) -> Option<&'static str> {
        let there = match self {
            Self::Ours | Self::Memory | Self::Other | Self::Wire | Self::Static | Self::StaticLarge => true,
            Self::Libtorrent => return (!has_libtorrent()).then_some(NO_LIBTORRENT),
            Self::Rqbit => std::env::var_os("RQBIT").is_some() || installed("rqbit"),
            Self::Btfs => installed("btfs"),
            Self::Aria2 => installed("aria2c"),
        };
        (!there).then_some("it is not installed")
    }
}

pub(crate) const NO_LIBTORRENT: &str = "SWARMFS_TEST_PYTHON names no Python with libtorrent (pip install libtorrent)";

/// True if lt.py can run.
pub(crate) fn has_libtorrent() -> bool {
    let python = std::env::var_os("SWARMFS_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    Command::new(python).args(["-c", "import libtorrent"]).output().is_ok_and(|output| output.status.success())
}

/// A client that runs; killed when dropped.
pub(crate) struct Client {
    /// Before its process was started.
    pub(crate) started: Instant,
    kind: Kind,
}

enum Kind {
    Mounted { mount: Mount, file: PathBuf },
    Btfs { process: Running, dir: TempDir, file: String },
    Rqbit { process: Running, _dir: TempDir, api: SocketAddr },
    Download { process: Running, _dir: TempDir },
}

impl Client {
    /// Starts it on the swarm's torrent. `arguments` are for ours.
    #[track_caller]
    pub(crate) fn start(bench: &Bench, who: Who, swarm: &Swarm, arguments: &[&str]) -> Self {
        let (address, dir) = (swarm.place(), tempfile::tempdir_in(bench.dir.path()).expect("a directory"));
        let log = dir.path().join("log");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a directory");
        let for_user = bench.for_user(&swarm.torrent);
        let started = Instant::now();
        let mut command = match who {
            Who::Ours | Who::Memory | Who::Other => {
                let torrent = for_user.as_ref().map_or(&swarm.torrent, |user| &user.torrent);
                let mut mount = mount_by(bench.program(who), &[torrent], address).args(arguments).limit(LIFE);
                if who == Who::Memory {
                    mount = mount.args(&["--cache-size", "0"]);
                }
                for peer in &swarm.peers {
                    mount = mount.peer(*peer);
                }
                if let Some(user) = &for_user {
                    mount = mount.args(&["--allow-other"]).on(&user.mountpoint);
                }
                let mount = mount.start();
                let file = mount.path(&swarm.file);
                return Self { started, kind: Kind::Mounted { mount, file } };
            }
            Who::Libtorrent => {
                let mut command = libtorrent();
                command.arg("leech").arg(&swarm.torrent).arg(&data).arg(address.to_string());
                command.arg(dir.path().join("status")).arg("max_out_request_queue=2000").args(&swarm.for_libtorrent);
                command
            }
            Who::Aria2 => {
                let mut command = Command::new("aria2c");
                command.args(["-q", "--seed-time=0", "--enable-dht=false", "--bt-enable-lpd=false", "--no-conf"]);
                command.arg("--file-allocation=none").arg("-d").arg(&data).arg(&swarm.torrent);
                command
            }
            Who::Btfs => {
                let mountpoint = dir.path().join("mnt");
                std::fs::create_dir(&mountpoint).expect("a mountpoint");
                let mut command = Command::new("btfs");
                command.arg("-f").arg(format!("--data-directory={}", data.display()));
                command.arg(&swarm.torrent).arg(mountpoint);
                command
            }
            Who::Rqbit => {
                let mut command = Command::new(std::env::var_os("RQBIT").unwrap_or_else(|| "rqbit".into()));
                command.args(["--http-api-listen-addr", &address.to_string(), "--disable-dht", "-v", "error"]);
                command.args(["server", "start", "--disable-persistence"]).arg(&data);
                command.env("RQBIT_UPNP_PORT_FORWARD_DISABLE", "true");
                command
            }
            Who::Wire | Who::Static | Who::StaticLarge => panic!("no client"),
        };
        command.env("HOME", dir.path());
        let process = Running::spawn(who.name(), command, &log, LIFE);
        let kind = match who {
            Who::Rqbit => {
                let torrent = std::fs::read(&swarm.torrent).expect("the torrent");
                let taken = || http::post(address, "/torrents?overwrite=true", &torrent).is_ok();
                assert!(holds_within(Duration::from_secs(30), taken), "rqbit takes no torrent: {}", process.log());
                Kind::Rqbit { process, _dir: dir, api: address }
            }
            Who::Btfs => {
                let file = dir.path().join("mnt").join(&swarm.file);
                wait_until(Duration::from_secs(30), "btfs shows the file", || file.exists());
                Kind::Btfs { process, dir, file: swarm.file.clone() }
            }
            _ => Kind::Download { process, _dir: dir },
        };
        Self { started, kind }
    }

    /// Opens the file.
    #[track_caller]
    pub(crate) fn open(&self) -> Reader {
        match &self.kind {
            Kind::Mounted { file, .. } => Reader::File(File::open(file).expect("the file")),
            Kind::Btfs { dir, file, .. } => {
                Reader::File(File::open(dir.path().join("mnt").join(file)).expect("a file"))
            }
            Kind::Rqbit { api, .. } => Reader::Http(*api),
            Kind::Download { .. } => panic!("a download cannot be read"),
        }
    }

    /// The path in a mount.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        match &self.kind {
            Kind::Mounted { mount, .. } => mount.path(relative),
            _ => panic!("not a mount"),
        }
    }

    fn process(&self) -> &Running {
        match &self.kind {
            Kind::Mounted { mount, .. } => &mount.process,
            Kind::Btfs { process, .. } | Kind::Rqbit { process, .. } | Kind::Download { process, .. } => process,
        }
    }

    /// What it has cost since its start.
    pub(crate) fn usage(&self) -> Usage {
        usage(self.process().pid())
    }

    /// Waits for the end of a download: what it cost. None for what is not one.
    #[track_caller]
    pub(crate) fn downloaded(&self) -> Option<Usage> {
        let Kind::Download { process, .. } = &self.kind else { return None };
        let mut peak = 0;
        // A zombie's CPU time can still be read, its memory cannot.
        wait_until(LIFE, "the download ends", || {
            peak = peak.max(usage(process.pid()).peak);
            process.state() == Some('Z')
        });
        Some(Usage { peak, ..self.usage() })
    }

    /// Ends it; ours tells its tracker and peers.
    pub(crate) fn stop(mut self) {
        if let Kind::Mounted { mount, .. } = &mut self.kind {
            let _ = mount.terminate(Duration::from_secs(10));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Btfs { dir, .. } => detach(&dir.path().join("mnt")),
            Kind::Mounted { mount, .. } => {
                detach(&mount.mountpoint);
                // What an ordinary user mounts on is ours to take away; another mountpoint goes with its directory.
                let _ = std::fs::remove_dir(&mount.mountpoint);
            }
            _ => {}
        }
    }
}

/// Access to the file that a client streams.
pub(crate) enum Reader {
    File(File),
    Http(SocketAddr),
}

const STREAM: &str = "/torrents/0/stream/0";

impl Reader {
    /// Reads all of `buffer`.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Http(api) => {
                let last = offset + buffer.len() as u64 - 1;
                http::get(*api, STREAM, Some((offset, last)))?.read_exact(buffer)
            }
        }
    }

    /// Reads from start to end by 1 MiB; how many bytes there were.
    pub(crate) fn read_all(&self) -> io::Result<u64> {
        let mut source: Box<dyn Read + '_> = match self {
            Self::File(file) => Box::new(file),
            Self::Http(api) => Box::new(http::get(*api, STREAM, None)?),
        };
        let (mut buffer, mut all) = (vec![0; 1 << 20], 0);
        loop {
            match source.read(&mut buffer)? {
                0 => return Ok(all),
                count => all += count as u64,
            }
        }
    }

    /// The file itself, which only a mount has.
    pub(crate) fn file(&self) -> Option<&File> {
        if let Self::File(file) = self { Some(file) } else { None }
    }
}

/// MiB of bytes.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
