//! One invocation: its options, who is there to be measured, and the turns that they take.

use std::cell::{OnceCell, RefCell};
use std::os::unix::fs::{PermissionsExt, chown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::clients::Who;
use crate::support::lab::Lab;
use crate::support::process::swarmfs;
use crate::support::user::{NOBODY, as_nobody, everybody_may_use_fuse, users_may_let_others_in};
use crate::table::{Figures, Table};

/// What `--memory` is when nothing else is said, bytes.
pub(crate) const MEMORY: u64 = 256 << 20;

/// The options and what all rows share.
pub(crate) struct Bench {
    pub(crate) pairs: usize,
    /// Bytes of the file that is read in order.
    pub(crate) size: u64,
    only: Option<Vec<String>>,
    /// Where an ordinary user keeps what the mounts need, if the mounts are one's.
    home: Option<tempfile::TempDir>,
    lab: OnceCell<Lab>,
    /// For what is made on the way; others may look into it.
    pub(crate) dir: tempfile::TempDir,
    results: RefCell<Vec<serde_json::Value>>,
}

impl Bench {
    /// Must come before any thread: the ordinary user's mounts are those of the threads that start later.
    pub(crate) fn new(pairs: usize, size: u64, only: Option<Vec<String>>, user: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("streaming-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.expect("a directory");
        let home = (user && root()).then(|| {
            // In /tmp: the build directory may be in a place that others cannot enter.
            let home = tempfile::Builder::new().prefix("swarmfs-user-").tempdir_in("/tmp").expect("a directory");
            everybody_may_use_fuse(home.path());
            users_may_let_others_in(home.path());
            std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).expect("its mode");
            chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("its owner");
            for (name, program) in [("swarmfs", Some(PathBuf::from(swarmfs().get_program()))), ("other", other())] {
                if let Some(program) = program {
                    std::fs::copy(program, home.path().join(name)).expect("the program");
                }
            }
            home
        });
        Self { pairs, size, only, home, lab: OnceCell::new(), dir, results: RefCell::default() }
    }

    /// A network of our own, for the programs of others. None for an ordinary user, who cannot make one.
    pub(crate) fn lab(&self, row: &str) -> Option<&Lab> {
        if !root() {
            println!("{row}: left out, since its network needs root");
            return None;
        }
        Some(self.lab.get_or_init(Lab::enter))
    }

    /// The program under test, or the other one of `SWARMFS_BENCH_BIN`, as its user runs it.
    pub(crate) fn program(&self, who: Who) -> Command {
        let name = if who == Who::Other { "other" } else { "swarmfs" };
        match &self.home {
            Some(home) => as_nobody(&home.path().join(name), home.path()),
            None if who == Who::Other => Command::new(other().expect("SWARMFS_BENCH_BIN")),
            None => swarmfs(),
        }
    }

    /// The flags, the .torrent file and the mountpoint that the user of the mounts needs in their place.
    pub(crate) fn for_user(&self, torrent: &Path) -> Option<ForUser> {
        let home = self.home.as_ref()?;
        let copy = home.path().join(torrent.file_name().expect("a name"));
        std::fs::copy(torrent, &copy).expect("a copy");
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o644)).expect("its mode");
        let mountpoint = tempfile::Builder::new().prefix("mnt-").tempdir_in(home.path()).expect("a directory");
        chown(mountpoint.path(), Some(NOBODY), Some(NOBODY)).expect("its owner");
        Some(ForUser { torrent: copy, mountpoint: mountpoint.keep() })
    }

    /// Of these, who is installed and asked for: `usual` without `--only`, which may name any of `possible` too.
    pub(crate) fn clients(&self, row: &str, usual: &[Who], possible: &[Who]) -> Vec<Who> {
        let mut all = Vec::new();
        for &who in usual.iter().chain(possible) {
            let asked = self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == who.name()));
            if all.contains(&who) || !asked || (self.only.is_none() && !usual.contains(&who)) {
                continue;
            }
            match who.missing() {
                Some(why) => println!("{row}: {} is left out: {why}", who.name()),
                None => all.push(who),
            }
            // Two builds are compared wherever one is measured.
            if who == Who::Ours && other().is_some() {
                all.push(Who::Other);
            }
        }
        all
    }

    /// Lets the clients take turns, and prints their medians. A run that fails is said and left out.
    pub(crate) fn turns(&self, row: &str, who: &[Who], mut run: impl FnMut(Who) -> Figures) -> Table {
        let mut table = Table::new(row);
        for pair in 0..self.pairs {
            // Who is first changes from pair to pair.
            let order: Vec<Who> = if pair % 2 == 0 { who.to_vec() } else { who.iter().rev().copied().collect() };
            for who in order {
                cold_caches();
                match catch_unwind(AssertUnwindSafe(|| run(who))) {
                    Ok(figures) => table.add(pair, who.name(), figures),
                    Err(_) => println!("{row} {pair} {}: failed", who.name()),
                }
            }
        }
        table.print();
        table
    }

    /// Says whether our memory kept to its bound: `--memory`, 64 MiB, and 64 kB a peer.
    pub(crate) fn check_memory(table: &Table, memory: u64, peers: usize) {
        let bound = (memory + (64 << 20) + 64_000 * u64::try_from(peers).unwrap_or(0)) as f64 / f64::from(1 << 20);
        for who in [Who::Ours, Who::Memory, Who::Other] {
            if let Some(most) = table.most(who.name(), PEAK) {
                let verdict = if most <= bound { "ok" } else { "OVER" };
                table.note(format!("{}: at most {most:.0} MiB resident of {bound:.0} MiB: {verdict}", who.name()));
            }
        }
    }

    /// Keeps what a row gave.
    pub(crate) fn keep(&self, table: &Table) {
        self.results.borrow_mut().push(table.json());
        println!();
    }

    /// All rows so far.
    pub(crate) fn json(&self) -> serde_json::Value {
        self.results.borrow().clone().into()
    }
}

/// The column of the most resident memory, MiB.
pub(crate) const PEAK: &str = "peak MiB";

/// What an ordinary user's mount needs.
pub(crate) struct ForUser {
    pub(crate) torrent: PathBuf,
    pub(crate) mountpoint: PathBuf,
}

/// The other program to compare ours with.
pub(crate) fn other() -> Option<PathBuf> {
    std::env::var_os("SWARMFS_BENCH_BIN").map(PathBuf::from)
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Drops the kernel's page cache, if we may.
pub(crate) fn cold_caches() {
    if root() {
        let _ = std::fs::write("/proc/sys/vm/drop_caches", "1");
    }
}
