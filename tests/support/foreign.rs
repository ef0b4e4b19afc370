//! Other people's programs: opentracker, libtorrent (through `lt.py`), Transmission, aria2 and qBittorrent.
//!
//! They talk in a [`Lab`], which nothing that they do can leave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::dataset::Dataset;
use super::lab::Lab;
use super::process::{Running, output, succeed};
use super::torrent::Torrent;
use super::wait_until;

/// libtorrent's settings for uTP and nothing else.
pub(crate) const UTP_ONLY: [&str; 4] =
    ["enable_outgoing_tcp=0", "enable_incoming_tcp=0", "enable_outgoing_utp=1", "enable_incoming_utp=1"];

/// Longer than any whole test here takes: half an hour of churn.
const LIFE: Duration = Duration::from_secs(2400);

/// The torrent of a dataset as libtorrent makes it.
#[track_caller]
pub(crate) fn torrent_by_libtorrent(dataset: &Dataset, piece_kib: u64) -> Torrent {
    let path = dataset.kept(&format!("info-{piece_kib}"), |path| {
        let mut make = libtorrent();
        make.arg("make").arg(dataset.root()).arg(path).arg(piece_kib.to_string());
        succeed(&mut make, Duration::from_secs(120));
    });
    let info = std::fs::read(&path).expect("the info dictionary");
    Torrent::from_info(&dataset.name, info, piece_kib << 10, dataset.length())
}

/// `lt.py` under the Python that has libtorrent: `SWARMFS_TEST_PYTHON`, which tests/run sets, or python3.
pub(crate) fn libtorrent() -> Command {
    let python = std::env::var_os("SWARMFS_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/lt.py"));
    command
}

/// opentracker (Debian's build, which knows only the torrents on its list).
pub(crate) struct OpenTracker {
    pub(crate) address: SocketAddr,
    _process: Running,
}

impl OpenTracker {
    #[track_caller]
    pub(crate) fn start(lab: &Lab, torrents: &[&Torrent]) -> Self {
        let address = SocketAddr::from((lab.address().ip(), 6969));
        let dir = lab.subdir(&format!("opentracker-{}", address.ip()));
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).expect("its mode");
        let list: String = torrents.iter().map(|torrent| torrent.hex() + "\n").collect();
        std::fs::write(dir.join("wl.txt"), list).expect("the whitelist");
        let mut command = Command::new("opentracker");
        command.args(["-i", &address.ip().to_string(), "-p", "6969", "-P", "6969", "-d"]);
        command.arg(&dir).args(["-u", "nobody", "-w", "/wl.txt"]);
        // It becomes the user nobody, and so loses the parent-death signal.
        let process =
            Running::spawn_held("opentracker", &command, &lab.log(&format!("opentracker-{}", address.ip())), LIFE);
        wait_until(Duration::from_secs(5), "opentracker answers", || TcpStream::connect(address).is_ok());
        Self { address, _process: process }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/announce", self.address)
    }

    /// (seeds, leechers) by its own count.
    pub(crate) fn scrape(&self, torrent: &Torrent) -> Option<(u64, u64)> {
        let query: String = torrent.info_hash.iter().map(|byte| format!("%{byte:02x}")).collect();
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(stream, "GET /scrape?info_hash={query} HTTP/1.0\r\nHost: t\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let number = |key: &str| answer.split_once(key)?.1.split_once('e')?.0.parse().ok();
        Some((number("8:completei")?, number("10:incompletei")?))
    }

    #[track_caller]
    pub(crate) fn wait_for_seeds(&self, torrent: &Torrent, seeds: u64) {
        wait_until(Duration::from_secs(60), "the tracker knows the seeds", || {
            self.scrape(torrent).is_some_and(|(complete, _)| complete >= seeds)
        });
    }
}

/// A libtorrent session with one torrent.
pub(crate) struct LibTorrent {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
    status: PathBuf,
}

impl LibTorrent {
    /// Seeds `data`; at most `rate` bytes per second, 0 for no limit.
    #[track_caller]
    pub(crate) fn seed(lab: &Lab, torrent: &Path, data: &Path, rate: u64) -> Self {
        Self::seed_with(lab, torrent, data, rate, &[])
    }

