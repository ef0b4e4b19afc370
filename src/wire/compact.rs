//! Peers in compact form (BEP 7, BEP 23): an address of 4 or 16 bytes and a port, both big-endian.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Bytes of a peer.
pub(super) const fn entry_len(v6: bool) -> usize {
    if v6 { 18 } else { 6 }
}

/// The peers of a string, in its order; what is behind the last whole one is ignored, and so is what cannot be dialled.
pub(super) fn peers(bytes: &[u8], v6: bool) -> impl Iterator<Item = SocketAddr> {
    bytes.chunks_exact(entry_len(v6)).filter_map(peer)
}

/// One peer; none with port 0 or an impossible address.
pub(super) fn peer(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    let ip: IpAddr = match ip.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?).into(),
        _ => IpAddr::V6(<[u8; 16]>::try_from(ip).ok()?.into()).to_canonical(),
    };
    (port != 0 && can_be_dialled(ip)).then(|| SocketAddr::new(ip, port))
}

/// True for what can be a host's address.
pub(super) fn can_be_dialled(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Appends a peer in the form of its own family.
pub(super) fn put(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr.ip() {
        IpAddr::V4(ip) => out.extend(ip.octets()),
        IpAddr::V6(ip) => out.extend(ip.octets()),
    }
    out.extend(addr.port().to_be_bytes());
}
