//! What people are told when an agent puts a caller through.

use crate::ids::CallSid;
use crate::store::Store;

/// What was wanted when a call was last put through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// A telephone number in E.164 or the id of a team, where somebody has named one.
    pub to: Option<String>,
    /// Why, in the words of whoever wanted it.
    pub reason: String,
    /// What the person should know.
    pub summary: String,
}

/// What was wanted when this call was last put through. `None`: it never was, as far as is on record.
pub async fn last_wish(store: &Store, call_sid: &CallSid) -> sqlx::Result<Option<Wish>> {
    let row = sqlx::query!(
        r#"
        select event->'details'->>'to' as "to", event->'details'->>'reason' as reason,
               event->'details'->>'summary' as summary
        from calls, jsonb_array_elements(event_sequence) with ordinality as sequence (event, place)
        where call_sid = $1 and event->>'type' = 'transferred'
        order by place desc
        limit 1
        "#,
        call_sid.as_str(),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(|row| Wish {
        to: row.to,
        reason: row.reason.unwrap_or_default(),
        summary: row.summary.unwrap_or_default(),
    }))
}
