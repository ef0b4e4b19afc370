//! Every knob once: what it means, its unit, its default and why. Command-line flags map to these fields one to one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::proxy::Proxy;

/// Which bytes are fetched that nobody has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// Nothing but reads and their read-ahead.
    None,
    /// The rest of a file that a handle reads sequentially past its first window: random access stays cheap.
    #[default]
    Open,
    /// Everything.
    All,
}

/// Whether connections to peers are encrypted (MSE). It hides from the network that this is BitTorrent, no more: it keeps
/// no secret from who knows the torrent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Never: peers that encrypt are refused.
    Off,
    /// The handshake is hidden in public networks and tried both ways everywhere; what follows is sealed only if the
    /// other side takes nothing else, since that costs both sides a core's time for every 270 MB.
    #[default]
    Prefer,
    /// All of it is sealed with RC4: peers that do not encrypt are refused.
    Require,
}

/// The settings of a session.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where peers reach us. The port is the first one tried when `listen_is_default`. Default `[::]:6881`.
    pub listen: SocketAddr,
    /// True if the user did not choose `listen`: a taken port then means the next free one, not an error.
    pub listen_is_default: bool,
    /// Peers to dial for every torrent besides those that trackers name.
    pub peers: Vec<SocketAddr>,
    /// Bytes of verified and unfinished pieces held in memory. Default 256 MiB: a minute of 4K video.
    pub memory: u64,
    /// Where the disk store lives; none keeps pieces in memory only. Default none; `mount` uses the user's cache directory.
    pub cache_dir: Option<PathBuf>,
    /// True if the user did not choose `cache_dir`: one that cannot be used then means memory only, not an error.
    pub cache_dir_is_default: bool,
    /// Bytes that the disk store may allocate over all torrents, and never more than half of what is free at the start.
    /// Default 20 GiB; 0 is no disk store.
    pub cache_size: u64,
    /// A copy in the user's own layout (`seed`).
    pub data: Option<PathBuf>,
    /// What is fetched that nobody asked for. Default: files that are read in order.
    pub fill: Fill,
    /// How long a read waits before EIO. Default 60 s: the kernel may abort a mount that is slower than its own limit.
    pub read_timeout: Duration,
    /// Payload bytes per second to all peers together; none is unlimited. What we ask for and tell is never limited.
    pub upload_limit: Option<u64>,
    /// Payload bytes per second from all peers together; none is unlimited. Nothing else that they say is.
    pub download_limit: Option<u64>,
    /// Peers unchoked for what they give us, besides one optimistic unchoke. Default 4 (BEP 3).
    pub upload_slots: usize,
    /// Connections of the process. Default 200, as libtorrent.
    pub max_peers: usize,
    /// False with `--no-upload`: every peer stays choked.
    pub upload: bool,
    /// Whether connections to peers are encrypted. Default: where it makes a connection possible, as libtorrent.
    pub encryption: Encryption,
    /// Whether connections go over uTP (BEP 29) as well as TCP. Default true: some peers can be reached by nothing else.
    pub utp: bool,
    /// Complete torrents show each peer one piece at a time, as if they had no others (BEP 16). Default false: it spares
    /// the first seed of a torrent some upload, and everybody else waits longer.
    pub super_seed: bool,
    /// Connected peers tell each other of others (BEP 11) and, with uTP, introduce them (BEP 55). Default true; never for private torrents.
    pub pex: bool,
    /// Torrents are announced to the local network, and peers heard there are dialled (BEP 14). Default true; never for
    /// private torrents, nor when listening on the loopback.
    pub lsd: bool,
    /// Torrents are looked for and announced in the DHT (BEP 5), over IPv4. Default true; never private torrents. On the
    /// loopback there is a DHT only if `dht_bootstrap` names addresses there.
    pub dht: bool,
    /// The nodes that the DHT is entered by, as `HOST:PORT`. Default: those that every client has.
    pub dht_bootstrap: Vec<String>,
    /// A file that keeps the DHT's nodes for the next time, so that it is entered without those. Default none; the
    /// commands use the user's state directory.
    pub dht_nodes: Option<PathBuf>,
    /// The gateway is asked to pass our port on to us, by PCP, NAT-PMP or UPnP, and at the end no more. Default true; not
    /// when listening on the loopback, nor of a gateway with a public address.
    pub port_map: bool,
    /// The network interface that every socket is bound to, names of hosts included; what cannot be bound is off: the DHT
    /// and port mapping. It must be there at the start, and may be down. Default none: the system's routes.
    pub interface: Option<String>,
    /// The SOCKS5 proxy that connections to peers and HTTP go through, and nothing else does: the DHT, uTP, local
    /// discovery, port mapping, UDP trackers and connections from outside are off. Default none.
    pub proxy: Option<Proxy>,
    /// A file of addresses that nobody is dialled at, accepted from, or asked at: peers, trackers and web seeds, also
    /// those of `peers`. Default none.
    pub block_list: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 6881),
            listen_is_default: true,
            peers: Vec::new(),
            memory: 256 << 20,
            cache_dir: None,
            cache_dir_is_default: true,
            cache_size: 20 << 30,
            data: None,
            fill: Fill::default(),
            read_timeout: Duration::from_secs(60),
            upload_limit: None,
            download_limit: None,
            upload_slots: 4,
            max_peers: 200,
            upload: true,
            encryption: Encryption::default(),
            utp: true,
            super_seed: false,
            pex: true,
            lsd: true,
            dht: true,
            dht_bootstrap: mainline::DEFAULT_BOOTSTRAP_NODES.map(str::to_owned).to_vec(),
            dht_nodes: None,
            port_map: true,
            interface: None,
            proxy: None,
            block_list: None,
        }
    }
}
