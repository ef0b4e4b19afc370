//! Seeds a copy from code: `cargo run --example seed -- TORRENT DIR`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use swarmfs::Config;
use swarmfs::cache::DataDir;
use swarmfs::engine::{AddOptions, LocalCopy, Session};
use swarmfs::metainfo::Metainfo;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let torrent = arguments.next().context("usage: seed TORRENT DIR")?;
    let dir = arguments.next().context("usage: seed TORRENT DIR")?;

    let meta = Arc::new(Metainfo::parse(&std::fs::read(&torrent)?)?);
    let data = DataDir::open(&meta, &dir)?;
    let have = data.verify(&meta, &|_| (), &AtomicBool::new(false))?.have;
    println!("{} of {} pieces are right", have.iter().filter(|h| **h).count(), have.len());

    let session = Session::start(Config::default())?;
    let key = session
        .add(meta, AddOptions { copy: Some(LocalCopy { data, have, unchecked: false }), ..AddOptions::default() })?;
    tokio::signal::ctrl_c().await?;
    if let Some(totals) = session.totals(key) {
        println!("uploaded {} bytes", totals.uploaded);
    }
    session.stop().await;
    Ok(())
}
