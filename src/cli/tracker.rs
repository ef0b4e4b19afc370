//! `swarmfs tracker`: runs a tracker until Ctrl-C.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::mount::Ending;
use super::{log, options, values};
use crate::tracker::{Tally, Tracker, TrackerConfig};

/// The command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where it listens, HTTP and UDP alike; again and again [default: [::]:6969, which is IPv4 as well]
    #[arg(long, value_name = "ADDR:PORT", value_parser = values::tracker_listen)]
    listen: Vec<SocketAddr>,
    /// Time between two announces of a peer, at least 5s; it is forgotten after twice as long (s, m, h)
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = values::time)]
    interval: Duration,
    /// Serve only the torrents in this file: an info-hash on each line, in hexadecimal digits
    #[arg(long, value_name = "FILE")]
    whitelist: Option<PathBuf>,
    #[command(flatten)]
    verbosity: options::Verbosity,
}

/// Runs the command.
///
/// # Errors
/// One sentence.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    log::start(arguments.verbosity.verbose);
    let whitelist = arguments.whitelist.as_deref().map(whitelist).transpose()?;
    let served = whitelist.as_ref().map(BTreeSet::len);
    let defaults = TrackerConfig::default();
    let listen = if arguments.listen.is_empty() { defaults.listen.clone() } else { arguments.listen.clone() };
    let config = TrackerConfig { listen, interval: arguments.interval, whitelist, ..defaults };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let tally = runtime.block_on(async {
        let mut ending = Ending::watch()?;
        let tracker = Tracker::start(config).await?;
        print_start(tracker.addrs(), served);
        ending.signal().await;
        let tally = tracker.tally();
        tracker.stop().await;
        anyhow::Ok(tally)
    })?;
    runtime.shutdown_background();
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "{}", summary(&tally));
    Ok(())
}

/// The URLs go to stdout, one a line, what is said of them to stderr.
fn print_start(addrs: &[SocketAddr], served: Option<usize>) {
    let listening: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    let torrents = match served {
        None => String::new(),
        Some(1) => ", serves 1 torrent".to_owned(),
        Some(n) => format!(", serves {n} torrents"),
    };
    // Nobody may be there to read them.
    let _ = writeln!(
        std::io::stderr(),
        "the tracker listens on {}{torrents}; Ctrl-C ends it; announce URLs for torrents:",
        listening.join(" and ")
    );
    let mut out = std::io::stdout().lock();
    for addr in addrs.iter().flat_map(|addr| reached(*addr)).collect::<BTreeSet<_>>() {
        let _ = writeln!(out, "http://{addr}/announce\nudp://{addr}/announce");
    }
    let _ = out.flush();
}

/// The addresses under which others reach a socket: for a wildcard, those that this machine sends from.
fn reached(addr: SocketAddr) -> Vec<SocketAddr> {
    if !addr.ip().is_unspecified() {
        return vec![addr];
    }
    // Nothing is sent by this: the kernel picks a route, and so an address of ours.
    let own = |any: IpAddr, far: IpAddr| {
        let socket = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((far, 9)).map(|()| socket)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
    };
    // Documentation prefixes: nobody is there.
    let v4 = own(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let v6 = own(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    let v6 = v6.filter(|_| addr.is_ipv6());
    let mut found: Vec<IpAddr> = [v4, v6].into_iter().flatten().collect();
    if found.is_empty() {
        found.push(Ipv4Addr::LOCALHOST.into());
    }
    found.into_iter().map(|ip| SocketAddr::new(ip, addr.port())).collect()
}

fn summary(tally: &Tally) -> String {
    let Tally { http, udp, scrapes, refused, torrents, peers } = tally;
    format!(
        "announces: {http} over HTTP, {udp} over UDP; scrapes: {scrapes}; refused: {refused}; peers: {peers}; torrents: {torrents}"
    )
}

/// Reads a list of info-hashes: v1's 40 digits, or v2's 64; empty lines and what follows a `#` do not count.
fn whitelist(path: &Path) -> Result<BTreeSet<[u8; 20]>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).zip(1..);
    let hashes = lines.filter(|(line, _)| !line.is_empty()).map(|(line, number)| {
        info_hash(line).ok_or_else(|| {
            anyhow!("{}: line {number} is no info-hash: write 40 or 64 hexadecimal digits", path.display())
        })
    });
    hashes.collect()
}

/// The 20 bytes that announces carry, of a hash in hexadecimal digits.
fn info_hash(text: &str) -> Option<[u8; 20]> {
    if !matches!(text.len(), 40 | 64) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let bytes = text.as_bytes().as_chunks::<2>().0.iter().map(|pair| {
        let digits = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(digits, 16).ok()
    });
    bytes.take(20).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitelists_hold_hashes_of_both_versions() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |text: &str| std::fs::write(file.path(), text).expect("its text");
        write(&format!("# ours\n{}  # one\n\n\t{}\r\n", "aB".repeat(20), "01".repeat(32)));
        assert_eq!(whitelist(file.path()).expect("a list"), [[0xab; 20], [1; 20]].into());
        for wrong in ["ab", "zz".repeat(20).as_str(), "+a".repeat(20).as_str(), "ä".repeat(20).as_str()] {
            write(&format!("{}\n{wrong}\n", "00".repeat(20)));
            let error = whitelist(file.path()).expect_err("a wrong line").to_string();
            assert!(error.contains("line 2 is no info-hash"), "{error}");
        }
        assert!(whitelist(Path::new("/nowhere")).is_err_and(|error| error.to_string() == "cannot read /nowhere"));
    }

    #[test]
    fn a_wildcard_is_reached_under_real_addresses() {
        let fixed: SocketAddr = "192.0.2.1:7".parse().expect("an address");
        assert_eq!(reached(fixed), [fixed]);
        for wildcard in ["0.0.0.0:7", "[::]:7"] {
            let all = reached(wildcard.parse().expect("an address"));
            assert!(
                !all.is_empty() && all.iter().all(|addr| !addr.ip().is_unspecified() && addr.port() == 7),
                "{all:?}"
            );
        }
    }
}
