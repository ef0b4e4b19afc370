//! Ways to read a mount, and to be stuck in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::dataset::Dataset;
use super::process::{Running, shell, state_of};
use super::wait_until;

/// Every file under `mounted` against the dataset, byte for byte.
#[track_caller]
pub(crate) fn assert_same_bytes(dataset: &Dataset, mounted: &Path) {
    for file in &dataset.files {
        let ours = std::fs::read(mounted.join(&file.path)).unwrap_or_else(|error| panic!("{}: {error}", file.path));
        let theirs = std::fs::read(dataset.root().join(&file.path)).expect("the original");
        assert_eq!(ours.len(), theirs.len(), "the length of {}", file.path);
        if let Some(at) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
            panic!("{} differs from its original at byte {at}", file.path);
        }
    }
}

/// A copy by Transmission, which makes no empty files: the rest must be the same.
#[track_caller]
pub(crate) fn assert_same_but_for_empty_files(dataset: &Dataset, copy: &Path) {
    let line = "! diff -r \"$1\" \"$2\" | grep -vxF \"Only in $1: empty\"";
    shell(line, &[&dataset.root(), copy], Duration::from_secs(120));
}

/// Reads the file from start to end; the bytes, and how long the slowest `read` took.
pub(crate) fn read_timed(path: &Path) -> io::Result<(Vec<u8>, Duration)> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    let mut slowest = Duration::ZERO;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let start = Instant::now();
        let read = file.read_at(&mut buffer, u64::try_from(bytes.len()).expect("a length"))?;
        slowest = slowest.max(start.elapsed());
        if read == 0 {
            return Ok((bytes, slowest));
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// Reads 4 KiB past the kernel's page cache: the file system itself answers.
pub(crate) fn read_uncached(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut buffer = vec![0; 4096];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}

/// A process that waits in a `read` of this file, which nobody has.
#[track_caller]
pub(crate) fn blocked_reader(path: &Path, log: &Path) -> Running {
    let mut cat = Command::new("cat");
    cat.arg(path);
    let reader = Running::spawn("cat", cat, log, Duration::from_secs(60));
    wait_until(Duration::from_secs(5), "cat waits in a read", || reader.state() == Some('D'));
    reader
}

/// Threads of this process that each wait in a `read` of the same file, 256 KiB apart.
pub(crate) struct ParkedThreads {
    threads: Vec<std::thread::JoinHandle<io::Result<()>>>,
    ids: std::sync::mpsc::Receiver<i32>,
}

/// The distance between the reads of parked threads, bytes: past the kernel's read-ahead window.
pub(crate) const PARKED_STEP: u64 = 256 << 10;

impl ParkedThreads {
    /// Returns once all of them wait in the kernel.
    #[track_caller]
    pub(crate) fn start(path: &Path, count: u64) -> Self {
        let (sender, ids) = std::sync::mpsc::channel();
        let threads = (0..count)
            .map(|n| {
                let (path, sender) = (path.to_owned(), sender.clone());
                std::thread::spawn(move || {
                    let file = File::open(path)?;
                    let _ = sender.send(rustix::thread::gettid().as_raw_nonzero().get());
                    let mut buffer = [0; 4096];
                    file.read_exact_at(&mut buffer, n * PARKED_STEP)
                })
            })
            .collect();
        let parked = Self { threads, ids };
        let ids: Vec<i32> = parked.ids.iter().take(usize::try_from(count).expect("a count")).collect();
        wait_until(Duration::from_secs(20), "all threads wait in a read", || {
            ids.iter().all(|id| state_of(&format!("/proc/self/task/{id}/stat")) == Some('D'))
        });
        parked
    }

    /// How each of the reads ended.
    pub(crate) fn join(self) -> Vec<io::Result<()>> {
        self.threads.into_iter().map(|thread| thread.join().expect("a reader")).collect()
    }
}

/// A file that is mapped for reading.
pub(crate) struct Mapping {
    start: *const u8,
    length: usize,
}

impl Mapping {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let length = usize::try_from(file.metadata()?.len()).expect("it fits in memory");
        let fd = std::os::fd::AsRawFd::as_raw_fd(file);
        // SAFETY: a new private read-only mapping, which is ours alone.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast::<u8>(), length })
    }

    /// Copies bytes out, through page faults where they are not in memory yet.
    pub(crate) fn copy(&self, offset: usize, to: &mut [u8]) {
        assert!(offset.checked_add(to.len()).is_some_and(|end| end <= self.length), "past the end");
        // SAFETY: the source is inside of the mapping, which lives; nobody else has the target.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(offset), to.as_mut_ptr(), to.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nobody can use any more.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.length) };
    }
}

/// Maps the file and copies it out page by page.
pub(crate) fn read_mapped(path: &Path, backwards: bool) -> io::Result<Vec<u8>> {
    const PAGE: usize = 4096;
    let mapping = Mapping::of(&File::open(path)?)?;
    let mut bytes = vec![0; mapping.length];
    let pages = mapping.length.div_ceil(PAGE);
    for n in 0..pages {
        let at = PAGE * if backwards { pages - 1 - n } else { n };
        let end = mapping.length.min(at + PAGE);
        mapping.copy(at, &mut bytes[at..end]);
    }
    Ok(bytes)
}
