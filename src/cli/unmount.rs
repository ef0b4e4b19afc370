//! `swarmfs unmount MOUNTPOINT`: takes away a mount of ours, a dead one too, and nothing else.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

use crate::fs::{self, Detached, FS_TYPE, mountinfo};

/// Unmounts the swarmfs mount at `mountpoint`. `lazy`: at once, also while programs use it; it ends when they are done.
///
/// # Errors
/// One sentence: no swarmfs mount is there, it is in use, or we may not.
pub(crate) fn run(mountpoint: &Path, lazy: bool) -> anyhow::Result<()> {
    let name = mountpoint.display();
    let path = fs::canonical(mountpoint).map_err(|reason| anyhow!("{name}: {reason}"))?;
    let mounted = || mountinfo::top(&path).context("cannot read /proc/self/mountinfo");
    let Some(entry) = mounted()?.filter(|entry| entry.fs_type == FS_TYPE) else {
        bail!("{name}: no swarmfs mount is there; findmnt -t {FS_TYPE} lists them");
    };
    let dead = std::fs::metadata(&path).is_err_and(|error| fs::is_dead(&error));
    match fs::detach(&path, lazy || dead).with_context(|| format!("{name}: cannot be unmounted"))? {
        Detached::Gone if mounted()?.is_none_or(|left| left.id != entry.id) => Ok(()),
        Detached::Gone => bail!("{name}: is still mounted; try --lazy"),
        Detached::Busy => {
            bail!("{name}: is in use; close what uses it (lsof {name} lists it), or detach it now with --lazy")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
