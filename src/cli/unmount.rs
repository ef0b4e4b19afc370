//! `swarmfs unmount MOUNTPOINT`: takes away a mount of ours, a dead one too, and nothing else.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

use crate::fs::{self, Detached, FS_TYPE, mountinfo};

/// Unmounts the swarmfs mount at `mountpoint`. `lazy`: at once, also while programs use it; it ends when they are done.
///
/// # Errors
/// One sentence: no swarmfs mount is there, it is in use, or we may not.
pub(super) fn run(mountpoint: &Path, lazy: bool) -> anyhow::Result<()> {
    let name = mountpoint.display();
    let path = fs::canonical(mountpoint).map_err(|reason| anyhow!("{name}: {reason}"))?;
    let mounted = || mountinfo::top(&path).context("cannot read /proc/self/mountinfo");
    let Some(entry) = mounted()?.filter(|entry| entry.fs_type == FS_TYPE) else {
        bail!("{name}: no swarmfs mount is there; findmnt -t {FS_TYPE} lists them");
    };
    match fs::detach(&path, lazy || fs::is_dead(&path)).with_context(|| format!("{name}: cannot be unmounted"))? {
        Detached::Gone if mounted()?.is_none_or(|left| left.id != entry.id) => Ok(()),
        Detached::Gone => bail!("{name}: is still mounted; try --lazy"),
        Detached::Busy => {
            bail!("{name}: is in use; close what uses it (lsof {name} lists it), or detach it now with --lazy")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::ops::Range;
    use std::sync::Arc;

    use super::*;
    use crate::engine::{Bytes, Content, Reply};
    use crate::fs::{MountOptions, Mounted, Tree};
    use crate::swarm::{HandleId, TorrentKey};

    /// The content of no torrent.
    struct Nothing;

    impl Content for Nothing {
        fn open(&self, _: TorrentKey, _: Range<u64>) -> HandleId {
            HandleId(0)
        }
        fn try_read(&self, _: TorrentKey, _: HandleId, _: &Range<u64>) -> Option<Bytes> {
            None
        }
        fn park(&self, _: TorrentKey, _: HandleId, _: Range<u64>, _: u32, _: Box<dyn Reply>) {}
        fn flush(&self, _: TorrentKey, _: HandleId) {}
        fn close(&self, _: TorrentKey, _: HandleId) {}
        fn progress(&self, _: TorrentKey) -> (u64, u64) {
            (0, 0)
        }
        fn close_all(&self) {}
    }

    fn mounted(path: &Path) -> Option<Mounted> {
        if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
            eprintln!("skipped: /dev/fuse cannot be opened: {error}");
            return None;
        }
        let mounted = fs::mount(Tree::new(&[]), Arc::new(Nothing), path, &MountOptions::default());
        Some(mounted.expect("it mounts"))
    }

    #[test]
    fn a_mount_is_taken_away_and_its_session_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(mounted) = mounted(dir.path()) else { return };
        run(dir.path(), false).expect("nothing uses it");
        mounted.wait_unmounted();
        let refused = run(dir.path(), false).expect_err("it is gone").to_string();
        assert!(refused.contains("no swarmfs mount is there"), "{refused}");
    }

    #[test]
    fn a_mount_in_use_goes_only_lazily() {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(mounted) = mounted(dir.path()) else { return };
        let user = File::open(dir.path()).expect("it opens");
        let refused = run(dir.path(), false).expect_err("it is in use").to_string();
        assert!(refused.contains("--lazy") && !refused.contains('\n'), "{refused}");
        run(dir.path(), true).expect("it can be detached");
        drop(user);
        mounted.wait_unmounted();
    }

    #[test]
    fn only_our_own_mounts_are_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in [dir.path(), Path::new("/proc")] {
            let refused = run(path, true).expect_err("it is not ours").to_string();
            assert!(refused.contains("no swarmfs mount is there"), "{refused}");
        }
        let refused = run(&dir.path().join("missing"), false).expect_err("it is not there").to_string();
        assert!(refused.contains("does not exist"), "{refused}");
        assert!(std::fs::metadata("/proc/self").is_ok());
    }
}
