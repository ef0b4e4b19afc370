//! As much of HTTP/1.1 as rqbit's API needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The body of what a GET is answered with, of bytes `first` to `last` if only those are wanted.
pub(crate) fn get(server: SocketAddr, path: &str, range: Option<(u64, u64)>) -> io::Result<impl Read> {
    let range = range.map(|(first, last)| format!("Range: bytes={first}-{last}\r\n")).unwrap_or_default();
    exchange(server, format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n{range}Connection: close\r\n\r\n").as_bytes())
}

/// Sends a body; its answer is not looked at but for its status.
pub(crate) fn post(server: SocketAddr, path: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {length}\r\n\
         Content-Type: application/octet-stream\r\nConnection: close\r\n\r\n"
    );
    let mut answer = exchange(server, &[head.as_bytes(), body].concat())?;
    io::copy(&mut answer, &mut io::sink()).map(drop)
}

/// One request on a connection of its own; the body of the answer, as long as its head says.
fn exchange(server: SocketAddr, request: &[u8]) -> io::Result<impl Read + use<>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.write_all(request)?;
    let mut reader = BufReader::with_capacity(1 << 20, stream);
    let (mut line, mut length, mut status) = (String::new(), u64::MAX, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim_end();
        if status.is_empty() {
            status = text.to_owned();
        }
        if text.is_empty() {
            break;
        }
        if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    if !status.contains(" 20") {
        return Err(io::Error::other(status));
    }
    Ok(reader.take(length))
}