    /// As `seed`, with these of libtorrent's settings, as `tick_interval=10`.
    #[track_caller]
    pub(crate) fn seed_with(lab: &Lab, torrent: &Path, data: &Path, rate: u64, settings: &[&str]) -> Self {
        let mut more = vec![rate.to_string()];
        more.extend(settings.iter().map(|setting| (*setting).to_owned()));
        Self::start(lab, "seed", torrent, data, &more)
    }

    /// Downloads into `dir`; the process ends with success when all of it is there.
    #[track_caller]
    pub(crate) fn leech(lab: &Lab, torrent: &Path, dir: &Path) -> Self {
        Self::leech_with(lab, torrent, dir, &[])
    }

    /// As `leech`, with these of libtorrent's settings, as `tick_interval=10`.
    #[track_caller]
    pub(crate) fn leech_with(lab: &Lab, torrent: &Path, dir: &Path, settings: &[&str]) -> Self {
        let more: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self::start(lab, "leech", torrent, dir, &more)
    }

    /// As `leech`, from these peers only.
    #[track_caller]
    pub(crate) fn leech_from(lab: &Lab, torrent: &Path, dir: &Path, peers: &[SocketAddr]) -> Self {
        let peers: Vec<String> = peers.iter().map(SocketAddr::to_string).collect();
        Self::start(lab, "leech", torrent, dir, &peers)
    }

    fn start(lab: &Lab, verb: &str, torrent: &Path, dir: &Path, more: &[String]) -> Self {
        Self::start_at(lab, lab.address(), verb, torrent, dir, more)
    }

    /// `lt.py VERB TORRENT DIR` with what follows the address there.
    pub(crate) fn start_at(
        lab: &Lab,
        address: SocketAddr,
        verb: &str,
        torrent: &Path,
        dir: &Path,
        more: &[String],
    ) -> Self {
        let name = format!("libtorrent-{verb}-{}", address.ip());
        let status = lab.dir.path().join(format!("{name}.json"));
        let mut command = libtorrent();
        command.arg(verb).arg(torrent).arg(dir).arg(address.to_string()).arg(&status).args(more);
        let command = lab.placed(command, address);
        let process = Running::spawn(&name, command, &lab.log(&name), LIFE);
        Self { process, address, status }
    }

    /// Waits for the end of a download; returns how long that took. Fails the test when not all of it is there within
    /// `limit`.
    #[track_caller]
    pub(crate) fn complete(&mut self, limit: Duration) -> Duration {
        match self.process.wait(limit) {
            Some((status, took)) if status.success() => took,
            end => panic!("libtorrent has {} of it within {limit:?}: {end:?} {}", self.done(), self.process.log()),
        }
    }

    fn number(&self, key: &str) -> f64 {
        let text = std::fs::read(&self.status).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        status[key].as_f64().unwrap_or(0.0)
    }

    /// True once it has said how it is.
    pub(crate) fn runs(&self) -> bool {
        self.status.exists()
    }

    /// Payload bytes that it has sent.
    pub(crate) fn uploaded(&self) -> f64 {
        self.number("uploaded")
    }

    /// Payload bytes that it has received.
    pub(crate) fn downloaded(&self) -> f64 {
        self.number("downloaded")
    }

    /// Peers that it is connected to.
    pub(crate) fn peers(&self) -> f64 {
        self.number("peers")
    }

    /// The share that it has, 0 to 1.
    pub(crate) fn done(&self) -> f64 {
        self.number("done")
    }
}

/// transmission-daemon with one torrent.
pub(crate) struct Transmission {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
    rpc: String,
}

impl Transmission {
    /// Starts it on `dir`: what is there already is verified and seeded, the rest is downloaded.
    #[track_caller]
    pub(crate) fn start(lab: &Lab, torrent: &Path, dir: &Path) -> Self {
        Self::start_with(lab, torrent, dir, &[])
    }

