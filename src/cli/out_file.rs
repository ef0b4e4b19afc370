//! A file that is there whole or not at all: written beside its place, then moved there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Access, CWD, RenameFlags};
use rustix::io::Errno;

/// A place for a file, found fit for it.
#[derive(Debug)]
pub(super) struct OutFile {
    path: PathBuf,
    replace: bool,
}

impl OutFile {
    /// Looks whether a file can be written at `path`, before the work for it begins. With `replace` a regular file that is
    /// there already may go; a link stays, and what it leads to is replaced.
    ///
    /// # Errors
    /// One sentence if it cannot.
    pub(super) fn check(path: &Path, replace: bool) -> Result<Self> {
        let shown = path.display();
        if path.as_os_str().as_bytes().ends_with(b"/") {
            bail!("{shown}: there is no such directory; make it, or choose another place with -o");
        }
        let path = match fs::symlink_metadata(path) {
            Ok(_) if !replace => bail!("{shown}: is there already; replace it with --force, or choose another with -o"),
            Ok(_) => {
                let real = fs::canonicalize(path).with_context(|| format!("{shown}: cannot be replaced"))?;
                if !real.is_file() {
                    bail!("{shown}: is not a file that could be replaced; choose another with -o");
                }
                real
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => {
                return Err(error).with_context(|| format!("{shown}: cannot be written; choose another with -o"));
            }
        };
        let out = Self { path, replace };
        let directory = out.directory();
        let writable = rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK);
        writable
            .with_context(|| format!("{}: cannot be written to; choose another place with -o", directory.display()))?;
        Ok(out)
    }

    fn directory(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
    }

    /// Writes the file. When it fails, nothing is left of it.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn write(self, bytes: &[u8]) -> Result<()> {
        self.put(bytes).with_context(|| format!("{}: cannot be written", self.path.display()))
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let (mut file, temporary) = Temporary::create(self.directory())?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if self.replace {
            fs::rename(&temporary.0, &self.path)?;
        } else {
            rename_to_new(&temporary.0, &self.path)?;
        }
        // It has its place; not every file system can sync a directory.
        let _ = File::open(self.directory()).and_then(|directory| directory.sync_all());
        Ok(())
    }
}

/// Renames to a name that nobody has taken meanwhile.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can.
        Err(Errno::INVAL | Errno::NOSYS) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        result => Ok(result?),
    }
}

/// A file that goes with this, unless it was renamed.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn create(directory: &Path) -> io::Result<(File, Self)> {
        let mut attempt = 0;
        loop {
            let path = directory.join(format!(".swarmfs-{}-{attempt}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((file, Self(path))),
                // Left by a process that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_appears_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let out = OutFile::check(&path, false).unwrap();
        fs::write(&path, "theirs").unwrap();
        assert!(out.write(b"ours").is_err());
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"theirs".to_vec(), vec!["x".to_owned()]));
        OutFile::check(&path, true).unwrap().write(b"ours").unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"ours".to_vec(), vec!["x".to_owned()]));
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let out = OutFile::check(&path, true).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(out.write(b"ours").is_err());
        assert_eq!(names(dir.path()), ["x"]);
    }

    #[test]
    fn links_stay_and_what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link, lost] = ["file", "link", "lost"].map(|name| dir.path().join(name));
        fs::write(&file, "theirs").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        std::os::unix::fs::symlink("nowhere", &lost).unwrap();
        OutFile::check(&link, true).unwrap().write(b"ours").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"ours");
        for (path, replace) in [
            (lost, true),
            (dir.path().to_owned(), true),
            ("/dev/null".into(), true),
            (dir.path().join("no/x"), false),
            (dir.path().join("no/"), false),
            (dir.path().join("n".repeat(256)), false),
        ] {
            assert!(OutFile::check(&path, replace).is_err(), "{}", path.display());
        }
        assert_eq!(names(dir.path()), ["file", "link", "lost"]);
    }
}
