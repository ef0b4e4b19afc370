//! The background process: the own binary run once more, before there is any thread, in a session of its own.
//!
//! A fork without exec would leave a runtime without its threads. So the parent runs `/proc/self/exe` with the arguments
//! that it is given (absolute paths: the child's directory is `/`) and a hidden `--ready-fd N` at their end, N being the
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
    /// All is well: the parent exits with 0.
    ///
    /// # Errors
    /// If nobody waits any more: the start was interrupted, and this process should end.
    pub(crate) fn ready(mut self) -> io::Result<()> {
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
        None => parent(arguments, log).map(Role::Parent),
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

fn parent(arguments: &[OsString], log: &Path) -> anyhow::Result<i32> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let output = open_log(log);
    let shown = if output.is_some() { log } else { Path::new("/dev/null") };
    let stream =
        |log: &Option<File>| log.as_ref().and_then(|f| f.try_clone().ok()).map_or_else(Stdio::null, Stdio::from);
    // A binary that was replaced while it ran still is /proc/self/exe.
    let binary = std::env::current_exe().ok().filter(|path| path.is_file());
    let mut command = Command::new(binary.unwrap_or_else(|| PathBuf::from("/proc/self/exe")));
    command.args(arguments).arg(READY_FLAG).arg(writer.as_raw_fd().to_string()).current_dir("/");
    command.stdin(Stdio::null()).stdout(stream(&output)).stderr(stream(&output));
    rustix::io::fcntl_setfd(&writer, FdFlags::empty()).context("cannot pass the pipe on")?;
    let mut child = command.spawn().context("cannot start the background process")?;
    drop(writer);
    let mut line = String::new();
    // An error reads as silence, which is reported below.
    let _ = BufReader::new(File::from(reader).take(MAX_MESSAGE)).read_line(&mut line);
    match line.trim_end() {
        "ok" => return Ok(0),
        "" => {
            let end = child.wait().map_or_else(|_| "ended".to_owned(), how_it_ended);
            eprintln!("swarmfs: the background process {end} before it was ready; its log is {}", shown.display());
        }
        reason => {
            let _ = child.wait();
            eprintln!("swarmfs: {reason}");
        }
    }
    Ok(1)
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
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        state.or_else(home).unwrap_or_else(std::env::temp_dir).join("swarmfs")
    };
    base.join(log_name(mountpoint))
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
    fn start(part: &str, log: &Path) -> (i32, String) {
        // What follows `--` are names of tests for the test harness; the flag and its number are names of none.
        let arguments = [&format!("{}::{part}", module_path!().split_once("::").expect("in a crate").1), "--exact"];
        let rest = ["--ignored", "--nocapture", "--"];
        let arguments: Vec<OsString> =
            arguments.map(OsString::from).into_iter().chain(rest.map(OsString::from)).collect();
        match enter(None, &arguments, log).expect("it starts") {
            Role::Parent(code) => (code, std::fs::read_to_string(log).unwrap_or_default()),
            Role::Child(_) => panic!("no flag was given"),
        }
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
        assert_eq!(std::env::current_dir().ok(), Some(PathBuf::from("/")));
        println!("said to the log");
        readiness.ready().expect("the parent waits");
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
        let (code, said) = start("child_is_ready", &log);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("said to the log"), "{said}");
        assert_eq!(start("child_has_failed", &log).0, 1);
        assert_eq!(start("child_dies", &log).0, 1);
        assert!(log.with_extension("log.old").exists());
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        assert_eq!(start("child_is_ready", Path::new("/proc/none/mount.log")).0, 0);
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
