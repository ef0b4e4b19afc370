//! A way to a peer that takes time: a TCP proxy that hands on every byte a fixed time after it came, in order, as many
//! as come.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Listens on an address of its own; stopped when dropped.
pub(crate) struct Delay {
    pub(crate) address: SocketAddr,
    stopping: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Delay {
    /// The way to `peer`, `each_way` long. Only the opening of a connection takes no time.
    pub(crate) fn to(peer: SocketAddr, each_way: Duration) -> Self {
        let listener = TcpListener::bind((super::loopback(), 0)).expect("a listening socket");
        let address = listener.local_addr().expect("its address");
        let stopping = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (stop, all) = (Arc::clone(&stopping), Arc::clone(&streams));
        let accepting = std::thread::spawn(move || {
            let mut threads = Vec::new();
            while let Ok((near, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(far) = TcpStream::connect(peer) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    all.lock().expect("the streams").extend(from.try_clone());
                    threads.extend(carry(from, to, each_way));
                }
            }
            for thread in threads {
                let _ = thread.join();
            }
        });
        Self { address, stopping, streams, accepting: Some(accepting) }
    }
}

/// One direction: a thread that takes bytes, and one that hands them on when their time has come.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) -> [JoinHandle<()>; 2] {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    let _ = to.set_nodelay(true);
    let reading = std::thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + delay, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    let writing = std::thread::spawn(move || {
        let pass = || -> io::Result<()> {
            for (due, bytes) in receiver {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                to.write_all(&bytes)?;
            }
            Ok(())
        };
        let _ = pass();
        // Both ways: a peer that is gone is gone for the other one.
        let _ = to.shutdown(Shutdown::Both);
    });
    [reading, writing]
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().expect("the streams").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accept call.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}