    /// As `start`, with these settings in place of others.
    #[track_caller]
    pub(crate) fn start_with(lab: &Lab, torrent: &Path, dir: &Path, more: &[(&str, i64)]) -> Self {
        let address = lab.address();
        let config = lab.subdir(&format!("transmission-{}", address.ip()));
        let control = Lab::control(address).to_string();
        let rpc = format!("{control}:9091");
        // It would ask trackers from the IPv4 address whatever theirs is.
        let (v4, v6) =
            if lab.v6 { ("0.0.0.0", address.ip()) } else { (control.as_str(), Ipv6Addr::UNSPECIFIED.into()) };
        let mut settings = serde_json::json!({
            "bind-address-ipv4": v4, "bind-address-ipv6": v6.to_string(), "peer-port": address.port(),
            "peer-port-random-on-start": false, "rpc-bind-address": control, "rpc-port": 9091,
            "rpc-whitelist-enabled": false, "rpc-host-whitelist-enabled": false, "rpc-authentication-required": false,
            "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
            "port-forwarding-enabled": false, "preallocation": 0, "download-dir": dir, "start-added-torrents": true,
            "upload-slots-per-torrent": 16, "watch-dir-enabled": false, "message-level": 2,
        });
        for &(key, value) in more {
            let flag = settings[key].is_boolean();
            settings[key] = if flag { (value != 0).into() } else { value.into() };
        }
        std::fs::write(config.join("settings.json"), settings.to_string()).expect("its settings");
        let mut command = Command::new("transmission-daemon");
        command.args(["-f", "--log-info", "-g"]).arg(&config);
        let name = format!("transmission-{}", address.ip());
        let process = Running::spawn(&name, command, &lab.log(&name), LIFE);
        let this = Self { process, address, rpc };
        wait_until(Duration::from_secs(15), "Transmission answers", || this.remote(&["-si"]).is_some());
        let torrent = torrent.to_str().expect("a UTF-8 path");
        let added = this.remote(&["-a", torrent, "-w", dir.to_str().expect("a UTF-8 path")]);
        assert!(added.as_deref().is_some_and(|text| text.contains("success")), "Transmission refuses: {added:?}");
        this
    }

