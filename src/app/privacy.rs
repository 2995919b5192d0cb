//! What is not to be kept, from the command line: by its age, or because it is of somebody who is to be forgotten.

use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use uuid::Uuid;

use crate::app::{open_known_store, retention};
use crate::config::Config;
use crate::ids::{OrganizationId, PhoneNumber};
use crate::store::audit::Actor;
use crate::store::privacy::Patience;
use crate::store::privacy::erasure::{self, Erased, Report, Subject};
use crate::store::privacy::retention::{self as kept, Removed, Run, Trigger};
use crate::store::{Store, organisations};

/// `voicebridge retention`.
#[derive(Debug, Args)]
pub struct RetentionOptions {
    /// Says what would be removed, and removes nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// The organisation, by its slug; all of them where it is absent.
    #[arg(long, value_name = "SLUG")]
    pub organization: Option<String>,
}

/// `voicebridge erase`.
#[derive(Args)]
pub struct EraseOptions {
    /// Whoever has this number, with `+` and country code.
    #[arg(long, value_name = "NUMBER", required_unless_present = "lead", conflicts_with = "lead")]
    pub phone: Option<String>,
    /// This lead, and whoever has its number.
    #[arg(long, value_name = "ID")]
    pub lead: Option<i64>,
    /// The organisation, by its slug.
    #[arg(long, value_name = "SLUG", default_value = "default")]
    pub organization: String,
    /// Deletes. Without it: says what would be deleted.
    #[arg(long)]
    pub yes: bool,
}

/// Removes what is too old by the policies of organisations, or says what that is.
pub async fn remove_old(config: &Config, options: &RetentionOptions) -> anyhow::Result<()> {
    on_store(config, async |store| {
        let chosen = match &options.organization {
            Some(slug) => vec![(slug.clone(), by_slug(store, slug).await?)],
            None => organisations::all(store).await?,
        };
        for (slug, organization) in chosen {
            if options.dry_run {
                let days = kept::policy(store, organization).await?.looked_at();
                tell_run(&slug, &kept::dry_run(store, organization, days, Trigger::Command).await?);
                continue;
            }
            let progress = |removed: &Removed| {
                println!("{slug}: {} rows of {} ({})", removed.rows, removed.table, removed.what);
            };
            match retention::run_now(store, organization, progress).await? {
                Some(run) => tell_run(&slug, &run),
                None => println!("{slug}: everything is kept: no policy is in force"),
            }
        }
        Ok(())
    })
    .await
}

/// Erases somebody, or says what that would delete.
pub async fn erase(config: &Config, options: &EraseOptions) -> anyhow::Result<()> {
    let subject = match (&options.phone, options.lead) {
        (Some(phone), None) => Subject::Phone(PhoneNumber::parse(phone).context("--phone")?),
        (None, Some(lead)) => Subject::Lead(lead),
        _ => bail!("either --phone or --lead is needed"),
    };
    on_store(config, async |store| {
        let organization = by_slug(store, &options.organization).await?;
        let (actor, run) = (Actor::command_line(), Uuid::now_v7());
        match erasure::erase(store, organization, &subject, !options.yes, (&actor, run), Patience::Command)
            .await?
        {
            Erased::Done(report) => tell_erasure(&report),
            Erased::NoLead => bail!("there is no such lead in {}", options.organization),
            Erased::OwnNumber => {
                bail!("this number is the organisation's own, or of somebody who answers its calls")
            }
            Erased::Live => {
                bail!("they are on the telephone or being called right now; try again when that is over")
            }
        }
        Ok(())
    })
    .await
}

async fn on_store(
    config: &Config,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (store, cluster) = open_known_store(config).await?;
    let done = match store.migrate().await.context("cannot bring the database schema up to date") {
        Ok(()) => work(&store).await,
        Err(error) => Err(error),
    };
    store.close().await;
    if let Some(cluster) = cluster {
        cluster.stop().await?;
    }
    done
}

async fn by_slug(store: &Store, slug: &str) -> anyhow::Result<OrganizationId> {
    organisations::by_slug_or_id(store, slug)
        .await?
        .with_context(|| format!("there is no organisation {slug}"))
}

fn tell_run(slug: &str, run: &Run) {
    let (verb, days) = (if run.dry_run { "would go" } else { "removed" }, run.days);
    let kept = |days: Option<i32>| days.map_or_else(|| "for ever".to_owned(), |days| format!("{days} days"));
    println!("{slug}: words are kept {}, payloads {}", kept(days.transcript_days), kept(days.payload_days));
    for Removed { table, what, rows, oldest } in &run.counts {
        let since =
            oldest.map(|oldest: Timestamp| format!(", the oldest of {oldest:.0}")).unwrap_or_default();
        println!("  {verb}: {rows} rows of {table} ({what}){since}");
    }
    if run.counts.is_empty() {
        println!("  nothing is too old");
    }
}

fn tell_erasure(report: &Report) {
    let verb = if report.dry_run { "would be deleted" } else { "deleted" };
    println!("calls: {}", report.calls);
    for count in &report.counts {
        println!("{verb}: {} rows of {}", count.rows, count.table);
    }
    if report.counts.is_empty() {
        println!("nothing is on record");
    }
    if report.kept_do_not_call {
        println!("the number stays on the do-not-call list, so that nobody calls it");
    }
    if report.dry_run {
        println!("nothing was changed; --yes deletes");
    }
}
