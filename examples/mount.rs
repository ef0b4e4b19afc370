//! Mounts a torrent from code: `cargo run --example mount -- TORRENT MOUNTPOINT`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use swarmfs::Config;
use swarmfs::engine::{AddOptions, Session};
use swarmfs::fs::{self, MountOptions, Tree};
use swarmfs::metainfo::Metainfo;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let torrent = arguments.next().context("usage: mount TORRENT MOUNTPOINT")?;
    let mountpoint = arguments.next().context("usage: mount TORRENT MOUNTPOINT")?;

    let meta = Arc::new(Metainfo::parse(&std::fs::read(&torrent)?)?);
    let session = Session::start(Config::default())?;
    let key = session.add(Arc::clone(&meta), AddOptions::default())?;
    let tree = Tree::new(&[(key, meta)]);
    let mounted = fs::mount(tree, session.content(), &mountpoint, &MountOptions::default())?;
    println!("mounted on {}; Ctrl-C ends it", mountpoint.display());

    tokio::signal::ctrl_c().await?;
    mounted.unmount();
    session.stop().await;
    Ok(())
}
