//! ut_holepunch messages (BEP 55): a peer that two others are connected to introduces them, and both dial each other at the
//! same time over uTP, which opens the NATs that they are behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::DecodeError;

/// The id by which peers send us ut_holepunch.
pub const OUR_HOLEPUNCH_ID: u8 = 4;

/// ut_holepunch's name in `m` (BEP 10).
pub const HOLEPUNCH: &str = "ut_holepunch";

const RENDEZVOUS: u8 = 0;
const CONNECT: u8 = 1;
const ERROR: u8 = 2;
const V4: u8 = 0;
const V6: u8 = 1;

/// A ut_holepunch message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holepunch {
    /// Introduce me to the peer at this address.
    Rendezvous(SocketAddr),
    /// Dial this address now: the peer there dials you.
    Connect(SocketAddr),
    /// There is no introduction to this address.
    Refused(SocketAddr, HolepunchError),
}

/// Why a peer does not introduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolepunchError {
    /// The address is none that a peer could have.
    NoSuchPeer,
    /// It is not connected to that peer.
    NotConnected,
    /// That peer does not know the extension.
    NoSupport,
    /// That peer is itself.
    NoSelf,
    /// A code that BEP 55 does not have.
    Other(u32),
}

impl HolepunchError {
    fn code(self) -> u32 {
        match self {
            Self::NoSuchPeer => 1,
            Self::NotConnected => 2,
            Self::NoSupport => 3,
            Self::NoSelf => 4,
            Self::Other(code) => code,
        }
    }

    fn of(code: u32) -> Self {
        match code {
            1 => Self::NoSuchPeer,
            2 => Self::NotConnected,
            3 => Self::NoSupport,
            4 => Self::NoSelf,
            code => Self::Other(code),
        }
    }
}

impl Holepunch {
    /// The payload of the extended message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, addr, error) = match *self {
            Self::Rendezvous(addr) => (RENDEZVOUS, addr, 0),
            Self::Connect(addr) => (CONNECT, addr, 0),
            Self::Refused(addr, error) => (ERROR, addr, error.code()),
        };
        let mut out = vec![kind];
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => {
                out.push(V4);
                out.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(V6);
                out.extend(ip.octets());
            }
        }
        out.extend(addr.port().to_be_bytes());
        out.extend(error.to_be_bytes());
        out
    }

    /// Reads the payload of the extended message. The error code may be left out where there is none, and bytes after
    /// the message are ignored: BEP 55 lets it grow.
    ///
    /// # Errors
    /// [`DecodeError::Holepunch`] if it is cut short, or of a kind or for an address of a kind that we do not know.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let wrong = DecodeError::Holepunch(payload.len());
        let (&[kind, family], rest) = payload.split_first_chunk().ok_or(wrong)?;
        let (ip, rest): (IpAddr, _) = match family {
            V4 => rest.split_first_chunk().map(|(ip, rest)| (Ipv4Addr::from(*ip).into(), rest)),
            V6 => rest.split_first_chunk().map(|(ip, rest)| (Ipv6Addr::from(*ip).to_canonical(), rest)),
            _ => None,
        }
        .ok_or(wrong)?;
        let (&port, rest) = rest.split_first_chunk().ok_or(wrong)?;
        let addr = SocketAddr::new(ip, u16::from_be_bytes(port));
        match (kind, rest.first_chunk()) {
            (RENDEZVOUS, _) => Ok(Self::Rendezvous(addr)),
            (CONNECT, _) => Ok(Self::Connect(addr)),
            (ERROR, Some(&code)) => Ok(Self::Refused(addr, HolepunchError::of(u32::from_be_bytes(code)))),
            _ => Err(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [&[u8]; 4] = [
        &[0, 0, 1, 2, 3, 4, 0x1A, 0xE1, 0, 0, 0, 0],
        &[1, 0, 1, 2, 3, 4, 0x1A, 0xE1, 0, 0, 0, 0],
        &[2, 0, 1, 2, 3, 4, 0x1A, 0xE1, 0, 0, 0, 3],
        &[1, 1, 0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80, 0, 0, 0, 0],
    ];

    #[test]
    fn messages_are_those_of_the_specification() {
        let addr: SocketAddr = "1.2.3.4:6881".parse().unwrap();
        let messages = [
            Holepunch::Rendezvous(addr),
            Holepunch::Connect(addr),
            Holepunch::Refused(addr, HolepunchError::NoSupport),
            Holepunch::Connect("[2001:db8::1]:80".parse().unwrap()),
        ];
        for (message, bytes) in messages.into_iter().zip(ALL) {
            assert_eq!(message.encode(), bytes);
            assert_eq!(Holepunch::decode(bytes), Ok(message));
            assert_eq!(Holepunch::decode(&[bytes, &[7; 9]].concat()), Ok(message), "it may grow");
        }
        assert_eq!(Holepunch::decode(&ALL[1][..8]), Ok(messages[1]), "without an error code");
        let mapped = Holepunch::Connect("[::ffff:1.2.3.4]:6881".parse().unwrap());
        assert_eq!(mapped.encode(), ALL[1]);
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_refused() {
        for bytes in ALL {
            let needed = bytes.len() - if bytes[0] == 2 { 0 } else { 4 };
            for length in 0..needed {
                assert_eq!(Holepunch::decode(&bytes[..length]), Err(DecodeError::Holepunch(length)));
            }
        }
        for (at, value) in [(0, 3), (0, 255), (1, 2), (1, 255)] {
            let mut bytes = ALL[0].to_vec();
            bytes[at] = value;
            assert_eq!(Holepunch::decode(&bytes), Err(DecodeError::Holepunch(12)));
        }
        let strange = [&ALL[2][..8], &[0xFF; 4]].concat();
        let addr = "1.2.3.4:6881".parse().unwrap();
        let refused = Holepunch::Refused(addr, HolepunchError::Other(u32::MAX));
        assert_eq!(Holepunch::decode(&strange), Ok(refused));
    }

    proptest! {
        /// Any bytes are a message that survives the wire, or an error.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(message) = Holepunch::decode(&bytes) {
                prop_assert_eq!(Holepunch::decode(&message.encode()), Ok(message));
            }
        }
    }
}
