//! Datagrams that are answered from the address that they were sent to. A machine with several addresses would otherwise
//! answer from the one that it likes best, and a client drops what comes from another than the one it asked: the usual
//! case with IPv6.

use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{MaybeUninitSlice, MsgHdr, MsgHdrMut, SockAddr, SockRef, Socket};
use tokio::net::UdpSocket;

/// Bytes of a control message's head: a length of a machine word, level and type.
const HEAD: usize = size_of::<libc::cmsghdr>();
/// Room for the control messages of a datagram: there is one.
const CONTROL: usize = 128;

/// A datagram that came.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Its bytes in the buffer; what did not fit is lost.
    pub(super) length: usize,
    pub(super) from: SocketAddr,
    /// Where it was sent to.
    pub(super) to: Option<IpAddr>,
}

/// Has the kernel tell where each datagram was sent to.
///
/// # Errors
/// The socket's.
pub(super) fn tell_destinations(socket: &Socket, v6: bool) -> io::Result<()> {
    let (level, option) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the descriptor is open, and the pointer and length are those of `on`, which outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a datagram, if there is one.
///
/// # Errors
/// The socket's; `WouldBlock` if there is none.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Arrived> {
    let mut from = SockAddr::from(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0));
    let mut control = [0; CONTROL];
    let mut parts = [MaybeUninitSlice::new(as_uninit(buffer))];
    let mut header =
        MsgHdrMut::new().with_addr(&mut from).with_buffers(&mut parts).with_control(as_uninit(&mut control));
    let length = SockRef::from(socket).recvmsg(&mut header, libc::MSG_DONTWAIT)?;
    let told = header.control_len();
    let from = from.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok(Arrived { length, from, to: destination(control.get(..told).unwrap_or_default()) })
}

/// Sends a datagram from the address `source`, if there is one.
///
/// # Errors
/// The socket's; `WouldBlock` if its buffer is full.
pub(super) fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr, source: Option<IpAddr>) -> io::Result<()> {
    let addr = SockAddr::from(to);
    let control = source.map(|source| from_source(source, to.is_ipv6())).unwrap_or_default();
    let parts = [IoSlice::new(bytes)];
    let header = MsgHdr::new().with_addr(&addr).with_buffers(&parts).with_control(&control);
    SockRef::from(socket).sendmsg(&header, libc::MSG_DONTWAIT).map(|_| ())
}

fn as_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: both have one layout, and recvmsg(2), the only one that gets it, writes nothing but bytes.
    unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) }
}

/// The destination in control messages: `IP_PKTINFO` or `IPV6_PKTINFO`.
fn destination(mut control: &[u8]) -> Option<IpAddr> {
    while let Some((head, _)) = control.split_at_checked(HEAD) {
        let (length, kind) = head.split_first_chunk()?;
        let length = usize::from_ne_bytes(*length);
        let [level, kind] = kind.get(kind.len() - 8..)?.as_chunks().0 else { return None };
        let data = control.get(HEAD..length)?;
        match (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind)) {
            // The interface, the local address, the destination.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                return data.get(8..12)?.first_chunk().map(|ip: &[u8; 4]| Ipv4Addr::from(*ip).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                return data.first_chunk().map(|ip: &[u8; 16]| Ipv6Addr::from(*ip).into());
            }
            _ => control = control.get(length.next_multiple_of(size_of::<usize>())..)?,
        }
    }
    None
}

/// The control message that chooses a source, for a socket of IPv6 or IPv4.
fn from_source(source: IpAddr, v6: bool) -> Vec<u8> {
    let mut out = vec![0; HEAD];
    let (level, kind) = match source {
        _ if v6 => {
            let ip = match source {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            out.extend(ip.octets());
            out.extend([0; 4]);
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
        }
        IpAddr::V4(ip) => {
            out.extend([0; 4]);
            out.extend(ip.octets());
            out.extend([0; 4]);
            (libc::IPPROTO_IP, libc::IP_PKTINFO)
        }
        IpAddr::V6(_) => return Vec::new(),
    };
    let length = out.len();
    out[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
    out[HEAD - 8..HEAD - 4].copy_from_slice(&level.to_ne_bytes());
    out[HEAD - 4..HEAD].copy_from_slice(&kind.to_ne_bytes());
    out.resize(length.next_multiple_of(size_of::<usize>()), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_of_any_bytes_do_no_harm() {
        // IP_PKTINFO has the chosen source in its second word, the destination in its third.
        let mut v4 = from_source([127, 0, 0, 7].into(), false);
        v4.copy_within(HEAD + 4..HEAD + 8, HEAD + 8);
        assert_eq!(destination(&v4), Some([127, 0, 0, 7].into()));
        let v6: IpAddr = "fd00::7".parse().expect("an address");
        let six = from_source(v6, true);
        assert_eq!(destination(&six), Some(v6));
        let mapped = from_source([127, 0, 0, 7].into(), true);
        assert_eq!(destination(&mapped).map(|ip| ip.to_canonical()), Some([127, 0, 0, 7].into()));
        let mut other = six.clone();
        other[HEAD - 4] ^= 1;
        assert_eq!(destination(&[other, six.clone()].concat()), Some(v6), "behind another one");
        for cut in 0..six.len() - 4 {
            assert_eq!(destination(&six[..cut]), None, "{cut}");
        }
        assert_eq!(destination(&[0; CONTROL]), None);
        assert_eq!(destination(&[0xff; CONTROL]), None);
    }
}
