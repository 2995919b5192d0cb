//! What the demo prints.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::checks::{Check, Truth};
use super::client::Row;
use crate::app::Running;

/// Prints each row once, and again when a newer revision of it appears.
#[derive(Default)]
pub(super) struct Watch(BTreeMap<String, i32>);

impl Watch {
    /// True when something was new.
    pub(super) fn show(&mut self, rows: &[Row]) -> bool {
        let mut news = false;
        for row in rows {
            let seen = self.0.insert(row.item_id.clone(), row.revision);
            if seen.is_none_or(|revision| revision < row.revision) {
                println!("  {:>5}  {:<9}  {}", row.sequence, speaker(row), line(row));
                news = true;
            }
        }
        news
    }

    pub(super) fn rows(&self) -> usize {
        self.0.len()
    }
}

fn speaker(row: &Row) -> &str {
    match row.role.as_str() {
        "user" => "caller",
        "assistant" => "agent",
        other => other,
    }
}

fn line(row: &Row) -> String {
    if let Some(tool) = &row.tool_name {
        return format!(
            "{tool}({}) -> {}",
            row.generated_content.as_deref().unwrap_or_default(),
            row.content
        );
    }
    let cut = if row.interrupted { " — interrupted" } else { "" };
    format!("{}{cut}", row.content)
}

/// What is claimed and whether it holds. True when all of it does.
pub(super) fn checks(checks: &[Check]) -> bool {
    println!("\nChecked:\n");
    for check in checks {
        println!("  {} {}", if check.holds { "ok    " } else { "UNTRUE" }, check.claim);
        if !check.holds {
            println!("         {}", check.found);
        }
    }
    let untrue = checks.iter().filter(|check| !check.holds).count();
    match untrue {
        0 => println!("\nAll of it is true."),
        n => println!("\n{n} of {} claims are untrue.", checks.len()),
    }
    untrue == 0
}

pub(super) fn interruption(truth: &Truth) {
    let Some(row) = truth.interrupted() else { return };
    println!("\nThe interrupted turn:\n");
    println!("  generated  {}", row.generated_content.as_deref().unwrap_or_default());
    println!("  heard      {}", row.content);
    if let (Some(believed), Some(heard)) = (row.heard_until_ms, truth.heard_of_interrupted_ms()) {
        let evidence = row.evidence.as_deref().unwrap_or("unknown");
        println!(
            "  cut at     {believed} ms by our {evidence}; the caller's telephone had played {heard:.1} ms of it"
        );
    }
}

pub(super) fn latencies(truth: &Truth) {
    println!("\nLatencies:\n");
    for utterance in truth.call.caller.utterances.iter().filter(|utterance| utterance.latency_ms.is_some()) {
        let latency = utterance.latency_ms.unwrap_or_default();
        println!(
            "  {latency:>6.0} ms  from the caller's last sound to the answer's first ({})",
            utterance.what
        );
    }
    for direction in ["caller", "agent"] {
        if let Some((count, bound)) = truth.added_latency(direction, 0.99) {
            let bound = Duration::from_secs_f64(bound);
            println!(
                "  {bound:>9.0?}  or less was added by us to 99 % of {count} messages from the {direction}"
            );
        }
    }
    println!("  {:>6.0} ms  for the webhook", truth.call.caller.webhook_ms);
}

pub(super) fn what_to_open(running: &Running) {
    let (base, key) = (running.public_url.as_str(), running.admin_key.expose_secret());
    println!("\nThe server goes on. Try:\n");
    println!("  curl -H 'Authorization: Bearer {key}' {base}/api/leads");
    println!("  curl {base}/openapi.json");
    println!("  curl {base}/metrics");
    println!("\nCtrl-C stops it and removes its data.");
}
