//! The gateway is asked to pass our port on to us: by PCP (RFC 6887), else NAT-PMP (RFC 6886), else UPnP IGD. Only a gateway
//! with a private address is asked, and only what is at that very address is believed to be one: a device on the network
//! may answer a search, but not send us anywhere else. A gateway that maps nothing is nothing to be said of.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crab_nat::{GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::engine::network::Network;
use crate::node::Place;

/// How long a mapping is asked for: what RFC 6886 recommends, so that a session that is killed leaves it no longer.
const LIFETIME: Duration = Duration::from_secs(7200);
/// The least time between two renewals, whatever the gateway grants.
const LEAST: Duration = Duration::from_secs(60);
/// After a failure, another attempt: the network may have changed.
const AGAIN: Duration = Duration::from_secs(600);
/// What a gateway has to answer a datagram: 250 ms, and twice that, and so on, 1.75 s in all.
const PATIENCE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };
/// What a search for an IGD may take: its devices have up to 2 s for their answers.
const SEARCH: Duration = Duration::from_secs(4);
/// What the end may take, and of this, what is under way: who does not hear the answer cannot take it back.
const STOP: Duration = Duration::from_millis(1500);
const UNDER_WAY: Duration = Duration::from_millis(750);
/// What the gateway's own page shows.
const DESCRIPTION: &str = "swarmfs";
/// Both of them: peers come over TCP and uTP.
const PROTOCOLS: [InternetProtocol; 2] = [InternetProtocol::Tcp, InternetProtocol::Udp];

/// Gets the gateway's address on the outside. It may not block.
pub(in crate::engine) type External = Arc<dyn Fn(IpAddr) + Send + Sync>;

/// The mapping of the session's port. Dropping it leaves it to end by itself.
pub(in crate::engine) struct PortMap {
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl PortMap {
    /// Starts it; must be called inside a tokio runtime.
    pub(in crate::engine) fn start(network: Network, port: NonZeroU16, external: External) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: Mutex::new(Some(tokio::spawn(run(network, port, external, stopped)))) }
    }

    /// Takes the mapping back: 1.5 s at the most.
    pub(in crate::engine) async fn stop(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(STOP, &mut task).await.is_err()
        {
            debug!("the gateway does not take the port mapping back in time");
            task.abort();
        }
    }
}

