//! Every change is refused with EROFS, and what the kernel can do without us still works.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::time::SystemTime;

use crate::fake_content::{Entry, Fixture, file, torrent};
use rustix::fs::{XattrFlags, removexattr, setxattr};

#[test]
fn every_change_gets_erofs() {
    let link = Entry { attr: "l", target: "f", ..file("link", 0) };
    let Some(fixture) = Fixture::new(&[torrent("t", None, &[file("f", 9000), file("d/g", 1), link])]) else { return };
    let path = |name: &str| fixture.path(&format!("t/{name}"));
    let open = |options: &mut OpenOptions| options.open(path("f")).map(drop);
    let touch = |name: &str| File::open(path(name)).and_then(|f| f.set_modified(SystemTime::UNIX_EPOCH));
    let fifo =
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0);
    let tries: Vec<(&str, io::Result<()>)> = vec![
        ("mkdir", fs::create_dir(path("new"))),
        ("mkdir at the root", fs::create_dir(fixture.path("new"))),
        ("mknod", fifo.map_err(io::Error::from)),
        ("create", File::create(path("new")).map(drop)),
        ("truncate at open", File::create(path("f")).map(drop)),
        ("unlink", fs::remove_file(path("f"))),
        ("rmdir", fs::remove_dir(path("d"))),
        ("rename", fs::rename(path("f"), path("h"))),
        ("link", fs::hard_link(path("f"), path("h"))),
        ("symlink", symlink("f", path("h"))),
        ("open to write", open(OpenOptions::new().write(true))),
        ("open to read and write", open(OpenOptions::new().read(true).write(true))),
        ("open to append", open(OpenOptions::new().append(true))),
        (
            "truncate",
            rustix::fs::open(path("f"), rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())
                .map_err(io::Error::from)
                .and_then(|f| File::from(f).set_len(1)),
        ),
        ("chmod", fs::set_permissions(path("f"), Permissions::from_mode(0o777))),
        ("chmod of a directory", fs::set_permissions(path("d"), Permissions::from_mode(0o777))),
        ("chown", chown(path("f"), Some(1), Some(1))),
        ("utimens", touch("f")),
        ("setxattr", setxattr(path("f"), "user.x", b"1", XattrFlags::empty()).map_err(io::Error::from)),
        ("removexattr", removexattr(path("f"), "user.swarmfs.progress").map_err(io::Error::from)),
    ];
    for (what, outcome) in tries {
        let error = outcome.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{what}: {error}");
    }
    assert_eq!(fixture.content.state().asked.len(), 0);
}

#[test]
fn what_needs_no_content_is_left_to_the_kernel() {
    let Some(fixture) = Fixture::new(&[torrent("t", None, &[file("f", 9000)])]) else { return };
    let opened = File::open(fixture.path("t/f")).expect("it opens");
    opened.sync_all().expect("fsync has nothing to do");
    rustix::fs::flock(&opened, rustix::fs::FlockOperation::LockShared).expect("locks are local");
    assert_eq!(rustix::fs::ioctl_getflags(&opened).err(), Some(rustix::io::Errno::NOTTY));
    let wrong = rustix::fs::fallocate(&opened, rustix::fs::FallocateFlags::empty(), 0, 1).expect_err("read-only");
    assert_eq!(wrong, rustix::io::Errno::BADF);
    rustix::fs::access(fixture.path("t/f"), rustix::fs::Access::READ_OK).expect("it may be read");
    let refused = rustix::fs::access(fixture.path("t/f"), rustix::fs::Access::WRITE_OK).expect_err("read-only");
    assert_eq!(refused, rustix::io::Errno::ROFS);
}
