//! What a process has cost so far, by /proc.

use std::time::Duration;

/// CPU time and memory of a process and of those that it started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time, with that of children that have ended.
    pub(crate) cpu: Duration,
    /// Resident memory now, bytes.
    pub(crate) resident: u64,
    /// The most resident memory there was, bytes: the sum of each process's own.
    pub(crate) peak: u64,
}

/// Of this process and its children; what has ended and been waited for counts nothing but its parent's share.
pub(crate) fn usage(pid: u32) -> Usage {
    // SAFETY: sysconf reads a constant.
    let second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100);
    let mut all = Usage::default();
    let mut left = vec![pid];
    while let Some(pid) = left.pop() {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = read("stat");
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').skip(11).take(4);
        let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
        all.cpu += Duration::from_millis(ticks * 1000 / second);
        let status = read("status");
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        all.resident += bytes("VmRSS:");
        all.peak += bytes("VmHWM:");
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            left.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}

/// User and system time of this thread so far.
pub(crate) fn thread_cpu() -> Duration {
    // SAFETY: `timespec` is plain data, and the call writes nothing else.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        time
    };
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}
