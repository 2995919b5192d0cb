//! `voicebridge keys …`: keys of the API from the command line, for the first one of an organisation and for when no server
//! answers.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::api::api_keys::REQUESTS_PER_MINUTE;
use crate::api::body::NAME;
use crate::app::open_known_store;
use crate::config::Config;
use crate::ids::OrganizationId;
use crate::keys::{KeySecret, Scope};
use crate::store::api_keys::{self, ApiKey, Changed, NewKey};
use crate::store::audit::{self, Actor, Deed};
use crate::store::{Store, organisations};

/// Keys of one page of a list.
const PAGE: u32 = 200;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Makes a key and prints its secret, this once.
    Create(CreateArgs),
    /// Lists the keys of an organisation, without their secrets.
    List(OrganizationArgs),
    /// Gives a key another secret and prints it, this once.
    Rotate(RotateArgs),
    /// Revokes a key for good.
    Revoke(KeyArgs),
}

/// Whose keys.
#[derive(Debug, Args)]
pub struct OrganizationArgs {
    /// Slug or id of the organisation.
    #[arg(long, default_value = "default")]
    organization: String,
}

/// A key to make.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    of: OrganizationArgs,
    /// Who or what will have it.
    #[arg(long)]
    name: String,
    /// What it may do, separated by commas; admin is everything, and each includes read.
    #[arg(long, value_delimiter = ',', required = true)]
    scopes: Vec<ScopeArg>,
    /// Most requests a minute to one server.
    #[arg(long, default_value_t = REQUESTS_PER_MINUTE, value_parser = clap::value_parser!(i32).range(1..=60_000))]
    requests_per_minute: i32,
    /// When it is taken no more, such as 2027-01-01T00:00:00Z; never without.
    #[arg(long)]
    expires_at: Option<Timestamp>,
}

/// One key.
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(flatten)]
    of: OrganizationArgs,
    /// Id of the key, as `keys list` prints it.
    id: Uuid,
}

/// How to rotate a key.
#[derive(Debug, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// Seconds for which the secret that it has now is taken as well.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=604_800))]
    grace_s: i64,
}

/// [`Scope`], on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScopeArg {
    /// See records.
    Read,
    /// Say something of conversations.
    Review,
    /// Call people, steer calls, change leads and campaigns.
    Operate,
    /// Everything in the organisation.
    Admin,
}

/// Does it, and says what came of it.
pub async fn run(config: &Config, command: KeysCommand) -> anyhow::Result<String> {
    let (store, cluster) = open_known_store(config).await?;
    let done = async {
        store.migrate().await.context("cannot bring the database schema up to date")?;
        carry_out(&store, command).await
    }
    .await;
    store.close().await;
    if let Some(cluster) = cluster {
        cluster.stop().await?;
    }
    done
}

/// The same in this database, whose schema is up to date. What is changed is in the audit log with it, or is not changed.
pub async fn carry_out(store: &Store, command: KeysCommand) -> anyhow::Result<String> {
    match command {
        KeysCommand::Create(args) => {
            let organization = organization(store, &args.of).await?;
            if args.name.is_empty() || args.name.chars().count() > NAME {
                bail!("--name has 1 to {NAME} characters");
            }
            if args.expires_at.is_some_and(|at| at <= Timestamp::now()) {
                bail!("--expires-at is over already");
            }
            let secret = KeySecret::generate();
            let new = NewKey {
                name: args.name,
                scopes: args.scopes.into_iter().map(Scope::from).collect(),
                requests_per_minute: args.requests_per_minute,
                expires_at: args.expires_at,
                created_by: Actor::command_line().name,
            };
            let records = store.of_organization(organization);
            let key = api_keys::create(&records, organization, &new, &secret.print())
                .await
                .context("the key cannot be made")?;
            keep(&records, organization, "api_key.created", key.id).await?;
            Ok(issued(&key, &secret))
        }
        KeysCommand::List(of) => {
            let organization = organization(store, &of).await?;
            list(store, organization).await
        }
        KeysCommand::Rotate(RotateArgs { key: KeyArgs { of, id }, grace_s }) => {
            let organization = organization(store, &of).await?;
            let (secret, grace) = (KeySecret::generate(), SignedDuration::from_secs(grace_s));
            let records = store.of_organization(organization);
            match api_keys::rotate(&records, organization, id, &secret.print(), grace).await? {
                Changed::Done(key) => {
                    keep(&records, organization, "api_key.rotated", id).await?;
                    Ok(issued(&key, &secret))
                }
                Changed::NotFound => bail!("organisation {} has no key {id}", of.organization),
                Changed::Revoked => bail!("key {id} was revoked, and stays so; make another one"),
            }
        }
        KeysCommand::Revoke(KeyArgs { of, id }) => {
            let organization = organization(store, &of).await?;
            let records = store.of_organization(organization);
            let Some(key) = api_keys::revoke(&records, organization, id).await? else {
                bail!("organisation {} has no key {id}", of.organization)
            };
            keep(&records, organization, "api_key.revoked", id).await?;
            Ok(format!("{} ({}) is taken no more\n", key.name, key.prefix))
        }
    }
}

async fn organization(store: &Store, of: &OrganizationArgs) -> anyhow::Result<OrganizationId> {
    let found = organisations::by_slug_or_id(store, &of.organization).await?;
    found.with_context(|| format!("there is no organisation {}", of.organization))
}

async fn list(store: &Store, organization: OrganizationId) -> anyhow::Result<String> {
    let mut text = format!("{:<36}  {:<15}  {:<28}  {:<20}  NAME\n", "ID", "PREFIX", "SCOPES", "STATE");
    let mut offset = 0;
    loop {
        let (keys, total) = api_keys::list(store, organization, PAGE, offset).await?;
        for key in &keys {
            let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.as_str()).collect();
            let _ = writeln!(
                text,
                "{}  {:<15}  {:<28}  {:<20}  {}",
                key.id,
                key.prefix,
                scopes.join(","),
                state(key),
                key.name
            );
        }
        offset += u64::from(PAGE);
        if offset >= total {
            return Ok(text);
        }
    }
}

fn state(key: &ApiKey) -> String {
    match (key.revoked_at, key.expires_at, key.last_used_at) {
        (Some(_), _, _) => "revoked".to_owned(),
        (None, Some(at), _) if at <= Timestamp::now() => "over".to_owned(),
        (None, _, Some(at)) => format!("used {}", at.strftime("%Y-%m-%d %H:%M")),
        (None, _, None) => "never used".to_owned(),
    }
}

fn issued(key: &ApiKey, secret: &KeySecret) -> String {
    format!("{}\nid {}; the key above is shown this once\n", secret.expose(), key.id)
}

/// Keeps what was done to this key, together with its record in the audit log.
async fn keep(
    records: &Store,
    organization: OrganizationId,
    action: &'static str,
    key: Uuid,
) -> sqlx::Result<()> {
    let deed = Deed::to(action, key);
    audit::note(records, organization, &Actor::command_line(), Uuid::now_v7(), &[deed]).await?;
    records.finish().await
}

impl From<ScopeArg> for Scope {
    fn from(scope: ScopeArg) -> Self {
        match scope {
            ScopeArg::Read => Self::Read,
            ScopeArg::Review => Self::Review,
            ScopeArg::Operate => Self::Operate,
            ScopeArg::Admin => Self::Admin,
        }
    }
}
