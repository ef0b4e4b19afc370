//! The law of the swarm: how long it takes until N nodes have a file that one origin has.
//!
//! From a server alone it takes at least max(N F / u_s, F / d_min). If the nodes send on what they get, the bound is
//! max(F / u_s, F / d_min, N F / (u_s + sum of u_i)). With u_i = u_s that is F / u_s, however large N is. This program
//! prints both bounds beside what the simulator and real processes on this machine need, and draws them:
//!
//! `cargo run --release --example distribution_time -- --out plot.svg`
//!
//! The real half runs the `swarmfs` of this build (or the one that SWARMFS_BIN names) on loopback, in a temporary
//! directory that takes N + 1 copies of the file.

mod plot;
mod real;
mod simulated;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Parser;

const MIB: u64 = 1 << 20;
/// Bytes per second that the origin sends, and every node: nothing else is limited.
const RATE: u64 = 4 * MIB;
/// Nodes beside the origin.
const NODES: [u32; 10] = [1, 2, 4, 8, 16, 32, 64, 100, 300, 1_000];
/// More processes than this say more about the machine than about the swarm.
const REAL_MAX: u32 = 16;
/// Larger swarms are simulated once: one run takes minutes, and chance evens out in them.
const ONCE_ABOVE: u32 = 100;

#[derive(Debug, Parser)]
#[command(about = "How long it takes until N nodes have a file that one origin has")]
struct Arguments {
    /// Real processes too: no `swarmfs` to run is then an error, not a reason to leave them out
    #[arg(long, conflicts_with = "no_real")]
    real: bool,
    /// The simulator alone
    #[arg(long)]
    no_real: bool,
    /// The most nodes that are simulated
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    sim_max: u32,
    /// Runs of the simulator for each N up to 100, of which the median is shown
    #[arg(long, value_name = "RUNS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The file's size in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..65_536))]
    file_size: u64,
    /// Where the plot goes, as SVG
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What is known for one N. Times are seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    nodes: u32,
    client_server: f64,
    peer_to_peer: f64,
    simulated: Option<f64>,
    real: Option<f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let binary = match (arguments.no_real, real::binary()) {
        (true, _) => None,
        (false, Ok(binary)) => Some(binary),
        (false, Err(error)) if arguments.real => return Err(error),
        (false, Err(error)) => {
            eprintln!("no real processes: {error:#}");
            None
        }
    };
    let size = arguments.file_size * MIB;
    println!("{} MiB in 256 KiB pieces; the origin and each of N nodes send 4 MiB/s", arguments.file_size);
    println!("{:>6} {:>14} {:>13} {:>20} {:>20}", "N", "client-server", "peer-to-peer", "simulated", "real processes");
    let mut rows = Vec::new();
    for nodes in NODES {
        let mut row = bounds(nodes, size);
        if nodes <= arguments.sim_max {
            let runs = if nodes > ONCE_ABOVE { 1 } else { arguments.seeds };
            row.simulated =
                Some(median((0..runs).map(|seed| simulated::run(nodes, size, seed)).collect::<Result<_>>()?)?);
        }
        if let Some(binary) = binary.as_ref().filter(|_| nodes <= REAL_MAX) {
            row.real = Some(real::run(binary, nodes, size)?.as_secs_f64());
        }
        let shown =
            |time: Option<f64>| time.map_or_else(String::new, |t| format!("{t:.1} s = {:.2} x", t / row.peer_to_peer));
        println!(
            "{nodes:>6} {:>12.1} s {:>11.1} s {:>20} {:>20}",
            row.client_server,
            row.peer_to_peer,
            shown(row.simulated),
            shown(row.real)
        );
        rows.push(row);
    }
    if let Some(out) = &arguments.out {
        plot::draw(&rows, out)?;
        println!("the plot is in {}", out.display());
    }
    Ok(())
}

/// The bounds; downloads are not limited, so that F / d_min is nothing.
fn bounds(nodes: u32, size: u64) -> Row {
    let once = Duration::from_millis(size * 1000 / RATE).as_secs_f64();
    let n = f64::from(nodes);
    Row { nodes, client_server: n * once, peer_to_peer: once.max(n * once / (n + 1.0)), simulated: None, real: None }
}

fn median(mut times: Vec<Duration>) -> Result<f64> {
    ensure!(!times.is_empty(), "nothing was measured");
    times.sort_unstable();
    let Some(median) = times.get(times.len() / 2) else { bail!("nothing was measured") };
    Ok(median.as_secs_f64())
}