impl Drop for PortMap {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// Why there is no mapping, for the log.
#[derive(Debug, thiserror::Error)]
enum Unmapped {
    #[error("there is no gateway with a private address")]
    NoGateway,
    #[error("the gateway gives port {0}, which nobody would look for")]
    OtherPort(u16),
    #[error("an IGD that is not the gateway answers: {0}")]
    NotTheGateway(IpAddr),
    #[error("{0}")]
    Gateway(String),
}

impl Unmapped {
    fn by(error: impl fmt::Display) -> Self {
        Self::Gateway(error.to_string())
    }
}

async fn run(network: Network, port: NonZeroU16, external: External, mut stopped: watch::Receiver<bool>) {
    let mut mapped: Option<Mapped> = None;
    loop {
        let attempt = async {
            match &mut mapped {
                Some(mapped) => mapped.renew().await,
                None => {
                    let new = map(&network, port).await?;
                    info!(port, by = new.name(), "the gateway passes the port on to us");
                    mapped = Some(new);
                    Ok(())
                }
            }
        };
        let end = until(attempt, &mut stopped).await;
        let Some(end) = end else { break };
        let wait = match (end, &mapped) {
            (Ok(()), Some(mapped)) => {
                mapped.external().await.into_iter().for_each(|ip| external(ip));
                (mapped.lifetime() / 2).max(LEAST)
            }
            (end, _) => {
                let why = end.err().map(|e| e.to_string()).unwrap_or_default();
                debug!("the port is not mapped: {why}");
                // What there was may be gone with the gateway: it begins anew.
                mapped = None;
                AGAIN
            }
        };
        if timeout(wait, stopped.wait_for(|stopped| *stopped)).await.is_ok() {
            break;
        }
    }
    if let Some(mapped) = mapped {
        mapped.remove().await;
    }
}

/// What an attempt comes to; none if the end came first, which leaves it some time still.
async fn until<T>(attempt: impl Future<Output = T>, stopped: &mut watch::Receiver<bool>) -> Option<T> {
    tokio::pin!(attempt);
    tokio::select! {
        end = &mut attempt => return Some(end),
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    let _ = timeout(UNDER_WAY, attempt).await;
    None
}

/// Who has mapped the port.
enum Mapped {
    Nat(Vec<PortMapping>),
    Igd { gateway: Box<Gateway<Tokio>>, local: SocketAddr, lifetime: u32, added: Vec<PortMappingProtocol> },
}

/// Maps the port by whatever the gateway understands.
async fn map(network: &Network, port: NonZeroU16) -> Result<Mapped, Unmapped> {
    let gateway = default_gateway().filter(|ip| Place::of((*ip).into()) == Place::Private);
    let gateway = gateway.ok_or(Unmapped::NoGateway)?;
    let local = local_address(network, gateway).await.ok_or(Unmapped::NoGateway)?;
    let by_nat = map_by_nat(gateway, local, port).await;
    match by_nat {
        Ok(mapped) => Ok(mapped),
        Err(why) => {
            debug!("the gateway has neither PCP nor NAT-PMP for us: {why}");
            map_by_igd(gateway, SocketAddr::new(local.into(), port.get())).await
        }
    }
}

async fn map_by_nat(gateway: Ipv4Addr, local: Ipv4Addr, port: NonZeroU16) -> Result<Mapped, Unmapped> {
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(seconds(LIFETIME)),
        timeout_config: Some(PATIENCE),
    };
    let mut mapped = Vec::new();
    for protocol in PROTOCOLS {
        let gateway = GatewayAddress::IpV4(gateway);
        match PortMapping::new(gateway, local.into(), protocol, port, options).await {
            Ok(mapping) if mapping.external_port() == port => mapped.push(mapping),
            Ok(mapping) => {
                let other = mapping.external_port().get();
                mapped.push(mapping);
                Mapped::Nat(mapped).remove().await;
                return Err(Unmapped::OtherPort(other));
            }
            Err(e) => {
                Mapped::Nat(mapped).remove().await;
                return Err(Unmapped::by(e));
            }
        }
    }
    Ok(Mapped::Nat(mapped))
}

async fn map_by_igd(gateway: Ipv4Addr, local: SocketAddr) -> Result<Mapped, Unmapped> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::new(local.ip(), 0);
    options.timeout = Some(SEARCH);
    let found = search_gateway(options).await.map_err(Unmapped::by)?;
    // The search itself sees to it that a device names its own address only.
    if found.addr.ip() != IpAddr::V4(gateway) {
        return Err(Unmapped::NotTheGateway(found.addr.ip()));
    }
    let mut mapped = Mapped::Igd { gateway: Box::new(found), local, lifetime: seconds(LIFETIME), added: Vec::new() };
    match mapped.renew().await {
        Ok(()) => Ok(mapped),
        Err(why) => {
            mapped.remove().await;
            Err(why)
        }
    }
}

