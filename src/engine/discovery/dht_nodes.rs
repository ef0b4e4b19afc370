//! Nodes of the DHT that were there the last time, in a file: an address a line. It is replaced as a whole, and what is
//! wrong in it is skipped.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::SocketAddrV4;
use std::path::Path;

/// Nodes that are saved, as anacrolix.
const MAX_SAVED: usize = 300;
/// The most that is read of the file: 300 of at most 22 bytes, and as much again.
const MAX_BYTES: u64 = 16 * 1024;

/// The nodes in the file; none if there is no such file.
pub(super) fn load(path: &Path) -> Vec<SocketAddrV4> {
    let mut bytes = Vec::new();
    if let Err(e) = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), "the DHT's nodes cannot be read: {e}");
    }
    let text = String::from_utf8_lossy(&bytes);
    let nodes = text.lines().filter_map(|line| line.trim().parse().ok());
    nodes.filter(|node: &SocketAddrV4| node.port() != 0).take(MAX_SAVED).collect()
}

/// Replaces the file.
///
/// # Errors
/// The file system's.
pub(super) fn save(path: &Path, nodes: &[SocketAddrV4]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    for node in nodes.iter().take(MAX_SAVED) {
        writeln!(file, "{node}")?;
    }
    file.persist(path).map(drop).map_err(|e| e.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_survive_and_what_is_wrong_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/dht-nodes");
        assert!(load(&path).is_empty());
        let nodes: Vec<SocketAddrV4> = (1..=400).map(|port| SocketAddrV4::new([203, 0, 113, 9].into(), port)).collect();
        save(&path, &nodes).unwrap();
        assert_eq!(load(&path), nodes[..MAX_SAVED]);
        save(&path, &nodes[..2]).unwrap();
        assert_eq!(load(&path), nodes[..2]);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");

        fs::write(&path, b"\xff\xfe\n1.2.3.4:0\n1.2.3.4:99999\n[::1]:5\n example:1\n1.2.3.4:5\n").unwrap();
        assert_eq!(load(&path), ["1.2.3.4:5".parse().unwrap()]);
        fs::write(&path, "1.2.3.4:5\n".repeat(1_000_000)).unwrap();
        assert_eq!(load(&path).len(), MAX_SAVED);
        assert!(load(dir.path()).is_empty(), "a directory");
    }
}
