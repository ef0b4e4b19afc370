//! One swarm of libtorrent, Transmission, qBittorrent, aria2, rtorrent and swarmfs, with peer exchange, encryption and uTP in
//! whoever has them, in which somebody leaves every few seconds and comes back, with what it had or with nothing: in the end all of them have everything, nobody has banned
//! anybody, and nothing that we warned of was untrue.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::foreign::{
    LibTorrent, OpenTracker, QBittorrent, Transmission, aria2_with, swarmfs_seed_with, torrent_by_libtorrent,
};
use crate::support::lab::Lab;
use crate::support::mounts::mount_at;
use crate::support::process::{Running, swarmfs};
use crate::support::reading::assert_same_bytes;
use crate::support::{Random, wait_until};

/// How long the churn lasts, seconds.
const SECONDS: &str = "SWARMFS_TEST_CHURN_SECONDS";
const DEFAULT: u64 = 180;
/// Somebody leaves this often.
const PACE: Duration = Duration::from_secs(3);
/// What the last ones have to become complete once the churn is over.
const LIMIT: Duration = Duration::from_secs(120);
/// What the seeds give, bytes per second: so little that most comes from other leechers.
const RATE: u64 = 2 << 20;
const LIFE: Duration = Duration::from_secs(2400);

/// A leecher that seeds once it has everything.
enum Program {
    LibTorrent(LibTorrent),
    Transmission(Transmission),
    QBittorrent(QBittorrent),
    Plain(Running),
}

impl Program {
    fn process(&mut self) -> &mut Running {
        match self {
            Self::LibTorrent(LibTorrent { process, .. })
            | Self::Transmission(Transmission { process, .. })
            | Self::QBittorrent(QBittorrent { process, .. })
            | Self::Plain(process) => process,
        }
    }
}

type Start = fn(&Lab, &Path, &Path) -> Program;

const PROGRAMS: [(&str, Start); 7] = [
    ("libtorrent", |lab, torrent, dir| {
        let settings = [&["stays=1"], &LIBTORRENT[..]].concat();
        Program::LibTorrent(LibTorrent::leech_with(lab, torrent, dir, &settings))
    }),
    ("Transmission", |lab, torrent, dir| {
        // Encrypted where it can be.
        let settings = [("pex-enabled", 1), ("utp-enabled", 1), ("encryption", 1)];
        Program::Transmission(Transmission::start_with(lab, torrent, dir, &settings))
    }),
    ("qBittorrent", |lab, torrent, dir| {
        let settings = ["Session\\PeXEnabled=true", "Session\\BTProtocol=Both", "Session\\Encryption=0"];
        Program::QBittorrent(QBittorrent::start_with(lab, torrent, dir, &settings))
    }),
    ("aria2", |lab, torrent, dir| {
        // It takes what is there only if it is told to look.
        Program::Plain(aria2_with(
            lab,
            torrent,
            dir,
            &["--seed-time=600", "--check-integrity=true", "--bt-seed-unverified=false", "--enable-peer-exchange=true"],
        ))
    }),
    ("rtorrent", |lab, torrent, dir| Program::Plain(rtorrent(lab, torrent, dir))),
    ("swarmfs get", |lab, torrent, dir| Program::Plain(get(lab, torrent, dir, "prefer"))),
    ("swarmfs get, encrypted", |lab, torrent, dir| Program::Plain(get(lab, torrent, dir, "require"))),
];

/// uTP, and encryption where the other side has it.
const LIBTORRENT: [&str; 6] = [
    "enable_outgoing_utp=1",
    "enable_incoming_utp=1",
    "out_enc_policy=1",
    "in_enc_policy=1",
    "allowed_enc_level=3",
    "prefer_rc4=1",
];

fn get(lab: &Lab, torrent: &Path, dir: &Path, encryption: &str) -> Running {
    let address = lab.address();
    let mut command = swarmfs();
    command.arg("get").arg(torrent).arg("-o").arg(dir).args(["--listen", &address.to_string()]);
    command.args(["-v", "--no-dht", "--no-lsd", "--seed-time", "1h", "--encryption", encryption]);
    Running::spawn("swarmfs get", command, &lab.log(&format!("get-{}", address.ip())), LIFE)
}

fn rtorrent(lab: &Lab, torrent: &Path, dir: &Path) -> Running {
    let address = lab.address();
    let rc = lab.dir.path().join(format!("rtorrent-{}.rc", address.ip()));
    let (ip, port) = (address.ip(), address.port());
    let settings = format!(
        "system.daemon.set = true\ndirectory.default.set = \"{}\"\nnetwork.bind_address.set = {ip}\n\
         network.local_address.set = {ip}\nnetwork.port_range.set = {port}-{port}\nnetwork.port_random.set = no\n\
         dht.mode.set = disable\nprotocol.pex.set = yes\n\
         protocol.encryption.set = allow_incoming,try_outgoing,enable_retry\ntrackers.use_udp.set = no\n\
         pieces.hash.on_completion.set = no\nload.start = \"{}\"\n",
        dir.display(),
        torrent.display(),
    );
    std::fs::write(&rc, settings).expect("its settings");
    let mut command = Command::new("rtorrent");
    command.args(["-n", "-o"]).arg(format!("import={}", rc.display())).env("HOME", lab.dir.path()).env("TERM", "dumb");
    Running::spawn("rtorrent", command, &lab.log(&format!("rtorrent-{ip}")), LIFE)
}

