//! Names of trackers become addresses: few lookups at a time, each on a thread that nobody has to wait for, and what is
//! out of reach left out.

use std::net::{SocketAddr, ToSocketAddrs};

use tokio::sync::Semaphore;

use super::ask::{AskError, LOCAL_TARGET};
use super::reach::Reach;

/// Name lookups of the process at one time: each holds a thread for as long as the resolver likes.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

/// The addresses of a host, by name or in digits, that `reach` admits; no empty list for a host that has any.
pub(super) async fn lookup(host: String, port: u16, reach: Reach) -> Result<Vec<SocketAddr>, AskError> {
    let failed = |error: &dyn std::error::Error| AskError::Transfer(error.to_string());
    let turn = LOOKUPS.acquire().await.map_err(|e| failed(&e))?;
    let lookup = tokio::task::spawn_blocking(move || {
        // Held until the thread is free again, though nobody may wait for it any more.
        let _turn = turn;
        (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)
    });
    let mut found: Vec<SocketAddr> = lookup.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    let any = !found.is_empty();
    found.retain(|addr| reach.admits(addr.ip()));
    if any && found.is_empty() { Err(AskError::Refused(LOCAL_TARGET)) } else { Ok(found) }
}
