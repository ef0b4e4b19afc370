//! Every packet of the network that this thread is in, as the kernel's own tap shows it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet that has left, or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) interface: String,
    pub(crate) kind: &'static str,
    /// Where it goes; port 0 if it has none.
    pub(crate) to: Option<SocketAddr>,
}

pub(crate) struct Capture {
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Notes what leaves from now on, on every interface but this one. What the kernel says by itself to its neighbours over
    /// IPv6 is left out; whoever answers to that gets packets that are not.
    pub(crate) fn but_on(interface: &str) -> Self {
        let every = u16::try_from(libc::ETH_P_ALL).expect("a protocol");
        let every = Protocol::from(i32::from(every.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(every)).expect("a tap");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let names = interfaces();
        let (packets, stop) = (Arc::<Mutex<Vec<Packet>>>::default(), Arc::<AtomicBool>::default());
        let (kept, stopped, but) = (Arc::clone(&packets), Arc::clone(&stop), interface.to_owned());
        let thread = std::thread::spawn(move || {
            let mut buffer = [std::mem::MaybeUninit::new(0); 128];
            // After the word to stop, all that waits is read.
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    if stopped.load(Ordering::SeqCst) {
                        break;
                    }
                    continue;
                };
                // SAFETY: it began as zeros, and a read makes no byte uninitialized.
                let bytes = buffer.map(|byte| unsafe { byte.assume_init() });
                // SAFETY: a packet socket gives addresses of this kind.
                let link = unsafe { *from.as_ptr().cast::<libc::sockaddr_ll>() };
                let index = u32::try_from(link.sll_ifindex).unwrap_or(0);
                let name = names.iter().find(|(at, _)| *at == index).map_or("?", |(_, name)| name);
                if link.sll_pkttype == libc::PACKET_OUTGOING && name != but {
                    kept.lock().unwrap().extend(packet(
                        name,
                        u16::from_be(link.sll_protocol),
                        &bytes[..length.min(128)],
                    ));
                }
            }
        });
        Self { packets, stop, thread: Some(thread) }
    }

    /// Ends it: what has left.
    pub(crate) fn end(mut self) -> Vec<Packet> {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the tap");
        }
        self.packets.lock().unwrap().clone()
    }

    /// What has left so far.
    pub(crate) fn so_far(&self) -> Vec<Packet> {
        self.packets.lock().unwrap().clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// The interfaces of this thread's network by index.
fn interfaces() -> Vec<(u32, String)> {
    let dir = std::fs::read_to_string("/proc/thread-self/net/dev").expect("the interfaces");
    let names = dir.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned());
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    names.filter_map(|name| Some((rustix::net::netdevice::name_to_index(&socket, &name).ok()?, name))).collect()
}

fn packet(interface: &str, protocol: u16, bytes: &[u8]) -> Option<Packet> {
    let (kind, ip, ports) = match (i32::from(protocol), bytes) {
        (libc::ETH_P_IP, [first, ..]) if bytes.len() >= 20 => {
            let to: [u8; 4] = bytes[16..20].try_into().unwrap();
            (bytes[9], Some(IpAddr::from(to)), bytes.get(usize::from(first & 15) * 4..))
        }
        (libc::ETH_P_IPV6, _) if bytes.len() >= 40 => {
            let to: [u8; 16] = bytes[24..40].try_into().unwrap();
            (bytes[6], Some(IpAddr::from(to)), bytes.get(40..))
        }
        (libc::ETH_P_ARP, _) => return Some(Packet { interface: interface.to_owned(), kind: "ARP", to: None }),
        _ => return Some(Packet { interface: interface.to_owned(), kind: "other", to: None }),
    };
    let kind = match kind {
        TCP => "TCP",
        UDP => "UDP",
        // This kernel tells itself that nobody answered there.
        ICMP if interface == "lo" => return None,
        ICMPV6 | HOP_BY_HOP if ip.is_some_and(|ip| ip.is_ipv6()) => return None,
        _ => "other IP",
    };
    let port = ports.and_then(|ports| ports.get(2..4)).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    Some(Packet { interface: interface.to_owned(), kind, to: ip.map(|ip| SocketAddr::new(ip, port)) })
}
