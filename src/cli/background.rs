//! The background process: the own binary run once more, before there is any thread, in a session of its own.
//!
//! A fork without exec would leave a runtime without its threads. So the parent runs `/proc/self/exe` with the arguments
//! that it is given and a hidden `--ready-fd N` at their end, N being the
//! write end of a pipe. It waits for one line: `ok`, or the sentence that says why not.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use rustix::io::FdFlags;

/// The hidden flag.
pub(crate) const READY_FLAG: &str = "--ready-fd";
/// An error longer than this is cut, bytes.
const MAX_MESSAGE: u64 = 16 * 1024;

/// Which of the two processes this is.
#[derive(Debug)]
pub(crate) enum Role {
    /// The one in the foreground, which has said what there is to say: it exits with this code.
    Parent(i32),
    /// The one in the background, which goes on and then says whether it is ready.
    Child(Readiness),
}

/// The background process's word to the one that waits for it.
#[derive(Debug)]
#[must_use = "the foreground process waits for it"]
pub(crate) struct Readiness(File);

impl Readiness {
    /// All is well: the parent exits with 0. From here on the working directory is `/`, so that none is kept busy.
    ///
    /// # Errors
    /// If nobody waits any more: the start was interrupted, and this process should end.
    pub(crate) fn ready(mut self) -> io::Result<()> {
        std::env::set_current_dir("/")?;
        self.0.write_all(b"ok\n")
    }

    /// The parent prints this sentence and exits with 1.
    pub(crate) fn failed(mut self, reason: &str) {
        // If nobody waits any more, the log has it too.
        let _ = writeln!(self.0, "{}", reason.replace('\n', " "));
    }
}

/// Goes into the background. Call it before any thread runs. `ready_fd`: what followed the hidden flag, if it was there;
/// `arguments`: those of the child, without the flag; `log`: where its standard output and error go.
///
/// # Errors
/// In the parent if the child cannot be started, in the child if `ready_fd` is no pipe.
pub(crate) fn enter(ready_fd: Option<RawFd>, arguments: &[OsString], log: &Path) -> anyhow::Result<Role> {
    match ready_fd {
        Some(fd) => child(fd).map(Role::Child),
        None => match parent(arguments, log)? {
            None => Ok(Role::Parent(0)),
            Some(reason) => {
                eprintln!("swarmfs: {reason}");
                Ok(Role::Parent(1))
            }
        },
    }
}

fn child(fd: RawFd) -> anyhow::Result<Readiness> {
    let kind = std::fs::metadata(format!("/proc/self/fd/{fd}")).ok().map(|metadata| metadata.file_type());
    if fd <= 2 || !kind.is_some_and(|kind| std::os::unix::fs::FileTypeExt::is_fifo(&kind)) {
        bail!("{READY_FLAG} is for swarmfs itself: leave it out");
    }
    // SAFETY: the descriptor is open, as /proc has just shown, and it is ours alone: the parent left it open across exec
    // for this one purpose, and nothing else has run in this process that could own it.
    let pipe = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&pipe, FdFlags::CLOEXEC).context("cannot use the readiness pipe")?;
    // Fails only for the leader of a process group, which a child that was just started is not.
    rustix::process::setsid().context("cannot leave the terminal's session")?;
    Ok(Readiness(pipe.into()))
}

/// Starts the child and waits for its word: nothing if it is ready, else why not.
fn parent(arguments: &[OsString], log: &Path) -> anyhow::Result<Option<String>> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let output = open_log(log);
    let shown = if output.is_some() { log } else { Path::new("/dev/null") };
    let stream =
        |log: &Option<File>| log.as_ref().and_then(|f| f.try_clone().ok()).map_or_else(Stdio::null, Stdio::from);
    // A binary that was replaced while it ran still is /proc/self/exe.
    let binary = std::env::current_exe().ok().filter(|path| path.is_file());
    let mut command = Command::new(binary.unwrap_or_else(|| PathBuf::from("/proc/self/exe")));
    command.args(arguments).arg(READY_FLAG).arg(writer.as_raw_fd().to_string());
    command.stdin(Stdio::null()).stdout(stream(&output)).stderr(stream(&output));
    rustix::io::fcntl_setfd(&writer, FdFlags::empty()).context("cannot pass the pipe on")?;
    let mut child = command.spawn().context("cannot start the background process")?;
    drop(writer);
    let said = first_line(reader.into());
    if said == "ok" {
        return Ok(None);
    }
    let status = child.wait();
    if said.is_empty() {
        let end = status.map_or_else(|_| "ended".to_owned(), how_it_ended);
        return Ok(Some(format!("the background process {end} before it was ready; its log is {}", shown.display())));
    }
    Ok(Some(said))
}

