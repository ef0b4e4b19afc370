//! The dataset that a demo shares when it is given none: a few texts, and one file that takes a while to stream.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Bytes of the large file: some 8 s at the seeds' rate.
const LARGE: usize = 64 << 20;

/// Makes the dataset below `dir` and returns its path.
///
/// # Errors
/// One sentence if it cannot be written.
pub(super) fn make(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("swarmfs-demo");
    write(&root).with_context(|| format!("{}: cannot write the dataset", root.display()))?;
    // As what is shared is named everywhere.
    std::fs::canonicalize(&root).with_context(|| format!("{}: cannot be used", root.display()))
}

fn write(root: &Path) -> io::Result<()> {
    std::fs::create_dir_all(root.join("texts"))?;
    std::fs::write(root.join("README.txt"), "Every byte below came through a swarm of three seeds.\n")?;
    for (n, text) in TEXTS.iter().enumerate() {
        std::fs::write(root.join(format!("texts/{}.txt", n + 1)), format!("{text}\n"))?;
    }
    let mut table = BufWriter::new(File::create(root.join("squares.csv"))?);
    writeln!(table, "number,square")?;
    for n in 0..100_000_u64 {
        writeln!(table, "{n},{}", n * n)?;
    }
    table.flush()?;
    // Noise: nothing on the way can make it smaller.
    let mut noise = StdRng::seed_from_u64(6881);
    let mut large = File::create(root.join("large.bin"))?;
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..LARGE / buffer.len() {
        noise.fill_bytes(&mut buffer);
        large.write_all(&buffer)?;
    }
    Ok(())
}

const TEXTS: [&str; 3] = [
    "A read becomes requests for blocks, and those go ahead of everything else.",
    "The rarest piece comes first, so that none is lost when somebody leaves the swarm.",
    "Whoever gives gets: the best uploaders are unchoked, and one more at random.",
];
