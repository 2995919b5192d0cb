//! Numbers as menu systems send them, and whose telephones they are: that depends on the provider's country.

use sqlx::postgres::PgConnection;

use crate::ids::{Country, OrganizationId, PhoneNumber};
use crate::store::ivr::IvrProvider;

/// Calls whose messages are read anew at a time.
const CALLS_AT_ONCE: i64 = 500;

/// A number in E.164. Without a plus it is one of `home`: the same digits are somebody's in many countries.
#[must_use]
pub fn phone(sent: &str, home: Option<Country>) -> Option<PhoneNumber> {
    match home {
        Some(home) => PhoneNumber::parse_in(sent, home).ok(),
        None => PhoneNumber::parse(sent).ok(),
    }
}

/// The country of a provider, from its two letters.
pub(super) fn home(country_code: Option<&str>) -> Option<Country> {
    Country::parse(country_code?).ok()
}

/// Reads the numbers of all that a provider has told anew, by the country that it has now, and ties its calls to leads as they
/// are tied when a message comes: a lead that is found takes the place of the one before, and none takes nothing away.
///
/// Calls are locked before their messages, as by whoever takes a message.
pub(super) async fn read_anew(
    connection: &mut PgConnection,
    organization: OrganizationId,
    provider: &IvrProvider,
) -> sqlx::Result<()> {
    let home = home(provider.country_code.as_deref());
    let mut after = String::new();
    loop {
        let calls = sqlx::query_scalar!(
            r#"
            select provider_call_id
            from ivr_calls
            where organization_id = $1 and provider_id = $2 and provider_call_id > $3
            order by provider_call_id
            limit $4
            for update
            "#,
            organization.0,
            provider.id,
            after,
            CALLS_AT_ONCE,
        )
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = calls.last() else { return Ok(()) };
        after.clone_from(last);
        if change_phones(connection, provider, home, &calls).await? > 0 {
            tie(connection, organization, provider, &calls).await?;
        }
    }
}

/// Reads the numbers in messages about these calls. Returns how many messages say something else now.
async fn change_phones(
    connection: &mut PgConnection,
    provider: &IvrProvider,
    home: Option<Country>,
    calls: &[String],
) -> sqlx::Result<u64> {
    let sent = sqlx::query_scalar!(
        r#"
        select from_number as "number!"
        from ivr_messages
        where provider_id = $1 and provider_call_id = any($2) and from_number is not null
        union
        select to_number
        from ivr_messages
        where provider_id = $1 and provider_call_id = any($2) and to_number is not null
        "#,
        provider.id,
        calls,
    )
    .fetch_all(&mut *connection)
    .await?;
    let (numbers, phones): (Vec<String>, Vec<String>) = sent
        .into_iter()
        .filter_map(|number| phone(&number, home).map(|phone| (number, phone.expose().to_owned())))
        .unzip();
    let changed = sqlx::query!(
        r#"
        with phones as materialized (
            select number, phone
            from unnest($3::text[], $4::text[]) as phones (number, phone)
        ),
        fresh as (
            select told.id, caller.phone as from_phone, called.phone as to_phone
            from ivr_messages as told
            left join phones as caller on caller.number = told.from_number
            left join phones as called on called.number = told.to_number
            where told.provider_id = $1 and told.provider_call_id = any($2)
        )
        update ivr_messages as told
        set from_phone = fresh.from_phone,
            to_phone = fresh.to_phone
        from fresh
        where told.id = fresh.id
          and (told.from_phone, told.to_phone) is distinct from (fresh.from_phone, fresh.to_phone)
        "#,
        provider.id,
        calls,
        &numbers,
        &phones,
    )
    .execute(connection)
    .await?;
    Ok(changed.rows_affected())
}

/// Ties calls to leads. All messages that name a number have the same telephone for it.
async fn tie(
    connection: &mut PgConnection,
    organization: OrganizationId,
    provider: &IvrProvider,
    calls: &[String],
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        with meant as (
            select known.id, lead.id as lead_id
            from ivr_calls as known
            cross join lateral (
                select max(from_phone) filter (where told.from_number = known.from_number) as from_phone,
                       max(to_phone) filter (where told.to_number = known.to_number) as to_phone
                from ivr_messages as told
                where told.provider_id = known.provider_id and told.provider_call_id = known.provider_call_id
            ) as phones
            cross join lateral (
                select leads.id
                from leads
                where leads.organization_id = $1 and leads.phone in (phones.from_phone, phones.to_phone)
                order by leads.phone = phones.from_phone desc nulls last,
                         leads.last_contacted_at desc nulls last,
                         leads.id desc
                limit 1
            ) as lead
            where known.organization_id = $1 and known.provider_id = $2 and known.provider_call_id = any($3)
        )
        update ivr_calls as known
        set lead_id = meant.lead_id
        from meant
        where known.id = meant.id and known.lead_id is distinct from meant.lead_id
        "#,
        organization.0,
        provider.id,
        calls,
    )
    .execute(connection)
    .await?;
    Ok(())
}
