//! A SOCKS5 proxy (RFC 1928, RFC 1929) that resolves the names it is told, on threads of its own.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use socket2::{Domain, Socket, Type};

/// What it was asked to reach, as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Address(SocketAddr),
    Name(String, u16),
}

pub(crate) struct SocksProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    exit: IpAddr,
    /// User name and password; none lets everybody in.
    secret: Option<(String, String)>,
    names: Vec<(String, IpAddr)>,
    wanted: Mutex<Vec<Wanted>>,
    turned_away: Mutex<usize>,
}

impl SocksProxy {
    /// Listens there until the test ends, and connects from `exit`: a peer may take nobody with its own address.
    pub(crate) fn start(at: SocketAddr, exit: IpAddr, secret: Option<(&str, &str)>, names: &[(&str, IpAddr)]) -> Self {
        let listener = TcpListener::bind(at).expect("the proxy's address");
        let addr = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            exit,
            secret: secret.map(|(user, password)| (user.to_owned(), password.to_owned())),
            names: names.iter().map(|&(name, ip)| (name.to_owned(), ip)).collect(),
            wanted: Mutex::default(),
            turned_away: Mutex::default(),
        });
        let inner = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inner = Arc::clone(&inner);
                // Whoever goes away early is what some tests are about.
                thread::spawn(move || inner.serve(stream));
            }
        });
        Self { addr, shared }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn wanted(&self) -> Vec<Wanted> {
        self.shared.wanted.lock().unwrap().clone()
    }

    /// Those who did not know the password.
    pub(crate) fn turned_away(&self) -> usize {
        *self.shared.turned_away.lock().unwrap()
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let methods = counted(&mut client, 5)?;
        let method = if self.secret.is_some() { 2 } else { 0 };
        if !methods.contains(&method) {
            *self.turned_away.lock().unwrap() += 1;
            return client.write_all(&[5, 0xFF]);
        }
        client.write_all(&[5, method])?;
        if let Some((user, password)) = &self.secret {
            let told = (counted(&mut client, 1)?, bytes(&mut client)?);
            let right = told == (user.clone().into_bytes(), password.clone().into_bytes());
            client.write_all(&[1, u8::from(!right)])?;
            if !right {
                *self.turned_away.lock().unwrap() += 1;
                return Ok(());
            }
        }
        let [_, command, _, kind] = exact::<4>(&mut client)?;
        let host = match kind {
            1 => Ok(IpAddr::from(exact::<4>(&mut client)?)),
            4 => Ok(IpAddr::from(exact::<16>(&mut client)?)),
            _ => Err(String::from_utf8_lossy(&bytes(&mut client)?).into_owned()),
        };
        let port = u16::from_be_bytes(exact::<2>(&mut client)?);
        let known = |name: &String| self.names.iter().find(|(known, _)| known == name).map(|(_, ip)| *ip);
        let (wanted, ip) = match host {
            Ok(ip) => (Wanted::Address(SocketAddr::new(ip, port)), Some(ip)),
            Err(name) => {
                let ip = known(&name);
                (Wanted::Name(name, port), ip)
            }
        };
        self.wanted.lock().unwrap().push(wanted);
        let server = match ip.filter(|_| command == 1).map(|ip| connect(self.exit, (ip, port).into())) {
            Some(Ok(server)) => server,
            Some(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => return say(&mut client, 5),
            _ => return say(&mut client, 4),
        };
        say(&mut client, 0)?;
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let (mut from, mut to) = (server, client);
        let copied = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        copied.map(drop)
    }
}

fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

fn say(client: &mut TcpStream, code: u8) -> io::Result<()> {
    client.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0])
}

fn exact<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

/// A version, which must be this, a number, and so many bytes.
fn counted(stream: &mut TcpStream, version: u8) -> io::Result<Vec<u8>> {
    if exact::<1>(stream)? != [version] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes(stream)
}

/// A number, and so many bytes.
fn bytes(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let [length] = exact::<1>(stream)?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).map(|()| bytes)
}
