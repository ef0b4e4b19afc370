//! What the process decides over all torrents: who is unchoked, who is dialled or accepted, how fast we send, and how
//! much memory unfinished pieces may take.
#![forbid(unsafe_code)]
