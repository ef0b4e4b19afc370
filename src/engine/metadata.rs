//! Metadata for those who have none (BEP 9): pieces of the info dictionary, as many at a time as a peer may have us hold for
//! it, and no more in all than it can have a use for.

use super::peer::{Peer, Seen};
use crate::wire::{METADATA_PIECE, Message, MetadataMessage};

/// Pieces that may wait for one peer's socket, as Transmission; more are rejected.
const WAITING: usize = 64 * METADATA_PIECE as usize;
/// How often a peer may have each piece: it may be asked for anew where an answer was slow.
const TIMES: usize = 4;

/// What one peer was served.
#[derive(Debug, Default)]
pub(super) struct MetadataServed {
    /// Its id of `ut_metadata`; none: it does not have the extension.
    id: Option<u8>,
    pieces: usize,
}

impl Peer {
    /// Answers what it asked for.
    pub(super) fn serve_metadata(&mut self, seen: &Seen) {
        self.metadata.id = seen.metadata_id.or(self.metadata.id);
        // After every read of a socket: mostly nothing was asked.
        let Some(id) = self.metadata.id.filter(|_| !seen.metadata.is_empty()) else { return };
        let info = std::sync::Arc::clone(&self.torrent.meta.info);
        let most = TIMES * info.len().div_ceil(METADATA_PIECE as usize) + TIMES;
        for &piece in &seen.metadata {
            // Rejects wait, too: who asks and does not read gets no more of them.
            if self.outbox.ahead() >= 2 * WAITING {
                return;
            }
            let start = piece as usize * METADATA_PIECE as usize;
            let data = info.get(start..).map(|rest| rest.get(..METADATA_PIECE as usize).unwrap_or(rest));
            let serves = self.metadata.pieces < most && self.outbox.ahead() < WAITING;
            let answer = match data.filter(|data| serves && !data.is_empty()) {
                Some(data) => {
                    self.metadata.pieces += 1;
                    MetadataMessage::Data { piece, total: Some(info.len() as u64), data }
                }
                None => MetadataMessage::Reject(piece),
            };
            self.outbox.push(&Message::Extended { id, payload: answer.encode().into() });
        }
    }
}
