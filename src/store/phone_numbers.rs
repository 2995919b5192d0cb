//! The organisation's own numbers.

use crate::ids::{AgentId, OrganizationId, PhoneNumber, PhoneNumberId};
use crate::store::{Store, storable};

/// One of our numbers, without the number itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnNumber {
    /// Id.
    pub id: PhoneNumberId,
    /// Whose it is.
    pub organization_id: OrganizationId,
    /// Who answers it.
    pub agent_id: AgentId,
}

/// The number as one of ours.
pub async fn by_number(store: &Store, number: &PhoneNumber) -> sqlx::Result<Option<OwnNumber>> {
    sqlx::query_as!(
        OwnNumber,
        "select id, organization_id, agent_id from phone_numbers where number = $1",
        number.expose(),
    )
    .fetch_optional(&store.pool)
    .await
}

/// Adds a number that the agent shall answer. Fails by `phone_numbers_number` when somebody has it already and by
/// `phone_numbers_agent` when the agent is not of this organisation.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    agent: AgentId,
    number: &PhoneNumber,
    label: &str,
) -> sqlx::Result<PhoneNumberId> {
    let id = sqlx::query_scalar!(
        "insert into phone_numbers (organization_id, agent_id, number, label) values ($1, $2, $3, $4) returning id",
        organization.0,
        agent.0,
        number.expose(),
        storable(label),
    )
    .fetch_one(&store.pool)
    .await?;
    Ok(PhoneNumberId(id))
}
