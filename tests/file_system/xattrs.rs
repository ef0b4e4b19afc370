//! Locality is told by extended attributes, and by nothing else.

use crate::fake_content::{Fixture, file, torrent};
use rustix::fs::{getxattr, getxattr_query, listxattr, listxattr_query};
use rustix::io::Errno;

#[test]
fn info_hash_and_progress_are_on_everything_in_a_torrent() {
    let (a, b) = (torrent("a", None, &[file("d/f", 1)]), torrent("b", None, &[file("g", 1)]));
    let id = a.id.to_string();
    let Some(fixture) = Fixture::new(&[a, b]) else { return };
    let value = |path: &str, name: &str| {
        let mut room = [0_u8; 256];
        let length = getxattr(fixture.path(path), name, &mut room)?;
        Ok::<_, Errno>(String::from_utf8_lossy(&room[..length]).into_owned())
    };
    for path in ["a", "a/d", "a/d/f"] {
        assert_eq!(value(path, "user.swarmfs.info_hash").as_deref(), Ok(id.as_str()), "{path}");
        assert_eq!(value(path, "user.swarmfs.progress").as_deref(), Ok("1/1000"), "{path}");
    }
    assert_eq!(value("b/g", "user.swarmfs.progress").as_deref(), Ok("2/1000"));
    assert_eq!(value("", "user.swarmfs.progress").as_deref(), Ok("3/2000"));
    assert_eq!(value("", "user.swarmfs.info_hash"), Err(Errno::NODATA));
    for other in ["user.swarmfs.nothing", "user.x", "security.capability", "trusted.x"] {
        assert_eq!(value("a/d/f", other), Err(Errno::NODATA), "{other}");
    }
}

#[test]
fn sizes_can_be_asked_for_first() {
    let Some(fixture) = Fixture::new(&[torrent("t", None, &[file("f", 1)])]) else { return };
    let path = fixture.path("t/f");
    assert_eq!(getxattr_query(&path, "user.swarmfs.info_hash"), Ok(40));
    assert_eq!(getxattr(&path, "user.swarmfs.info_hash", &mut [0_u8; 39]), Err(Errno::RANGE));
    assert_eq!(getxattr(&path, "user.swarmfs.info_hash", &mut [0_u8; 40]), Ok(40));
    let names = "user.swarmfs.info_hash\0user.swarmfs.progress\0";
    assert_eq!(listxattr_query(&path), Ok(names.len()));
    assert_eq!(listxattr(&path, &mut [0_u8; 8]), Err(Errno::RANGE));
    let mut room = [0_u8; 256];
    let length = listxattr(&path, &mut room).expect("there is room");
    assert_eq!(&room[..length], names.as_bytes());
}
