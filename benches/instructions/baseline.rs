//! The counts of an earlier commit, and whether today's are worse.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::cases::{Case, Counts};

/// Growth in percent that is let pass: counts of one program differ by a few tenths from run to run.
// Whether the server's look for commands, every two seconds, falls into all rounds of a count once more is up to 4 % of one.
const TOLERANCE_PERCENT: f64 = 5.0;

/// What is committed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Baseline {
    conditions: Conditions,
    counts: BTreeMap<String, Counts>,
}

/// What a count depends on beside the code: under others it cannot be compared.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conditions {
    compiler: String,
    profile: String,
    /// Allocator, copying, searching.
    libc: String,
    valgrind: String,
    /// Libraries choose among instruction sets when they run.
    processor: String,
}

impl Conditions {
    pub(crate) fn here() -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("the path of this program")?;
        let profile =
            exe.ancestors().nth(2).and_then(|dir| dir.file_name()).context("the name of the profile")?;
        Ok(Self {
            compiler: output_of("rustc", "--version")?,
            profile: profile.to_string_lossy().into_owned(),
            libc: output_of("getconf", "GNU_LIBC_VERSION")?,
            valgrind: output_of("valgrind", "--version")?,
            processor: processor(),
        })
    }
}

impl Baseline {
    pub(crate) fn new(conditions: Conditions, counts: &[(Case, Counts)]) -> Self {
        let counts = counts.iter().map(|(case, counts)| (case.name.to_owned(), *counts)).collect();
        Self { conditions, counts }
    }

    pub(crate) fn load() -> anyhow::Result<Self> {
        let text = fs::read_to_string(path()).context("there is no baseline; make one with --bless")?;
        serde_json::from_str(&text).context("the baseline cannot be read; make a new one with --bless")
    }

    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("counts are JSON")?;
        fs::write(path(), text + "\n").context("the baseline cannot be written")
    }

    pub(crate) fn of(&self, case: Case) -> Option<Counts> {
        self.counts.get(case.name).copied()
    }

    /// An error that says so when counts made under these conditions cannot be compared with it.
    pub(crate) fn check(&self, conditions: &Conditions) -> anyhow::Result<()> {
        ensure!(
            self.conditions == *conditions,
            "the counts cannot be compared with the baseline, which was made under other conditions; if that is meant, \
             make a new one: make counts BLESS=1\n  then: {}\n  now:  {conditions}",
            self.conditions
        );
        Ok(())
    }

    /// What has changed by more than is let pass.
    pub(crate) fn compare(&self, counts: &[(Case, Counts)]) -> Comparison {
        let mut found = Comparison::default();
        for (case, now) in counts {
            let name = case.name;
            let Some(then) = self.of(*case) else {
                found.problems.push(format!("{name} is not in the baseline: make counts BLESS=1"));
                continue;
            };
            for ((what, then), (_, now)) in then.parts().into_iter().zip(now.parts()) {
                let change = change_percent(then, now);
                if change > TOLERANCE_PERCENT {
                    found.problems.push(format!(
                        "{name}: {what} costs {now} instructions and cost {then}, {change:.1} % more. More than \
                         {TOLERANCE_PERCENT} % needs a new baseline in the same commit: make counts BLESS=1"
                    ));
                } else if change < -TOLERANCE_PERCENT {
                    found.hints.push(format!(
                        "{name}: {what} costs {now} instructions and cost {then}. Hold on to it: make counts BLESS=1"
                    ));
                }
            }
        }
        found
    }
}

/// What a comparison found: what fails, and what is worth knowing.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) problems: Vec<String>,
    pub(crate) hints: Vec<String>,
}

impl std::fmt::Display for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { compiler, profile, libc, valgrind, processor } = self;
        write!(f, "{compiler}, profile {profile}, {libc}, {valgrind}, {processor}")
    }
}

pub(crate) fn change_percent(then: u64, now: u64) -> f64 {
    (now as f64 / then.max(1) as f64 - 1.0) * 100.0
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.baseline.json")
}

fn output_of(program: &str, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(argument).output();
    let output = output.with_context(|| format!("{program} {argument} cannot be run"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The architecture, and of the instruction sets that libraries ask for those that are here.
fn processor() -> String {
    let mut name = std::env::consts::ARCH.to_owned();
    #[cfg(target_arch = "x86_64")]
    for (set, here) in [
        ("sse4.2", std::arch::is_x86_feature_detected!("sse4.2")),
        ("avx", std::arch::is_x86_feature_detected!("avx")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("bmi2", std::arch::is_x86_feature_detected!("bmi2")),
        ("aes", std::arch::is_x86_feature_detected!("aes")),
        ("pclmulqdq", std::arch::is_x86_feature_detected!("pclmulqdq")),
    ] {
        if here {
            name.push(' ');
            name.push_str(set);
        }
    }
    name
}