/// What the child says; an error reads as silence.
fn first_line(pipe: File) -> String {
    let mut line = Vec::new();
    let _ = BufReader::new(pipe.take(MAX_MESSAGE)).read_until(b'\n', &mut line);
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The log file of a background process: below `/var/log/swarmfs` for root, else below `$XDG_STATE_HOME/swarmfs` or
/// `~/.local/state/swarmfs`; named after the mountpoint.
pub(crate) fn log_path(mountpoint: &Path) -> PathBuf {
    let base = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/log/swarmfs")
    } else {
        state_dir().unwrap_or_else(|| std::env::temp_dir().join("swarmfs"))
    };
    base.join(log_name(mountpoint))
}

/// `$XDG_STATE_HOME/swarmfs`, else `~/.local/state/swarmfs`; none if there is neither.
pub(crate) fn state_dir() -> Option<PathBuf> {
    super::options::user_dir("XDG_STATE_HOME", ".local/state")
}

fn log_name(mountpoint: &Path) -> String {
    let name = mountpoint.to_string_lossy().trim_matches('/').replace(['/', '\0'], "-");
    // A file name has at most 255 bytes; the end of a path says more than its start.
    let mut start = name.len().saturating_sub(200);
    while !name.is_char_boundary(start) {
        start += 1;
    }
    format!("mount-{}.log", name.get(start..).unwrap_or_default())
}

/// A fresh log; the one before becomes `.old`. None if there is no place for one: the output is dropped then.
fn open_log(path: &Path) -> Option<File> {
    std::fs::create_dir_all(path.parent()?).ok()?;
    let _ = std::fs::rename(path, path.with_extension("log.old"));
    File::options().create(true).append(true).open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a test of this file as the background process, the way `main` would.
    fn start(part: &str, log: &Path) -> Option<String> {
        // What follows `--` are names of tests for the test harness; the flag and its number are names of none.
        let arguments = [&format!("{}::{part}", module_path!().split_once("::").expect("in a crate").1), "--exact"];
        let rest = ["--ignored", "--nocapture", "--"];
        let arguments: Vec<OsString> =
            arguments.map(OsString::from).into_iter().chain(rest.map(OsString::from)).collect();
        parent(&arguments, log).expect("it starts")
    }

    /// In the background process: its readiness, from its own arguments.
    fn readiness() -> Readiness {
        let arguments: Vec<String> = std::env::args().collect();
        let at = arguments.iter().position(|a| a == READY_FLAG).expect("the flag is there");
        match enter(Some(arguments[at + 1].parse().expect("a number")), &[], Path::new("/unused")).expect("a child") {
            Role::Child(readiness) => readiness,
            Role::Parent(_) => panic!("the flag was given"),
        }
    }

    #[test]
    #[ignore = "runs as the child of another test"]
    fn child_is_ready() {
        let readiness = readiness();
        assert_eq!(rustix::process::getsid(None).ok(), Some(rustix::process::getpid()));
        println!("said to the log");
        readiness.ready().expect("the parent waits");
        assert_eq!(std::env::current_dir().ok(), Some(PathBuf::from("/")));
    }

    #[test]
    #[ignore = "runs as the child of another test"]
    fn child_has_failed() {
        readiness().failed("the mountpoint\nis gone");
    }

    #[test]
    #[ignore = "runs as the child of another test"]
    fn child_dies() {
        let _readiness = readiness();
        std::process::abort();
    }

    #[test]
    fn the_parent_waits_for_the_childs_word() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("new/mount.log");
        assert_eq!(start("child_is_ready", &log), None);
        assert!(std::fs::read_to_string(&log).expect("a log").contains("said to the log"));
        assert_eq!(start("child_has_failed", &log).as_deref(), Some("the mountpoint is gone"));
        let silent = start("child_dies", &log).expect("it says nothing");
        assert!(silent.contains("killed by signal 6") && silent.contains(&*log.to_string_lossy()), "{silent}");
        assert!(log.with_extension("log.old").exists());
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        assert_eq!(start("child_is_ready", Path::new("/proc/none/mount.log")), None);
    }

    #[test]
    fn a_number_that_is_no_pipe_is_refused() {
        let file = File::open("/dev/null").expect("it is there");
        for fd in [0, 2, -1, file.as_raw_fd(), RawFd::MAX] {
            assert!(child(fd).is_err());
        }
    }

    #[test]
    fn a_log_is_named_after_its_mountpoint() {
        assert_eq!(log_name(Path::new("/mnt/a b")), "mount-mnt-a b.log");
        assert!(log_name(Path::new(&"/é".repeat(300))).len() < 255);
    }
}
