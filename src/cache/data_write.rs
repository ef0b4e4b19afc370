//! A copy that is written: its directories and files are made first, sparse and in their full length, then verified
//! pieces go to their places in any order. What is there already is used, and never cut.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::beneath::{Access, create_file, create_link, open_file};
use super::data::{DataDir, Source, Span, refuse_mount};
use super::verified::Verified;
use super::verify::LEADS_OUT;
use crate::error::{Error, Result};
use crate::metainfo::{FileKind, Metainfo, PieceIndex};

/// Bytes that are copied at a time from a piece in a temporary file.
const CHUNK: usize = 256 << 10;

impl DataDir {
    /// A copy at `dir/name` that [`DataDir::write_piece`] writes to: makes the files that are missing, with their
    /// directories, executable bits and symlinks (BEP 47), sparse and in full length. Files that are there stay as they
    /// are, but for those that are too short, which grow. `wanted` says of each of the torrent's files whether it is to
    /// be there; none: all of them. The others are neither made nor written, and read if they are there.
    ///
    /// # Errors
    /// [`Error::Io`] if something cannot be made; [`Error::Data`] for a file that is longer than the torrent says, or is
    /// no regular file, and for a path inside a mount of ours.
    pub fn create(meta: &Metainfo, dir: &Path, wanted: Option<&[bool]>) -> Result<Self> {
        let io_error = |path: &Path, what| {
            let path = path.to_owned();
            move |cause| Error::Io { path, what, cause }
        };
        refuse_mount(&std::path::absolute(dir).map_err(io_error(dir, "find"))?)?;
        std::fs::create_dir_all(dir).map_err(io_error(dir, "make"))?;
        let dir = std::fs::canonicalize(dir).map_err(io_error(dir, "open"))?;
        refuse_mount(&dir)?;
        let (root, name) =
            if meta.single_file { (dir, Some(meta.name.as_str())) } else { (dir.join(&meta.name), None) };
        match std::fs::create_dir(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error(&root, "make")(error)),
            _ => {}
        }
        let mut data = Self::at(meta, &root, name).map_err(io_error(&root, "open"))?;
        data.writable = true;
        let is_wanted = |index: usize| wanted.is_none_or(|wanted| wanted.get(index) == Some(&true));
        let with_bytes = meta.files.iter().enumerate().filter(|(_, file)| file.length > 0);
        for (entry, (index, _)) in data.files.iter_mut().zip(with_bytes) {
            entry.wanted = is_wanted(index);
        }
        for (_, file) in meta.files.iter().enumerate().filter(|(index, _)| is_wanted(*index)) {
            let path = name.unwrap_or(&file.path);
            match &file.kind {
                FileKind::Regular { executable } => data.lay_out(path, file.length, *executable)?,
                FileKind::Symlink { target } => {
                    if let Err(error) = create_link(&data.root, path, target) {
                        // Not every file system has them; the bytes matter more.
                        tracing::warn!("{}: the symlink cannot be made: {error}", data.place.join(path).display());
                    }
                }
                FileKind::Pad | FileKind::Hidden => {}
            }
        }
        Ok(data)
    }

    /// Makes a file, or checks the one that is there.
    fn lay_out(&self, path: &str, length: u64, executable: bool) -> Result<()> {
        let trouble = |what| move |cause| Error::Io { path: self.place.join(path), what, cause };
        let refused = |reason| Error::Data { path: self.place.join(path), reason };
        let file = match open_file(&self.root, path, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_file(&self.root, path, executable).map_err(trouble("make"))?
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(refused(
                    "it is there and is not a regular file; move it away or choose another directory".into(),
                ));
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EXDEV | libc::ELOOP)) => {
                return Err(refused(format!("{LEADS_OUT}; move it away or choose another directory")));
            }
            Err(error) => return Err(trouble("open")(error)),
            Ok(file) => match file.metadata().map_err(trouble("open"))?.len() {
                there if there == length => return Ok(()),
                there if there < length => open_file(&self.root, path, Access::Write).map_err(trouble("write to"))?,
                there => {
                    return Err(refused(format!(
                        "it has {there} bytes where the torrent says {length}, and nothing is cut here; move it away or \
                         choose another -o"
                    )));
                }
            },
        };
        file.set_len(length).map_err(trouble("grow"))
    }

    /// True if verified pieces are written to it.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Writes a piece to its files, as far as they are wanted. True if all of the piece is in the copy now; false if a
    /// part of it belongs to a file that is not wanted, or if the copy is not [`writable`](DataDir::writable).
    ///
    /// # Errors
    /// [`Error::Io`] with the file that cannot be written; [`Error::Data`] for a piece of another torrent.
    pub fn write_piece(&self, piece: PieceIndex, bytes: &Verified) -> Result<bool> {
        let known = self.geometry.piece(piece.0).map(|piece| self.geometry.piece_length(piece));
        if known != Some(bytes.len()) {
            let reason = format!("{} bytes are no piece {} of this torrent", bytes.len(), piece.0);
            return Err(Error::Data { path: self.place.clone(), reason });
        }
        let mut whole = self.writable;
        for span in self.spans(self.geometry.piece_offset(piece), bytes.len() as usize) {
            let Span { file, at, part } = span.map_err(|cause| self.write_error("", cause))?;
            let Some(entry) = self.files.get(file) else { continue };
            match &entry.source {
                Source::Zeros => {}
                Source::File(path) if self.writable && entry.wanted => {
                    let written = self
                        .handle(file, Access::Write)
                        .and_then(|file| file.map_or(Ok(()), |file| copy_out(bytes, part, &file, at)));
                    written.map_err(|cause| self.write_error(path, cause))?;
                }
                Source::File(_) | Source::Nothing(_) => whole = false,
            }
        }
        Ok(whole)
    }

    fn write_error(&self, path: &str, cause: io::Error) -> Error {
        Error::Io { path: self.place.join(path), what: "write", cause }
    }

    /// Waits until everything that was written is on the disk.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk did not take all of it.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root).map_err(|cause| Error::Io {
            path: self.place.clone(),
            what: "sync",
            cause: cause.into(),
        })
    }
}

/// Writes a part of a piece at a place of a file.
fn copy_out(bytes: &Verified, part: std::ops::Range<usize>, file: &File, at: u64) -> io::Result<()> {
    if let Some(bytes) = bytes.bytes().and_then(|bytes| bytes.get(part.clone())) {
        return file.write_all_at(bytes, at);
    }
    let mut chunk = vec![0; CHUNK.min(part.len())];
    for start in part.clone().step_by(CHUNK) {
        let chunk = &mut chunk[..CHUNK.min(part.end - start)];
        bytes.read_at(u32::try_from(start).unwrap_or(u32::MAX), chunk)?;
        file.write_all_at(chunk, at + (start - part.start) as u64)?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]
#[path = "data_write_tests.rs"]
mod tests;
