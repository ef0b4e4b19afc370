//! Names of trackers become addresses, with what is out of reach left out.

use std::net::SocketAddr;

use super::ask::{AskError, LOCAL_TARGET};
use super::reach::Reach;
use crate::engine::network::Network;

/// The addresses of a host, by name or in digits, that `reach` admits; no empty list for a host that has any.
pub(super) async fn lookup(
    network: &Network,
    host: &str,
    port: u16,
    reach: Reach,
) -> Result<Vec<SocketAddr>, AskError> {
    let mut found = network.lookup(host, port).await.map_err(|e| AskError::Transfer(e.to_string()))?;
    let any = !found.is_empty();
    found.retain(|addr| reach.admits(addr.ip()));
    if any && found.is_empty() { Err(AskError::Refused(LOCAL_TARGET)) } else { Ok(found) }
}
