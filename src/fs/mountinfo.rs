//! What is mounted where, read from /proc/self/mountinfo: that never asks a file system, so it never hangs on a dead one.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount of our mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The mount's id, unique while it lasts.
    pub(crate) id: u64,
    /// The id of the mount that it lies on.
    pub(crate) parent: u64,
    /// `major:minor`: names the file system below /sys/class/bdi and, by its minor, below /sys/fs/fuse/connections.
    pub(crate) device: String,
    /// Where.
    pub(crate) mountpoint: PathBuf,
    /// The type, `fuse.swarmfs` for ours.
    pub(crate) fs_type: String,
}

/// The uppermost mount at exactly this path, which must be canonical.
///
/// # Errors
/// If /proc cannot be read.
pub(crate) fn top(path: &Path) -> io::Result<Option<Entry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(top_of(parse(&text), path))
}

/// True if a canonical path lies in a mount of ours. False if /proc cannot be read.
pub(crate) fn within_ours(path: &Path) -> bool {
    let Ok(text) = std::fs::read("/proc/self/mountinfo") else { return false };
    holder_of(&parse(&text), path).is_some_and(|entry| entry.fs_type == super::FS_TYPE)
}

/// The mount that a path lies in.
fn holder_of(entries: &[Entry], path: &Path) -> Option<Entry> {
    path.ancestors().find_map(|above| top_of(entries.to_vec(), above))
}

fn top_of(entries: Vec<Entry>, path: &Path) -> Option<Entry> {
    let here: Vec<Entry> = entries.into_iter().filter(|e| e.mountpoint == path).collect();
    let covered = |entry: &Entry| here.iter().any(|above| above.parent == entry.id && above.id != entry.id);
    here.iter().rev().find(|e| !covered(e)).cloned()
}

fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw` (proc_pid_mountinfo(5)).
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|b| *b == b' ');
    let mut text = || fields.next().map(|field| String::from_utf8_lossy(field).into_owned());
    let (id, parent, device) = (text()?.parse().ok()?, text()?.parse().ok()?, text()?);
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Entry { id, parent, device, mountpoint, fs_type: String::from_utf8_lossy(fs_type).into_owned() })
}

/// Undoes `\040` for a space and its like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(code) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(code);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        40 22 0:50 / /mnt/a\\040b ro,nosuid shared:7 master:3 - fuse.swarmfs swarmfs ro,user_id=0\n\
        30 40 0:51 / /mnt/a\\040b rw - tmpfs none rw\n\
        broken line\n";

    #[test]
    fn the_uppermost_mount_of_a_path_is_found() {
        let entry = top_of(parse(TEXT), Path::new("/mnt/a b")).expect("it is mounted");
        assert_eq!((entry.id, entry.fs_type.as_str(), entry.device.as_str()), (30, "tmpfs", "0:51"));
        let below = parse(TEXT).into_iter().filter(|e| e.id != 30).collect();
        assert_eq!(top_of(below, Path::new("/mnt/a b")).expect("it is mounted").fs_type, super::super::FS_TYPE);
        assert_eq!(top_of(parse(TEXT), Path::new("/mnt")), None);
        let holder = |path: &str| holder_of(&parse(TEXT), Path::new(path)).map(|entry| entry.id);
        assert_eq!((holder("/mnt/a b/c/d"), holder("/mnt/a"), holder("/mnt/a b")), (Some(30), Some(22), Some(30)));
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(top(Path::new("/")).expect("/proc is there").is_some());
    }
}
