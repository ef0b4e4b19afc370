//! Programs that run as an ordinary user, started by root.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::{fs, mount, thread};

/// The user nobody.
pub(crate) const NOBODY: u32 = 65534;

/// A program as the user nobody, without any capability.
pub(crate) fn as_nobody(program: &Path, home: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--pdeathsig", "KILL", "--"]);
    command.arg(program).env("HOME", home).current_dir(home);
    command
}

/// Moves this thread to mounts of its own, where everybody may open /dev/fuse, as udev sets it up on most machines.
/// `dir` is where the node lies.
#[track_caller]
pub(crate) fn everybody_may_use_fuse(dir: &Path) {
    let mode = std::fs::metadata("/dev/fuse").expect("/dev/fuse").permissions().mode();
    if mode & 0o666 == 0o666 {
        return;
    }
    own_mounts();
    let node = dir.join("fuse");
    fs::mknodat(fs::CWD, &node, fs::FileType::CharacterDevice, fs::Mode::empty(), fs::makedev(10, 229))
        .expect("a node");
    std::fs::set_permissions(&node, PermissionsExt::from_mode(0o666)).expect("its mode");
    mount::mount_bind(&node, "/dev/fuse").expect("a bind mount");
}

/// Moves this thread to mounts of its own, where users may let others (root is one) into their mounts.
#[track_caller]
pub(crate) fn users_may_let_others_in(dir: &Path) {
    own_mounts();
    let file = dir.join("fuse.conf");
    std::fs::write(&file, "user_allow_other\n").expect("a file");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("its mode");
    mount::mount_bind(&file, "/etc/fuse.conf").expect("a bind mount");
}

#[track_caller]
fn own_mounts() {
    // SAFETY: only the mounts, and what threads share of the working directory, change.
    unsafe { thread::unshare_unsafe(thread::UnshareFlags::NEWNS) }.expect("mounts of our own need root");
    let private = mount::MountPropagationFlags::PRIVATE | mount::MountPropagationFlags::REC;
    mount::mount_change("/", private).expect("private mounts");
}
