//! The store against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "these are tests from top to bottom")]

#[path = "../support/mod.rs"]
mod support;

mod carrier;
mod cluster;
mod documented;
mod leads;
mod leases;
mod lifecycle;
mod pool;
mod projections;
mod resumption;
mod schema;
mod standby;
mod transcripts;

use voicebridge::ids::{CallSid, OrganizationId, PhoneNumber};
use voicebridge::store::agents::{self, Agent};
use voicebridge::store::leads::{Lead, NewLead};
use voicebridge::store::leases::Offer;
use voicebridge::store::{Store, leads as lead_store, leases as lease_store};

/// The agent that exists after migration.
async fn default_agent(store: &Store) -> Agent {
    agents::default_agent(store).await.unwrap().expect("a default agent exists after migration")
}

/// A call SID with this number.
fn sid(number: u32) -> CallSid {
    CallSid::parse(&format!("CA{number:032}")).unwrap()
}

fn phone(text: &str) -> PhoneNumber {
    PhoneNumber::parse(text).unwrap()
}

/// Another organisation with an agent of its own.
async fn other_tenant(store: &Store) -> (OrganizationId, voicebridge::ids::AgentId) {
    let (organization, agent): (uuid::Uuid, uuid::Uuid) = sqlx::query_as(
        "with o as (insert into organisations (slug, name) values ('other', 'Other') returning id)
         insert into agents (organization_id, name, instructions) select id, 'Other', 'Speak.' from o
         returning organization_id, id",
    )
    .fetch_one(store.pool())
    .await
    .unwrap();
    (organization.into(), agent.into())
}

async fn add_lead(store: &Store, organization: OrganizationId, number: &str) -> Lead {
    let new = NewLead {
        name: "Ada".into(),
        phone: phone(number),
        email: None,
        lead_status: None,
        notes: String::new(),
        score: None,
        time_zone: None,
    };
    lead_store::create(store, organization, &new).await.unwrap()
}

/// Brings an inbound call in from this number.
async fn offer_from(
    store: &Store,
    agent: &Agent,
    call_sid: &CallSid,
    from: &str,
) -> lease_store::FencingToken {
    let offer = Offer {
        call_sid,
        organization: agent.organization_id,
        agent: agent.id,
        direction: Some("inbound"),
        from: Some(from),
        to: Some("+15005550000"),
        token_sha256: digest(call_sid),
    };
    lease_store::offer(store, &offer).await.unwrap().expect("the call is ours")
}

/// Stands for the digest of the secret in the stream's address.
fn digest(call_sid: &CallSid) -> [u8; 32] {
    std::array::from_fn(|i| call_sid.as_str().as_bytes()[i + 2])
}
