//! Metainfo (BEP 3, BEP 47): a .torrent file as a validated value, and the geometry that maps file bytes to torrent
//! bytes, pieces and blocks. Parse, don't validate: a [`Metainfo`] that exists is within the limits and its names are safe.
#![forbid(unsafe_code)]

mod addresses;
pub mod bencode;
mod entry;
mod geometry;
mod hybrid;
mod id;
mod links;
mod magnet;
mod media;
mod names;
pub(crate) mod percent;
mod torrent;
mod web_seed;

pub(crate) use addresses::MAX_LENGTH as MAX_ADDRESS_LENGTH;
pub use geometry::{BLOCK_LENGTH, Block, Geometry, GeometryError, PieceIndex, Request};
pub use id::{InfoHash, InfoHashV2, TorrentId};
pub(crate) use links::text as link_text;
pub use magnet::{HostPort, Magnet, MagnetError};
pub use media::is_media;
pub(crate) use names::MAX_DEPTH;
pub use torrent::{File, FileKind, Metainfo, MetainfoError, PieceHashes};
pub use web_seed::{WebFiles, WebPart};
