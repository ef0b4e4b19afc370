//! The options that several commands share, and the [`Config`] that they make.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use tracing::warn;

use super::values;
use crate::config::{Config, Encryption, Fill};
use crate::proxy::Proxy;

/// By which way everything leaves, and where nothing goes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
pub(crate) struct Way {
    /// Send and receive by this network interface only, names of hosts included. The DHT and port mapping, which cannot be
    /// bound to one, are off
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Go through this SOCKS5 proxy, which resolves names: HTTP and connections to peers. All else is off: the DHT, uTP,
    /// local discovery, port mapping, UDP trackers and connections from others. Other users of this machine can see the
    /// password in the list of processes
    #[arg(long, value_name = "socks5h://[USER:PASSWORD@]HOST:PORT", value_parser = values::ProxyUrl)]
    proxy: Option<Proxy>,
    /// Have nothing to do with the addresses in this file: no peer, not even one of --peer, no tracker, no web seed. Lines
    /// are NAME:FIRST-LAST (P2P), FIRST - LAST , LEVEL , NAME (DAT), or networks as 192.0.2.0/24
    #[arg(long, value_name = "FILE")]
    block_list: Option<PathBuf>,
}

impl Way {
    /// These options over the defaults.
    pub(crate) fn config(&self) -> Config {
        let Self { interface, proxy, block_list } = self.clone();
        Config { interface, proxy, block_list, ..Config::default() }
    }
}

/// How peers reach us and we reach them.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
pub(crate) struct Network {
    /// Where peers reach us, and what outgoing connections bind to unless it is the wildcard
    /// [default: [::]:6881 or the next free port]
    #[arg(long, value_name = "ADDR:PORT", value_parser = values::listen)]
    listen: Option<SocketAddr>,
    /// A peer to connect to; again and again
    #[arg(long, value_name = "ADDR:PORT")]
    peer: Vec<SocketAddr>,
    /// Upload at most this many bytes a second (KiB, MiB)
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    upload_limit: Option<u64>,
    /// Download at most this many bytes a second (KiB, MiB)
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    download_limit: Option<u64>,
    /// Peers unchoked for what they give us, besides one optimistic unchoke
    #[arg(long, value_name = "N", default_value_t = 4)]
    upload_slots: u16,
    /// Connections at the most
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    max_peers: u16,
    /// Upload nothing
    #[arg(long)]
    no_upload: bool,
    /// Encrypt connections to peers: where that lets them through, always (others are refused), or never
    #[arg(long, value_enum, default_value_t = EncryptionArgument::Prefer)]
    encryption: EncryptionArgument,
    /// Use TCP alone, no uTP
    #[arg(long)]
    no_utp: bool,
    /// Do not use the DHT
    #[arg(long)]
    no_dht: bool,
    /// Do not ask the gateway to pass our port on to us
    #[arg(long)]
    no_port_map: bool,
    /// A node that the DHT is entered by, in place of the default ones; again and again
    #[arg(long, value_name = "HOST:PORT", value_parser = values::host_and_port)]
    dht_bootstrap: Vec<String>,
    /// Do not exchange addresses of other peers with connected ones, nor introduce them to each other
    #[arg(long)]
    no_pex: bool,
    /// Do not look for peers on the local network, and do not be found there
    #[arg(long)]
    no_lsd: bool,
    #[command(flatten)]
    way: Way,
}

/// What is kept and fetched.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cache")]
pub(crate) struct Storage {
    /// Memory for pieces (KiB, MiB, GiB)
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::memory)]
    memory: u64,
    /// Keep pieces in this directory, for the next time too
    /// [default: $XDG_CACHE_HOME/swarmfs or ~/.cache/swarmfs]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// What the cache directory may take over all torrents, and never more than half of what is free (KiB, MiB, GiB); 0
    /// keeps pieces in memory only
    #[arg(long, value_name = "SIZE", default_value = "20GiB", value_parser = values::size)]
    cache_size: u64,
    /// Keep pieces in your own copy, in the layout of other clients, in place of the cache: what is there is used, what is
    /// missing is filled in as it is read, nothing is ever evicted
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// What is fetched that nobody has asked for: nothing, the rest of files that are read in order, or everything
    #[arg(long, value_enum, default_value_t = FillArgument::Open)]
    fill: FillArgument,
    /// How long a read waits before it fails (s, m, h)
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::time)]
    read_timeout: Duration,
    /// Serve a web page and metrics here (not built yet)
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EncryptionArgument {
    Prefer,
    Require,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FillArgument {
    None,
    Open,
    All,
}

/// What is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct Verbosity {
    /// Say more; twice for everything
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Network {
    /// These options over the defaults.
    pub(crate) fn config(&self) -> Config {
        let defaults = self.way.config();
        Config {
            listen: self.listen.unwrap_or(defaults.listen),
            listen_is_default: self.listen.is_none(),
            peers: self.peer.clone(),
            upload_limit: self.upload_limit,
            download_limit: self.download_limit,
            upload_slots: self.upload_slots.into(),
            max_peers: self.max_peers.into(),
            upload: !self.no_upload,
            pex: !self.no_pex,
            lsd: !self.no_lsd,
            utp: !self.no_utp,
            encryption: match self.encryption {
                EncryptionArgument::Prefer => Encryption::Prefer,
                EncryptionArgument::Require => Encryption::Require,
                EncryptionArgument::Off => Encryption::Off,
            },
            dht: !self.no_dht,
            port_map: !self.no_port_map,
            dht_bootstrap: match &*self.dht_bootstrap {
                [] => defaults.dht_bootstrap.clone(),
                nodes => nodes.to_vec(),
            },
            dht_nodes: user_dir("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("dht-nodes")),
            ..defaults
        }
    }
}

impl Storage {
    /// These options over `config`.
    pub(crate) fn apply(&self, config: Config) -> Config {
        if self.http.is_some() {
            warn!("--http is not built yet: nothing is served there");
        }
        Config {
            memory: self.memory,
            cache_dir: self.cache_dir.clone().or_else(default_cache_dir).filter(|_| self.data.is_none()),
            cache_dir_is_default: self.cache_dir.is_none(),
            cache_size: self.cache_size,
            data: self.data.clone(),
            fill: match self.fill {
                FillArgument::None => Fill::None,
                FillArgument::Open => Fill::Open,
                FillArgument::All => Fill::All,
            },
            read_timeout: self.read_timeout,
            ..config
        }
    }
}

/// `$XDG_CACHE_HOME/swarmfs`, else `~/.cache/swarmfs`; none if there is neither.
pub(crate) fn default_cache_dir() -> Option<PathBuf> {
    user_dir("XDG_CACHE_HOME", ".cache")
}

/// Our directory below the one that an environment variable names, else below this one in the home directory; none if there
/// is neither.
pub(crate) fn user_dir(variable: &str, in_home: &str) -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(in_home)));
    base.map(|base| base.join("swarmfs"))
}
