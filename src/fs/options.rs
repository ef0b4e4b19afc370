//! The mount's options: our own and those that mount(8) passes with `-o`.

use rustix::mount::MountFlags;

/// How a mount looks and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Other users may read the mount too. Default: only the user who mounts.
    pub allow_other: bool,
    /// The kernel reads files that are whole in the disk store by itself, where it can. Default: it does.
    pub passthrough: bool,
    /// What `mount` and `df` show as the source. Default `swarmfs`.
    pub fs_name: String,
    /// What follows `-o`, each a list with commas in between, as mount(8) passes it.
    pub extra: Vec<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { allow_other: false, passthrough: true, fs_name: "swarmfs".to_owned(), extra: Vec::new() }
    }
}

/// Options understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) allow_other: bool,
    /// Holds no comma and no control character.
    pub(super) fs_name: String,
    /// The mountpoint may hold files, which the mount hides.
    pub(super) nonempty: bool,
    /// The largest READ, bytes.
    pub(super) max_read: Option<u32>,
    pub(super) flags: MountFlags,
}

/// mount(2) flags by their mount(8) names; those without a flag are the defaults.
const FLAGS: [(&str, MountFlags); 14] = [
    ("ro", MountFlags::empty()),
    ("nodev", MountFlags::empty()),
    ("nosuid", MountFlags::empty()),
    ("exec", MountFlags::empty()),
    ("atime", MountFlags::empty()),
    ("diratime", MountFlags::empty()),
    ("async", MountFlags::empty()),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
    ("relatime", MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME),
    ("lazytime", MountFlags::LAZYTIME),
    ("sync", MountFlags::SYNCHRONOUS),
];

/// For mount(8), fstab and systemd, or always on.
const IGNORED: [&str; 14] = [
    "defaults",
    "default_permissions",
    "_netdev",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "silent",
    "loud",
    "comment",
];

/// fusermount3 knows these flags; it refuses a mount with any other.
const HELPER_FLAGS: [(&str, MountFlags); 3] =
    [("noexec", MountFlags::NOEXEC), ("noatime", MountFlags::NOATIME), ("sync", MountFlags::SYNCHRONOUS)];

impl Parsed {
    /// # Errors
    /// One sentence on the first option that is refused.
    pub(super) fn new(options: &MountOptions) -> Result<Self, String> {
        let mut parsed = Self {
            allow_other: options.allow_other,
            fs_name: sanitised(&options.fs_name),
            nonempty: false,
            max_read: None,
            flags: MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID,
        };
        for option in options.extra.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|o| !o.is_empty()) {
            parsed.apply(option)?;
        }
        Ok(parsed)
    }

    fn apply(&mut self, option: &str) -> Result<(), String> {
        if let Some((_, flag)) = FLAGS.iter().find(|(name, _)| *name == option) {
            self.flags |= *flag;
            return Ok(());
        }
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("allow_other", None) => self.allow_other = true,
            ("nonempty", None) => self.nonempty = true,
            ("fsname", Some(value)) => self.fs_name = sanitised(value),
            ("subtype", Some("swarmfs")) => {}
            ("subtype", Some(_)) => {
                return Err(format!("-o {option} is refused: the type is always fuse.swarmfs, leave subtype out"));
            }
            ("max_read", Some(value)) => {
                let bytes = value.parse().ok().filter(|bytes| *bytes >= 4096);
                self.max_read =
                    Some(bytes.ok_or_else(|| format!("-o {option} is refused: give a number of bytes from 4096 on"))?);
            }
            ("rw", None) => return Err("-o rw is refused: torrents are read-only, use ro or leave it out".to_owned()),
            ("dev" | "suid", None) => {
                return Err(format!("-o {option} is refused: a torrent has no devices and no set-user-id programs"));
            }
            (name, _) if IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("X-") => {}
            _ => return Err(format!("-o {option} is not known: leave it out")),
        }
        Ok(())
    }

    /// The data of mount(2), except the descriptor and the owner.
    pub(super) fn data(&self) -> String {
        let mut data = "default_permissions".to_owned();
        if self.allow_other {
            data.push_str(",allow_other");
        }
        if let Some(bytes) = self.max_read {
            data.push_str(&format!(",max_read={bytes}"));
        }
        data
    }

    /// What fusermount3 takes after `-o`.
    pub(super) fn helper_options(&self) -> String {
        let mut list = format!("ro,nodev,nosuid,fsname={},subtype=swarmfs,{}", self.fs_name, self.data());
        for (name, _) in HELPER_FLAGS.iter().filter(|(_, flag)| self.flags.contains(*flag)) {
            list.push(',');
            list.push_str(name);
        }
        list
    }
}

/// A source name that cannot be taken for further options or break a line of the mount table.
fn sanitised(name: &str) -> String {
    let clean = |c: char| if c == ',' || c == '\\' || c.is_control() { '_' } else { c };
    let name: String = name.chars().map(clean).collect();
    if name.is_empty() { "swarmfs".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> Result<Parsed, String> {
        let extra = extra.iter().map(|&s| s.to_owned()).collect();
        Parsed::new(&MountOptions { extra, ..MountOptions::default() })
    }

    #[test]
    fn what_mount_8_passes_is_taken() {
        let parsed = parse(&["ro,nosuid,nodev,noatime", "_netdev,x-systemd.automount,user,noauto,nofail,defaults"]);
        let parsed = parsed.expect("all are known");
        assert!(parsed.flags.contains(MountFlags::RDONLY | MountFlags::NOATIME));
        assert!(!parsed.allow_other && !parsed.nonempty);
        let parsed = parse(&["allow_other,nonempty,fsname=a b,max_read=65536,subtype=swarmfs,noexec"]).expect("known");
        assert!(parsed.allow_other && parsed.nonempty);
        assert_eq!(parsed.data(), "default_permissions,allow_other,max_read=65536");
        assert!(parsed.helper_options().ends_with(",noexec"));
        assert!(parsed.helper_options().contains("fsname=a b,"));
    }

    #[test]
    fn what_cannot_be_is_refused_in_one_sentence() {
        for option in ["rw", "subtype=ext4", "max_read=many", "max_read=1", "suid", "bogus", "bogus=1", "direct_io"] {
            let reason = parse(&[option]).expect_err(option);
            assert!(reason.contains(option) && !reason.contains('\n'), "{reason}");
        }
    }

    #[test]
    fn a_name_never_becomes_an_option() {
        let options = MountOptions { fs_name: "a,allow_other\\\n".to_owned(), ..MountOptions::default() };
        assert_eq!(Parsed::new(&options).expect("fine").fs_name, "a_allow_other__");
    }
}
