//! The download limit, kept where blocks are asked for. What was never asked for waits in no socket, so a read goes before
//! everything else at any limit, and no peer looks slow because little of what it might send is wanted.

use super::download::BLOCK;
use super::queue::Rank;
use super::{Effect, Swarm};

/// What may still be asked for under a download limit.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes; none without a limit.
    left: Option<u64>,
    /// The node knows that there is more to ask for, and whether a read waits for it.
    wants: Option<bool>,
}

impl Pace {
    /// Blocks that may be asked for now.
    pub(super) fn room(&self) -> usize {
        self.left.map_or(usize::MAX, |left| usize::try_from(left / BLOCK).unwrap_or(usize::MAX))
    }

    /// So many blocks were asked for.
    pub(super) fn spend(&mut self, blocks: usize) {
        self.left = self.left.map(|left| left.saturating_sub(blocks as u64 * BLOCK));
    }

    /// A request is void: another one may go out in its place.
    pub(super) fn refund(&mut self) {
        self.left = self.left.map(|left| left.saturating_add(BLOCK));
    }
}

impl Swarm {
    /// From now on there is a download limit: nothing is asked for but what [`super::Input::MayAsk`] allows.
    pub fn limit_download(&mut self) {
        self.pace.left.get_or_insert(0);
    }

    /// The node allows so many bytes more.
    pub(super) fn may_ask(&mut self, bytes: u64) {
        self.pace.wants = None;
        self.pace.left = self.pace.left.map(|left| left.saturating_add(bytes));
        self.work = true;
    }

    /// There may be more to ask for than is allowed: the node is told, and told again when it has become urgent.
    pub(super) fn want_pace(&mut self) {
        if self.pace.room() > 0 {
            return;
        }
        let urgent = self.queue.after(None).next().is_some_and(|(rank, _)| matches!(rank, Rank::Read(_)));
        if self.pace.wants.is_none_or(|known| urgent && !known) {
            self.pace.wants = Some(urgent);
            self.effects.push_back(Effect::WantRequests { urgent });
        }
    }
}