/// True if a copy is the dataset, but for empty files, which not all of them make.
fn has_all(dataset: &Dataset, copy: &Path) -> bool {
    dataset.files.iter().filter(|file| file.length > 0).all(|file| {
        let path = copy.join(&file.path);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() == file.length => {
                std::fs::read(&path).ok() == std::fs::read(dataset.root().join(&file.path)).ok()
            }
            Ok(_) => false,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NotFound, "{path:?}: {e}");
                false
            }
        }
    })
}

/// Lines of our logs that need an explanation, and of anybody's that tell of a ban.
fn suspicious(name: &str, log: &str) -> Vec<String> {
    let ours = name.starts_with("swarmfs");
    let bad = |line: &&str| {
        let bans = line.contains(" banned") || line.contains("banning");
        bans || ours && (line.contains(" WARN ") || line.contains("ERROR") || line.contains("panicked"))
    };
    log.lines().filter(bad).map(|line| format!("{name}: {line}")).collect()
}

struct Member {
    name: &'static str,
    start: Start,
    dir: PathBuf,
    program: Option<Program>,
}

impl Member {
    /// Kills it, and says what its log told.
    fn leave(&mut self) -> Vec<String> {
        let Some(mut program) = self.program.take() else { return Vec::new() };
        suspicious(self.name, &program.process().log())
    }

    fn come(&mut self, lab: &Lab, torrent: &Path) {
        self.program = Some((self.start)(lab, torrent, &self.dir));
    }
}

#[test]
#[ignore = "needs root, FUSE, iproute2, opentracker, libtorrent, Transmission, qBittorrent, aria2 and rtorrent, and 3 minutes"]
fn everybody_completes_in_a_mixed_swarm_that_churns() {
    let churn = std::env::var(SECONDS).ok().map_or(DEFAULT, |text| text.parse().expect("seconds"));
    let seed = std::env::var("SWARMFS_SEED").ok().map_or(1, |text| text.parse().expect("a number"));
    println!("SWARMFS_SEED={seed}");
    let (dataset, lab) = (Dataset::small(), Lab::enter());
    let torrent = torrent_by_libtorrent(&dataset, 64);
    let tracker = OpenTracker::start(&lab, &[&torrent]);
    let file = torrent.write(lab.dir.path(), Some(&tracker.url()));
    let _theirs = LibTorrent::seed_with(&lab, &file, &dataset.parent, RATE, &LIBTORRENT);
    let limit = format!("{}KiB", RATE >> 10);
    let (ours, _) = swarmfs_seed_with(&lab, &file, &dataset.parent, &["-v", "--upload-limit", &limit]);
    tracker.wait_for_seeds(&torrent, 2);

    let mount = mount_at(&[&file], lab.address()).args(&["-v", "--read-timeout", "60s"]).limit(LIFE).start();
    let mut members: Vec<Member> = PROGRAMS
        .iter()
        .map(|&(name, start)| {
            let dir = lab.subdir(&name.replace([' ', ','], "-"));
            Member { name, start, dir, program: None }
        })
        .collect();
    members.iter_mut().for_each(|member| member.come(&lab, &file));

    let (end, mut random) = (Instant::now() + Duration::from_secs(churn), Random::new(seed));
    let (mut told, mut restarts, mut next) = (Vec::new(), 0, Instant::now() + PACE);
    while Instant::now() < end {
        // The mount is read all the time, and is always right.
        assert_same_bytes(&dataset, &mount.path(&dataset.name));
        rustix::fs::statfs(&mount.mountpoint).expect("the mount answers");
        if Instant::now() < next {
            std::thread::sleep(Duration::from_millis(200));
            continue;
        }
        next = Instant::now() + PACE;
        let at = usize::try_from(random.below(members.len() as u64)).expect("a member");
        let member = &mut members[at];
        told.extend(member.leave());
        if random.below(2) == 0 {
            std::fs::remove_dir_all(&member.dir).expect("its copy goes");
            std::fs::create_dir(&member.dir).expect("an empty directory");
        }
        member.come(&lab, &file);
        restarts += 1;
    }
    println!("{restarts} times somebody left and came back");
    for member in &mut members {
        let copy = member.dir.join(&dataset.name);
        let complete = || has_all(&dataset, &copy);
        let began = Instant::now();
        if !crate::support::holds_within(LIMIT, complete) {
            let log = member.program.as_mut().map(|program| program.process().log()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            panic!("{} is not complete {LIMIT:?} after the churn: {tail:#?}", member.name);
        }
        println!("{} is complete, {:.1} s after the one before", member.name, began.elapsed().as_secs_f64());
    }
    wait_until(LIMIT, "the mount reads right", || {
        assert_same_bytes(&dataset, &mount.path(&dataset.name));
        true
    });
    for way in ["utp=true", "utp=false", "sealed=true", "sealed=false"] {
        assert!(ours.log().contains(way), "nobody came to our seed that has {way}");
    }
    members.iter_mut().for_each(|member| told.extend(member.leave()));
    told.extend(suspicious("swarmfs seed", &ours.log()));
    told.extend(suspicious("swarmfs mount", &mount.log()));
    assert!(told.is_empty(), "{told:#?}");
}
