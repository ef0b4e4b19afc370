//! What a torrent has received and sent over all runs of `seed` and `get`: a small file for each below the user's state
//! directory. (A mount keeps its own in the cache.)

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::metainfo::TorrentId;
use crate::swarm::Totals;

/// How often it is written: a kill loses what came since.
const SAVE: Duration = Duration::from_secs(60);

/// Payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Sums {
    downloaded: u64,
    uploaded: u64,
}

/// The sums of a torrent, and what this run has added to its file.
#[derive(Debug)]
pub(crate) struct Lifetime {
    /// None without a state directory: then only this run counts.
    path: Option<PathBuf>,
    before: Sums,
    added: Sums,
    saved: Instant,
}

impl Lifetime {
    /// The sums of a torrent so far. A file that cannot be read counts as none.
    pub(crate) fn open(id: &TorrentId) -> Self {
        Self::at(super::background::state_dir().map(|dir| dir.join("totals").join(id.to_string())))
    }

    fn at(path: Option<PathBuf>) -> Self {
        let before = path.as_ref().and_then(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok());
        Self { path, before: before.unwrap_or_default(), added: Sums::default(), saved: Instant::now() }
    }

    /// Bytes uploaded over all runs, with what this one has uploaded.
    pub(crate) fn uploaded(&self, totals: &Totals) -> u64 {
        self.before.uploaded.saturating_add(totals.uploaded)
    }

    /// Writes the sums, if that is due.
    pub(crate) fn save_now_and_then(&mut self, totals: &Totals) {
        if self.saved.elapsed() >= SAVE {
            self.save(totals);
        }
    }

    /// Writes the sums. Other runs may do the same.
    pub(crate) fn save(&mut self, totals: &Totals) {
        self.saved = Instant::now();
        let now = Sums { downloaded: totals.downloaded, uploaded: totals.uploaded };
        if let Some(path) = self.path.as_ref().filter(|_| now != self.added) {
            let more = Sums {
                downloaded: now.downloaded.saturating_sub(self.added.downloaded),
                uploaded: now.uploaded.saturating_sub(self.added.uploaded),
            };
            match add(path, more) {
                Ok(()) => self.added = now,
                Err(error) => tracing::debug!("{}: the totals cannot be kept: {error}", path.display()),
            }
        }
    }
}

/// Adds to the sums of a file, which is made if it is not there.
fn add(path: &Path, more: Sums) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    let mut text = Vec::new();
    Read::by_ref(&mut file).take(4096).read_to_end(&mut text)?;
    let sums: Sums = serde_json::from_slice(&text).unwrap_or_default();
    let sums = Sums {
        downloaded: sums.downloaded.saturating_add(more.downloaded),
        uploaded: sums.uploaded.saturating_add(more.uploaded),
    };
    let text = serde_json::to_vec(&sums).map_err(io::Error::from)?;
    file.rewind()?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up_also_side_by_side() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/abc");
        let totals = |uploaded| Totals { uploaded, downloaded: 7, ..Totals::default() };
        let mut runs = [Lifetime::at(Some(path.clone())), Lifetime::at(Some(path.clone()))];
        for _ in 0..2 {
            runs[0].save(&totals(100));
            runs[1].save(&totals(30));
        }
        runs[0].save(&totals(150));
        let next = Lifetime::at(Some(path.clone()));
        assert_eq!(next.before, Sums { downloaded: 14, uploaded: 180 });
        assert_eq!(next.uploaded(&totals(20)), 200);
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(Lifetime::at(Some(path)).before, Sums::default());
        let mut nowhere = Lifetime::at(None);
        nowhere.save(&totals(1));
        assert_eq!(nowhere.uploaded(&totals(1)), 1);
    }
}
