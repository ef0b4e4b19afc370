//! `swarmfs get` and `swarmfs seed` in child processes, on addresses of their own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use super::process::{Running, output, swarmfs};
use super::{free_address, wait_until};

/// Longer than any of them should take.
pub(crate) const LIFE: Duration = Duration::from_secs(120);

/// A `swarmfs get` that listens on `listen` and dials these peers.
pub(crate) fn get_at(
    listen: SocketAddr,
    torrent: &Path,
    dir: &Path,
    peers: &[SocketAddr],
    arguments: &[&str],
) -> Command {
    let mut command = swarmfs();
    command.arg("get").arg(torrent).arg("-o").arg(dir).args(["--no-dht", "--no-lsd"]);
    command.args(["--listen", &listen.to_string()]).args(arguments);
    for peer in peers {
        command.args(["--peer", &peer.to_string()]);
    }
    command
}

/// As `get_at`, on an address of its own.
pub(crate) fn get(torrent: &Path, dir: &Path, peers: &[SocketAddr], arguments: &[&str]) -> Command {
    get_at(free_address(), torrent, dir, peers, arguments)
}

/// A command that runs while the test goes on. Its log lies in `dir`.
#[track_caller]
pub(crate) fn start(name: &str, command: Command, dir: &Path) -> Running {
    Running::spawn(name, command, &dir.join(format!("{name}.log")), LIFE)
}

/// Runs a command to its end: its exit code and what it said on stderr.
#[track_caller]
pub(crate) fn run(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = output(&mut command, LIFE);
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// Runs a command that must succeed; what it said on stderr.
#[track_caller]
pub(crate) fn succeeds(command: Command) -> String {
    let (code, text) = run(command);
    assert_eq!(code, Some(0), "{text}");
    text
}

/// Runs a command that must fail with code 1 and one sentence that has `names` in it.
#[track_caller]
pub(crate) fn fails(command: Command, names: &str) -> String {
    let (code, text) = run(command);
    assert_eq!(code, Some(1), "{text}");
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with("swarmfs: ")).collect();
    assert!(said.len() == 1 && said[0].contains(names), "it does not say {names}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// A `swarmfs seed` that listens.
#[track_caller]
pub(crate) fn seed(torrent: &Path, data: &Path, dir: &Path, arguments: &[&str]) -> (Running, SocketAddr) {
    let address = free_address();
    let mut command = swarmfs();
    command.arg("seed").arg(torrent).arg("--data").arg(data).args(["--no-dht", "--no-lsd"]);
    command.args(["--listen", &address.to_string()]).args(arguments);
    let process = start("seed", command, dir);
    wait_until(Duration::from_secs(20), "the seed listens", || std::net::TcpStream::connect(address).is_ok());
    (process, address)
}
