//! CPU time and memory of a process and everything it started, as Linux tells them.
//!
//! On other systems nothing is known, and the figures are left out.

use std::collections::{HashMap, HashSet};
use std::fs;

/// What a tree of processes has used so far, and uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// CPU time of all of them, in seconds.
    pub(super) cpu_s: f64,
    /// Of these, the root's.
    pub(super) own_cpu_s: f64,
    /// Proportional set size of all of them, in bytes.
    pub(super) memory_bytes: u64,
    /// Of these, the root's.
    pub(super) own_memory_bytes: u64,
    /// Open file descriptors of the root.
    pub(super) own_descriptors: u64,
    /// Threads of the root.
    pub(super) own_threads: u64,
}

/// Looks at the process and all below it. `None` when nothing can be known about it.
pub(super) fn usage(root: u32) -> Option<Usage> {
    let stats = all_stats();
    let own = *stats.get(&root)?;
    let mut usage = Usage {
        own_cpu_s: own.cpu_s,
        own_memory_bytes: memory(root).unwrap_or_default(),
        own_descriptors: fs::read_dir(format!("/proc/{root}/fd")).map_or(0, |all| all.count() as u64),
        own_threads: own.threads,
        ..Usage::default()
    };
    for process in tree(root, &stats) {
        usage.cpu_s += stats.get(&process).map_or(0.0, |stat| stat.cpu_s + stat.ended_cpu_s);
        usage.memory_bytes += memory(process).unwrap_or_default();
    }
    Some(usage)
}

/// CPU time so far of the process and all below it, and of the process alone, in seconds. Cheaper than [`usage`], which
/// holds the processes up for a moment.
pub(super) fn cpu(root: u32) -> Option<(f64, f64)> {
    let stats = all_stats();
    let own = stats.get(&root)?;
    let of = |process: &u32| stats.get(process).map_or(0.0, |stat| stat.cpu_s + stat.ended_cpu_s);
    Some((tree(root, &stats).iter().map(of).sum(), own.cpu_s))
}

/// CPU time of the whole machine: (busy, all), in seconds.
pub(super) fn machine() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<f64> = text
        .lines()
        .next()?
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let all: f64 = fields.iter().take(8).sum();
    let idle = fields.get(3)? + fields.get(4)?;
    Some(((all - idle) / TICKS_PER_S, all / TICKS_PER_S))
}

/// Model name of the processor.
pub(super) fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Memory of the machine in bytes.
pub(super) fn machine_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    kibibytes(text.lines().find(|line| line.starts_with("MemTotal:"))?)
}

/// Operating system and kernel.
pub(super) fn system() -> String {
    let read = |path| fs::read_to_string(path).ok();
    let name = read("/etc/os-release").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim_matches('"').to_owned())
    });
    let kernel = read("/proc/sys/kernel/osrelease").map(|text| format!("kernel {}", text.trim()));
    let parts: Vec<String> = name.into_iter().chain(kernel).collect();
    if parts.is_empty() { std::env::consts::OS.to_owned() } else { parts.join(", ") }
}

/// Linux counts CPU time for user space in these, on every machine.
const TICKS_PER_S: f64 = 100.0;

#[derive(Debug, Clone, Copy)]
struct Stat {
    parent: u32,
    cpu_s: f64,
    /// Of its children that have ended: else their time would be missing from then on.
    ended_cpu_s: f64,
    threads: u64,
}

fn all_stats() -> HashMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .filter_map(|entry| {
            let process: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((process, parse_stat(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)?))
        })
        .collect()
}

/// proc(5): the name stands in brackets and may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: number(4)? as u32,
        cpu_s: (number(14)? + number(15)?) as f64 / TICKS_PER_S,
        ended_cpu_s: (number(16)? + number(17)?) as f64 / TICKS_PER_S,
        threads: number(20)?,
    })
}

fn tree(root: u32, stats: &HashMap<u32, Stat>) -> HashSet<u32> {
    let mut found = HashSet::from([root]);
    loop {
        let before = found.len();
        found.extend(
            stats
                .iter()
                .filter(|(_, stat)| found.contains(&stat.parent))
                .map(|(process, _)| *process)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

fn memory(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    kibibytes(text.lines().find(|line| line.starts_with("Pss:"))?)
}

fn kibibytes(line: &str) -> Option<u64> {
    Some(line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_its_children_are_added_up() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let stats = all_stats();
        assert!(tree(std::process::id(), &stats).contains(&child.id()));
        let all = usage(std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(all.memory_bytes > all.own_memory_bytes, "{all:?}");
        assert!(
            all.own_memory_bytes > 1024 * 1024 && all.own_descriptors > 2 && all.own_threads > 0,
            "{all:?}"
        );
        assert_eq!(usage(u32::MAX), None);
    }

    #[test]
    fn names_with_brackets_and_spaces_do_not_confuse() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 9 9 20 0 3 0 100";
        let stat = parse_stat(stat).unwrap();
        assert_eq!((stat.parent, stat.threads), (7, 3));
        assert!((stat.cpu_s - 2.0).abs() < 1e-9);
        assert!(parse_stat("nonsense").is_none());
    }

    #[test]
    fn the_machine_is_known() {
        let (busy, all) = machine().unwrap();
        assert!(busy > 0.0 && busy < all);
        assert!(machine_memory().unwrap() > 1 << 28);
        assert!(system().contains("kernel"));
    }
}