    fn remote(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new("transmission-remote");
        let answer = output(command.arg(&self.rpc).args(args), Duration::from_secs(10));
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// True when it has and has verified everything.
    pub(crate) fn is_complete(&self) -> bool {
        self.remote(&["-t", "1", "-i"]).is_some_and(|text| {
            text.contains("Percent Done: 100%") && !text.contains("State: Verifying") && !text.contains("Will Verify")
        })
    }

    /// What it says of its torrent, for messages.
    pub(crate) fn info(&self) -> String {
        self.remote(&["-t", "1", "-i"]).unwrap_or_default() + &self.remote(&["-t", "1", "-ip"]).unwrap_or_default()
    }

    /// Payload bytes that it has sent, rounded as it prints them: 0 when nothing was.
    pub(crate) fn has_uploaded(&self) -> bool {
        let info = self.info();
        let line = info.lines().find_map(|line| line.trim().strip_prefix("Uploaded: ").map(str::to_owned));
        line.is_some_and(|size| size != "None" && !size.starts_with("0 "))
    }
}

/// aria2 as a leecher: the process ends with success when all of it is there.
#[track_caller]
pub(crate) fn aria2(lab: &Lab, torrent: &Path, dir: &Path) -> Running {
    aria2_with(lab, torrent, dir, &[])
}

/// As `aria2`, with more options.
#[track_caller]
pub(crate) fn aria2_with(lab: &Lab, torrent: &Path, dir: &Path, options: &[&str]) -> Running {
    let address = lab.address();
    let mut command = Command::new("aria2c");
    command.args(["--seed-time=0", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
    command.args(["--enable-peer-exchange=false", "--file-allocation=none", "--summary-interval=0", "--no-conf"]);
    command.args(["--console-log-level=warn", "--check-certificate=false"]);
    command.arg(format!("--interface={}", address.ip())).arg(format!("--listen-port={}", address.port()));
    command.args(options).arg("-d").arg(dir).arg(torrent);
    Running::spawn("aria2", command, &lab.log(&format!("aria2-{}", address.ip())), LIFE)
}

/// qBittorrent with one torrent.
pub(crate) struct QBittorrent {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
    api: SocketAddr,
}

impl QBittorrent {
    /// Starts it on `dir`: what is there already is verified and seeded, the rest is downloaded.
    #[track_caller]
    pub(crate) fn start(lab: &Lab, torrent: &Path, dir: &Path) -> Self {
        Self::start_with(lab, torrent, dir, &[])
    }

    /// As `start`, with more lines of its `[BitTorrent]` settings, as `Session\\Encryption=1`.
    #[track_caller]
    pub(crate) fn start_with(lab: &Lab, torrent: &Path, dir: &Path, more: &[&str]) -> Self {
        let address = lab.address();
        let name = format!("qbittorrent-{}", address.port());
        let profile = lab.subdir(&format!("qbittorrent-{}", address.ip()));
        let config = profile.join("qBittorrent/config");
        std::fs::create_dir_all(&config).expect("a directory");
        let api = SocketAddr::from((Lab::control(address), 8080));
        let settings = format!(
            "[LegalNotice]\nAccepted=true\n[BitTorrent]\nSession\\DHTEnabled=false\nSession\\LSDEnabled=false\n\
             Session\\PeXEnabled=false\nSession\\BTProtocol=TCP\nSession\\InterfaceAddress={}\nSession\\Port={}\n\
             Session\\SSRFMitigation=false\nSession\\QueueingSystemEnabled=false\nSession\\Preallocation=false\n{}\n\
             [Network]\nPortForwardingEnabled=false\n[Preferences]\nConnection\\UPnP=false\nWebUI\\Enabled=true\n\
             WebUI\\Address={}\nWebUI\\Port={}\nWebUI\\UseUPnP=false\nWebUI\\HostHeaderValidation=false\n\
             WebUI\\LocalHostAuth=false\nWebUI\\AuthSubnetWhitelistEnabled=true\nWebUI\\AuthSubnetWhitelist=0.0.0.0/0\n",
            address.ip(),
            address.port(),
            more.join("\n"),
            api.ip(),
            api.port(),
        );
        std::fs::write(config.join("qBittorrent.conf"), settings).expect("its settings");
        let mut command = Command::new("qbittorrent-nox");
        command.arg(format!("--profile={}", profile.display())).arg(format!("--save-path={}", dir.display()));
        command.args(["--add-paused=false", "--skip-dialog=true"]).arg(torrent).env("HOME", &profile);
        let process = Running::spawn(&name, command, &lab.log(&name), LIFE);
        let this = Self { process, address, api };
        wait_until(Duration::from_secs(30), "qBittorrent has the torrent", || this.info().is_some());
        this
    }

    /// What it says of its torrent.
    pub(crate) fn info(&self) -> Option<serde_json::Value> {
        let list: serde_json::Value = serde_json::from_slice(&self.ask("GET", "info", "")?).ok()?;
        list.get(0).cloned()
    }

    /// Lets it dial a peer.
    #[track_caller]
    pub(crate) fn add_peer(&self, info_hash: &str, peer: SocketAddr) {
        let answer = self.ask("POST", "addPeers", &format!("hashes={info_hash}&peers={peer}"));
        let answer = String::from_utf8_lossy(&answer.expect("an answer")).into_owned();
        assert!(answer.contains("\"added\":1"), "qBittorrent takes no peer: {answer}");
    }

    fn ask(&self, method: &str, what: &str, form: &str) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(self.api).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let (kind, length) = ("application/x-www-form-urlencoded", form.len());
        let head = format!("Host: t\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}");
        write!(stream, "{method} /api/v2/torrents/{what} HTTP/1.1\r\n{head}\r\n\r\n{form}").ok()?;
        // It keeps the connection open whatever it is asked.
        let mut reader = BufReader::new(stream);
        let head = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        let length = head.filter_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).last()?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        Some(body)
    }

    /// True when it has and has verified everything, and seeds it.
    pub(crate) fn is_complete(&self) -> bool {
        let seeds = |info: serde_json::Value| matches!(info["state"].as_str(), Some("uploading" | "stalledUP"));
        self.info().is_some_and(seeds)
    }
}

/// `swarmfs seed` of a dataset.
#[track_caller]
pub(crate) fn swarmfs_seed(lab: &Lab, torrent: &Path, data: &Path) -> (Running, SocketAddr) {
    swarmfs_seed_with(lab, torrent, data, &[])
}

/// As `swarmfs_seed`, with more options.
#[track_caller]
pub(crate) fn swarmfs_seed_with(lab: &Lab, torrent: &Path, data: &Path, options: &[&str]) -> (Running, SocketAddr) {
    let address = lab.address();
    let mut command = super::process::swarmfs();
    command.arg("seed").arg(torrent).arg("--data").arg(data).args(["--listen", &address.to_string()]);
    command.args(["-v", "--no-dht", "--no-lsd"]).args(options);
    (Running::spawn("swarmfs seed", command, &lab.log(&format!("seed-{}", address.ip())), LIFE), address)
}
