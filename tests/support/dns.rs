//! A name server that knows what a test tells it, over UDP.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) struct NameServer {
    asked: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    /// Answers at this address until the test ends.
    pub(crate) fn start(at: IpAddr, names: &[(&str, IpAddr)]) -> Self {
        let socket = UdpSocket::bind(SocketAddr::new(at, 53)).expect("the port of name servers");
        let names: Vec<_> = names.iter().map(|&(name, ip)| (name.to_owned(), ip)).collect();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if let Some((name, reply)) = answer(&buffer[..length], &names) {
                    kept.lock().unwrap().push(name);
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Self { asked }
    }

    /// Waits until it was asked for this name.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str) {
        let asked = || self.asked.lock().unwrap().iter().any(|asked| asked == name);
        super::wait_until(Duration::from_secs(30), &format!("the name server is asked for {name}"), asked);
    }
}

/// The name that is asked for, and the reply: its address of the family that was asked for, or none.
fn answer(query: &[u8], names: &[(String, IpAddr)]) -> Option<(String, Vec<u8>)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        match usize::from(*query.get(at)?) {
            0 => break,
            length => labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase()),
        }
        at += 1 + usize::from(query[at]);
    }
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let (name, question) = (labels.join("."), query.get(12..at + 5)?);
    let known = names.iter().find(|(known, _)| *known == name).map(|(_, ip)| *ip);
    let data = match known {
        Some(IpAddr::V4(ip)) if kind == 1 => Some(ip.octets().to_vec()),
        Some(IpAddr::V6(ip)) if kind == 28 => Some(ip.octets().to_vec()),
        _ => None,
    };
    // A response that recursed, and no such name if it is not known.
    let code = if known.is_some() { 0 } else { 3 };
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
    reply.extend_from_slice(question);
    if let Some(data) = data {
        reply.extend([0xC0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 60]);
        reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        reply.extend(data);
    }
    Some((name, reply))
}
