//! Processes that never outlive their test.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A child process: killed when dropped, when its time is over, and when the thread that started it is gone.
pub(crate) struct Running {
    name: String,
    child: Child,
    pidfd: Arc<OwnedFd>,
    log: PathBuf,
    watchdog: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Kills what `pidfd` stands for unless the sender is dropped before `limit` is over.
fn watch(name: String, pidfd: Arc<OwnedFd>, limit: Duration) -> (Sender<()>, JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        if receiver.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            eprintln!("watchdog: {name} took over {limit:?} and is killed");
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    });
    (sender, thread)
}

/// The kernel kills the child when the thread that starts it ends. (Lost when the child changes its user.)
fn die_with_us(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and the closure touches nothing else.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

fn pidfd_of(child: &Child) -> Arc<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    Arc::new(pidfd_open(pid, PidfdFlags::empty()).expect("pidfd_open"))
}

impl Running {
    /// Starts `command` with its output in the file `log`, for at most `limit`.
    #[track_caller]
    pub(crate) fn spawn(name: &str, mut command: Command, log: &Path, limit: Duration) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("a log file");
        let err = out.try_clone().expect("a second handle");
        command.stdout(out).stderr(err);
        if !matches!(command.get_program().to_str(), Some("sh")) {
            command.stdin(Stdio::null());
        }
        die_with_us(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let pidfd = pidfd_of(&child);
        let watchdog = watch(name.to_owned(), Arc::clone(&pidfd), limit);
        Self { name: name.to_owned(), child, pidfd, log: log.to_owned(), watchdog: Some(watchdog) }
    }

    /// As `spawn`, for a program that changes its user and so loses the parent-death signal: a shell holds it, and
    /// kills it when the pipe to us closes.
    #[track_caller]
    pub(crate) fn spawn_held(name: &str, command: &Command, log: &Path, limit: Duration) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#""$@" & held=$!; read -r _; kill -9 $held; wait $held"#, "sh"]);
        shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::piped());
        Self::spawn(name, shell, log, limit)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waitpid")
    }

    /// Waits for its end: the status and how long that took; `None` when it still runs after `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<(ExitStatus, Duration)> {
        let start = Instant::now();
        super::holds_within(limit, || self.exited().is_some())
            .then(|| (self.exited().expect("it has ended"), start.elapsed()))
    }

    /// The one letter of /proc/PID/stat: `D` is a wait that only a fatal signal ends, as that of a read of a mount.
    pub(crate) fn state(&self) -> Option<char> {
        state_of(&format!("/proc/{}/stat", self.pid()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().filter(|(_, c)| *c == '\n').nth(60).map_or(0, |(at, _)| at + 1);
            eprintln!("--- the end of the log of {} ({}):\n{}", self.name, self.pid(), &log[from..]);
        }
        if self.child.stdin.take().is_some() {
            // Held by a shell, which kills it now.
            let _ = self.wait(Duration::from_secs(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some((sender, thread)) = self.watchdog.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

/// The state letter in a /proc stat file.
pub(crate) fn state_of(stat: &str) -> Option<char> {
    let text = std::fs::read_to_string(stat).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Runs `command` to its end; it is killed after `limit`, which then shows in its status.
#[track_caller]
pub(crate) fn output(command: &mut Command, limit: Duration) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    die_with_us(command);
    let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
    let (sender, thread) = watch(name, pidfd_of(&child), limit);
    let output = child.wait_with_output().expect("its output");
    drop(sender);
    let _ = thread.join();
    output
}

/// Runs a program that must succeed within `limit`; returns what it printed.
#[track_caller]
pub(crate) fn succeed(command: &mut Command, limit: Duration) -> Vec<u8> {
    let output = output(command, limit);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A shell line that must succeed within `limit`, with `arguments` as `$1`, `$2` and so on.
#[track_caller]
pub(crate) fn shell(line: &str, arguments: &[&Path], limit: Duration) -> Vec<u8> {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", line, "bash"]).args(arguments).env("LC_ALL", "C.UTF-8");
    succeed(&mut command, limit)
}

/// The program under test, without the cache and the totals of whoever runs the tests.
pub(crate) fn swarmfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swarmfs"));
    command.env_remove("XDG_CACHE_HOME").env_remove("XDG_STATE_HOME").env_remove("HOME");
    command
}

/// True if the program is on the search path.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
