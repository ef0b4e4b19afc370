//! The extension protocol's handshake (BEP 10) and lt_donthave (BEP 54).

use std::collections::BTreeMap;
use std::net::IpAddr;

/// The extension handshake (BEP 10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtendedHandshake {
    /// All of `m`: extension names and the sender's ids for them; 0 switches one off.
    pub messages: BTreeMap<String, u8>,
    /// The id of lt_donthave (BEP 54), from `m`.
    pub donthave: Option<u8>,
    /// `reqq`: requests that the sender holds.
    pub reqq: Option<u32>,
    /// `v`: the client's name and version.
    pub client: Option<String>,
    /// `p`: the sender's listening port.
    pub listen_port: Option<u16>,
    /// `upload_only` (BEP 21).
    pub upload_only: bool,
    /// `yourip`: our address as the sender sees it.
    pub yourip: Option<IpAddr>,
    /// `metadata_size` (BEP 9), bytes.
    pub metadata_size: Option<u64>,
}
