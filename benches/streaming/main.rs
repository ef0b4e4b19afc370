//! How well the mount streams, beside other programs where they can do the same.
//!
//! cargo bench --bench streaming -- [ROW]... [--pairs N] [--size SIZE] [--only CLIENT,...] [--user] [--json FILE]
//!
//! seq       a file of 1 GiB (`--size`) in order from 4 libtorrent seeds, beside the wire limit
//! seq-ours  the same from 4 seeds of our own
//! store     as seq, with the disk store and without it
//! ttfb      from the start of the program to the first 64 KiB from the middle of the file
//! seek      200 random reads of 64 KiB from 4 seeds of 2 MiB/s each
//! mmap      200 page faults at the same seeds
//! uneven    as seek; one seed stalls and one is slow
//! crowd     seeks after 90 idle seconds, with 12 leechers at seeds of 4 slots each
//! handles   4 handles that stream and one that seeks, over 4 seeds of 8 MiB/s each
//! video     25 Mbit/s over 32 Mbit/s of 4 uneven seeds: the start, stalls, a jump
//! tar       10,000 files of 16 KiB with seeds 50 ms away, against one file of the same bytes
//! disk      a file that is complete in the store, with cold caches, against the file itself and a bare file system
//! slow-disk as seq from scripted seeds, with the store on a disk of 50 MB/s and without a store
//! reread    O_DIRECT of what is in memory, against a file system that answers from one static buffer
//! utp       as seq, 256 MiB over uTP alone, libtorrent's as ours
//! far       16 MiB from seeds 50 ms away over a link that loses a packet in a hundred: over TCP, then over uTP
//! webseed   as seq, with nginx as the only source
//!
//! The clients of a row take turns and figures are medians over the pairs. Every clock and every CPU second counts from
//! the start of the client's process, children included. `--user` mounts as the user nobody. `SWARMFS_BENCH_BIN` names a
//! second build of the program, which is measured beside the first; `SWARMFS_TEST_PYTHON` a Python that has libtorrent;
//! `RQBIT` where rqbit is. Rows with other programs need root, for a network of their own.

mod bare;
mod bench;
mod clients;
mod disk;
mod http;
mod players;
mod reread;
mod seeks;
mod sequential;
#[path = "../../tests/support/mod.rs"]
mod support;
mod swarm;
mod table;
mod transports;
mod trees;
mod wire;

use bench::Bench;

/// What can be measured by itself.
struct Row {
    name: &'static str,
    run: fn(&Bench),
}

const ROWS: [Row; 17] = [
    Row { name: "seq", run: sequential::seq },
    Row { name: "seq-ours", run: sequential::seq_ours },
    Row { name: "store", run: sequential::store },
    Row { name: "ttfb", run: sequential::ttfb },
    Row { name: "seek", run: seeks::seek },
    Row { name: "mmap", run: seeks::mmap },
    Row { name: "uneven", run: seeks::uneven },
    Row { name: "crowd", run: seeks::crowd },
    Row { name: "handles", run: players::handles },
    Row { name: "video", run: players::video },
    Row { name: "tar", run: trees::tar },
    Row { name: "disk", run: disk::disk },
    Row { name: "slow-disk", run: disk::slow_disk },
    Row { name: "reread", run: reread::reread },
    Row { name: "utp", run: transports::utp },
    Row { name: "far", run: transports::far },
    Row { name: "webseed", run: transports::webseed },
];

/// Bytes of `512`, `64KiB`, `512MiB` or `1GiB`.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn main() {
    let (mut rows, mut pairs, mut length, mut only, mut user, mut json) = (Vec::new(), 5, 1 << 30, None, false, None);
    if bare::serve() {
        return;
    }
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} takes a value"));
        match argument.as_str() {
            "--pairs" => pairs = value().parse().expect("--pairs takes a number"),
            "--size" => length = size(&value()).expect("--size takes a size, as 512MiB"),
            "--only" => only = Some(value().split(',').map(str::to_owned).collect()),
            "--user" => user = true,
            "--json" => json = Some(value()),
            name => match ROWS.iter().find(|row| row.name == name) {
                Some(row) => rows.push(row),
                None => panic!("{name}: the rows are {}", ROWS.map(|row| row.name).join(", ")),
            },
        }
    }
    if rows.is_empty() {
        rows = ROWS.iter().collect();
    }
    let bench = Bench::new(pairs, length, only, user);
    for row in rows {
        (row.run)(&bench);
        // After each row: what was measured is not lost with a later one.
        if let Some(path) = &json {
            std::fs::write(path, format!("{:#}\n", bench.json())).expect("the JSON file");
        }
    }
}
