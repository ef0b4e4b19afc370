//! The file of a block list.

use std::path::Path;

use tracing::{info, warn};

use crate::error::{Error, Result};
use crate::node::Blocks;

/// Reads a block list. Lines that are none are counted and said once.
///
/// # Errors
/// [`Error::Io`], or [`Error::BlockList`] if no line of it is a range.
pub(super) fn read(path: &Path) -> Result<Blocks> {
    let text = std::fs::read(path).map_err(|cause| Error::Io { path: path.to_owned(), what: "read", cause })?;
    let (blocks, wrong) = Blocks::parse(&text);
    if blocks.is_empty() {
        return Err(Error::BlockList(path.to_owned()));
    }
    if wrong > 0 {
        warn!(path = %path.display(), "{wrong} lines of the block list are no ranges of addresses and are left out");
    }
    info!(path = %path.display(), ranges = blocks.len(), "the block list is read");
    Ok(blocks)
}