impl Mapped {
    fn name(&self) -> &'static str {
        match self {
            Self::Nat(mappings) => match mappings.first().map(PortMapping::mapping_type) {
                Some(PortMappingType::Pcp { .. }) => "PCP",
                _ => "NAT-PMP",
            },
            Self::Igd { .. } => "UPnP",
        }
    }

    async fn renew(&mut self) -> Result<(), Unmapped> {
        match self {
            Self::Nat(mappings) => {
                for mapping in mappings {
                    let port = mapping.internal_port();
                    mapping.renew().await.map_err(Unmapped::by)?;
                    if mapping.external_port() != port {
                        return Err(Unmapped::OtherPort(mapping.external_port().get()));
                    }
                }
            }
            Self::Igd { gateway, local, lifetime, added } => {
                for protocol in PROTOCOLS.map(igd_protocol) {
                    let add = |lifetime| gateway.add_port(protocol, local.port(), *local, lifetime, DESCRIPTION);
                    match add(*lifetime).await {
                        // It takes what lasts for ever only; the end takes it back.
                        Err(AddPortError::OnlyPermanentLeasesSupported) => {
                            *lifetime = 0;
                            add(0).await.map_err(Unmapped::by)?;
                        }
                        answer => answer.map_err(Unmapped::by)?,
                    }
                    if !added.contains(&protocol) {
                        added.push(protocol);
                    }
                }
            }
        }
        Ok(())
    }

    /// How long it lasts.
    fn lifetime(&self) -> Duration {
        match self {
            Self::Nat(mappings) => {
                let least = mappings.iter().map(PortMapping::lifetime).min().unwrap_or(0);
                Duration::from_secs(least.into()).min(LIFETIME)
            }
            Self::Igd { .. } => LIFETIME,
        }
    }

    /// The gateway's address on the outside, as it says.
    async fn external(&self) -> Option<IpAddr> {
        match self {
            Self::Nat(mappings) => {
                let mapping = mappings.first()?;
                match mapping.mapping_type() {
                    PortMappingType::Pcp { external_ip, .. } => Some(external_ip),
                    PortMappingType::NatPmp => {
                        let asked = crab_nat::natpmp::external_address(mapping.gateway(), Some(PATIENCE)).await;
                        asked.ok().map(IpAddr::V4)
                    }
                }
            }
            Self::Igd { gateway, .. } => gateway.get_external_ip().await.ok(),
        }
    }

    async fn remove(self) {
        match self {
            Self::Nat(mappings) => {
                for mapping in mappings {
                    if let Err((e, _)) = mapping.try_drop().await {
                        debug!("a port mapping is not taken back: {e}");
                    }
                }
            }
            Self::Igd { gateway, local, added, .. } => {
                // Only those: another host of the network may have the other one.
                for protocol in added {
                    if let Err(e) = gateway.remove_port(protocol, local.port()).await {
                        debug!("a port mapping is not taken back: {e}");
                    }
                }
            }
        }
    }
}

fn igd_protocol(protocol: InternetProtocol) -> PortMappingProtocol {
    match protocol {
        InternetProtocol::Tcp => PortMappingProtocol::TCP,
        InternetProtocol::Udp => PortMappingProtocol::UDP,
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// The address that we have towards the gateway, if it is one that peers could reach us at.
async fn local_address(network: &Network, gateway: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = network.datagrams(SocketAddr::new(network.local(true)?, 0)).ok()?;
    // Nothing is sent: this is how the kernel says it.
    socket.connect(SocketAddr::new(gateway.into(), crab_nat::GATEWAY_PORT)).await.ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) if Place::of(ip.into()) == Place::Private => Some(ip),
        _ => None,
    }
}

/// The gateway of the default route.
fn default_gateway() -> Option<Ipv4Addr> {
    gateway_of(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// The gateway of the first default route in the kernel's table: its addresses are hexadecimal numbers in this machine's
/// byte order, and the fields are interface, destination, gateway, flags, ..., mask.
fn gateway_of(table: &str) -> Option<Ipv4Addr> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (destination, gateway) = (fields.next()?, fields.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok().filter(|&gateway| gateway != 0)?;
        (destination == "00000000").then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_that_of_the_default_route() {
        let route = |destination: &str, gateway: [u8; 4]| {
            let gateway = u32::from_ne_bytes(gateway);
            format!("eth0\t{destination}\t{gateway:08X}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
        };
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let table = [head, &route("0000A8C0", [0; 4]), &route("00000000", [192, 168, 0, 1])].concat();
        assert_eq!(gateway_of(&table), Some(Ipv4Addr::new(192, 168, 0, 1)));
        for table in ["", head, &[head, &route("00000000", [0; 4])].concat(), "x\ny z\n"] {
            assert_eq!(gateway_of(table), None, "{table}");
        }
    }
}
