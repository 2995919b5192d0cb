//! Leads, and which call each belongs to.

use tokio::task::JoinSet;
use voicebridge::ids::{CallSid, OrganizationId};
use voicebridge::store::Store;
use voicebridge::store::call_events::{self, CarrierEvent};
use voicebridge::store::leads::{
    LeadPatch, LinkError, LinkOutcome, by_call_sid, lead, link_by_phone, link_call, list, unlink_call, update,
};

use crate::carrier::callback;
use crate::{add_lead, default_agent, offer_from, other_tenant, phone, sid, support};

const CALLER: &str = "+15005550001";

async fn end(store: &Store, call_sid: &CallSid) {
    sqlx::query("update call_leases set ended_at = now() where call_sid = $1")
        .bind(call_sid.as_str())
        .execute(store.pool())
        .await
        .unwrap();
}

async fn call_of(store: &Store, organization: OrganizationId, id: i64) -> Option<CallSid> {
    lead(store, organization, id).await.unwrap().unwrap().call_sid
}

#[tokio::test]
async fn leads_are_listed_newest_first_in_pages_with_their_number() {
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
    let (other, _) = other_tenant(&store).await;
    add_lead(&store, other, CALLER).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, add_lead(&store, organization, CALLER).await.id);
    }
    let (page, total) = list(&store, organization, 2, 1).await.unwrap();
    assert_eq!((page.iter().map(|lead| lead.id).collect::<Vec<_>>(), total), (ids[1..3].to_vec(), 5));
    assert_eq!(list(&store, organization, 2, u64::MAX).await.unwrap(), (Vec::new(), 5));
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
    let before = add_lead(&store, organization, CALLER).await;
    let patch = LeadPatch {
        email: Some(Some("ada@example.com".into())),
        score: Some(Some(7)),
        last_contacted_at: Some(Some("2026-01-02T03:04:05Z".parse().unwrap())),
        ..LeadPatch::default()
    };
    let after = update(&store, organization, before.id, &patch).await.unwrap().unwrap();
    assert_eq!((after.name.as_str(), after.phone.as_str()), ("Ada", CALLER));
    assert_eq!((after.email.as_deref(), after.score), (Some("ada@example.com"), Some(7)));
    assert_eq!(after.last_contacted_at.unwrap().to_string(), "2026-01-02T03:04:05Z");
    assert!(after.updated_at > before.updated_at);

    let patch = LeadPatch {
        name: Some("Grace".into()),
        phone: Some(phone("+15005550002")),
        email: Some(None),
        notes: Some("calls\0 back".into()),
        lead_status: Some("won".into()),
        ..LeadPatch::default()
    };
    let after = update(&store, organization, before.id, &patch).await.unwrap().unwrap();
    assert_eq!((after.name.as_str(), after.phone.as_str(), after.email), ("Grace", "+15005550002", None));
    assert_eq!(
        (after.notes.as_str(), after.lead_status.as_str(), after.score),
        ("calls back", "won", Some(7))
    );

    let (other, _) = other_tenant(&store).await;
    assert_eq!(update(&store, other, before.id, &patch).await.unwrap(), None);
    assert_eq!(lead(&store, other, before.id).await.unwrap(), None);
}

#[test]
fn a_lead_in_json_shows_its_number_and_in_a_log_it_does_not() {
    let lead = voicebridge::store::leads::Lead {
        id: 123,
        name: "John Doe".into(),
        phone: CALLER.into(),
        email: None,
        call_sid: Some(sid(1)),
        lead_status: "contacted".into(),
        last_contacted_at: None,
        notes: String::new(),
        score: None,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
        time_zone: None,
    };
    let json = serde_json::to_value(&lead).unwrap();
    assert_eq!(
        (&json["id"], &json["phone"], &json["call_sid"]),
        (&123.into(), &CALLER.into(), &sid(1).as_str().into())
    );
    let debug = format!("{lead:?}");
    assert!(!debug.contains("0001\"") && !debug.contains("Doe"), "{debug}");
}

#[tokio::test]
async fn a_caller_is_found_by_the_number_of_the_webhook() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    let (other, _) = other_tenant(&store).await;
    add_lead(&store, other, CALLER).await;
    let ours = add_lead(&store, organization, CALLER).await.id;
    offer_from(&store, &agent, &sid(1), CALLER).await;
    let outcome = link_by_phone(&store, organization, &sid(1)).await.unwrap();
    assert_eq!(outcome, LinkOutcome::Linked { lead: ours, moved_from: None });
    assert_eq!(by_call_sid(&store, organization, &sid(1)).await.unwrap().unwrap().id, ours);
    let outcome = link_by_phone(&store, organization, &sid(1)).await.unwrap();
    assert_eq!(outcome, LinkOutcome::AlreadyLinked { lead: ours });
}

#[tokio::test]
async fn the_other_party_is_whom_the_carrier_says_by_direction() {
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
    let [them, dialled] = [
        add_lead(&store, organization, CALLER).await.id,
        add_lead(&store, organization, "+15005550002").await.id,
    ];
    for (number, direction, expected) in
        [(1, "inbound", them), (2, "outbound-api", dialled), (3, "outbound-dial", dialled)]
    {
        let event = CarrierEvent {
            call_sid: sid(number),
            direction: Some(direction.into()),
            from: Some("+1 (500) 555-0001".into()),
            to: Some("+15005550002".into()),
            ..callback(organization, Some("completed"), Some(1))
        };
        call_events::record(&store, &event).await.unwrap();
        let outcome = link_by_phone(&store, organization, &sid(number)).await.unwrap();
        assert!(
            matches!(outcome, LinkOutcome::Linked { lead, .. } if lead == expected),
            "{direction}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn of_leads_that_share_a_telephone_the_one_contacted_last_is_meant() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    let mut ids = Vec::new();
    for contacted in [None, Some("2026-01-02T00:00:00Z"), Some("2026-01-01T00:00:00Z"), None] {
        let id = add_lead(&store, organization, CALLER).await.id;
        let last_contacted_at = contacted.map(|at| Some(at.parse().unwrap()));
        let patch = LeadPatch { last_contacted_at, ..LeadPatch::default() };
        update(&store, organization, id, &patch).await.unwrap();
        ids.push(id);
    }
    offer_from(&store, &agent, &sid(1), CALLER).await;
    let outcome = link_by_phone(&store, organization, &sid(1)).await.unwrap();
    assert_eq!(outcome, LinkOutcome::Linked { lead: ids[1], moved_from: None });
}

#[tokio::test]
async fn a_caller_without_a_number_or_a_lead_is_nobody() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    assert_eq!(link_by_phone(&store, organization, &sid(1)).await.unwrap(), LinkOutcome::NoNumber);
    for (number, from) in [(1, "anonymous"), (2, "client:bob"), (3, "sip:bob@example.com"), (4, "")] {
        offer_from(&store, &agent, &sid(number), from).await;
        assert_eq!(
            link_by_phone(&store, organization, &sid(number)).await.unwrap(),
            LinkOutcome::NoNumber,
            "{from}"
        );
    }
    offer_from(&store, &agent, &sid(5), CALLER).await;
    assert_eq!(link_by_phone(&store, organization, &sid(5)).await.unwrap(), LinkOutcome::NoLead);
}

#[tokio::test]
async fn a_lead_moves_on_from_a_finished_call_but_not_from_a_live_one() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    let id = add_lead(&store, organization, CALLER).await.id;
    offer_from(&store, &agent, &sid(1), CALLER).await;
    offer_from(&store, &agent, &sid(2), CALLER).await;
    link_by_phone(&store, organization, &sid(1)).await.unwrap();
    let outcome = link_by_phone(&store, organization, &sid(2)).await.unwrap();
    assert_eq!(outcome, LinkOutcome::LeadBusy { lead: id, call_sid: sid(1) });
    assert_eq!(call_of(&store, organization, id).await, Some(sid(1)));

    end(&store, &sid(1)).await;
    let outcome = link_by_phone(&store, organization, &sid(2)).await.unwrap();
    assert_eq!(outcome, LinkOutcome::Linked { lead: id, moved_from: Some(sid(1)) });
}

#[tokio::test]
async fn a_lead_never_moves_back_to_an_older_call() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    let id = add_lead(&store, organization, CALLER).await.id;
    offer_from(&store, &agent, &sid(2), CALLER).await;
    // Of the older call nothing is on record until the newer one is over.
    offer_from(&store, &agent, &sid(1), CALLER).await;
    for query in [
        "update call_streams set offered_at = now() - interval '1 hour' where call_sid = $1",
        "update call_leases set offered_at = now() - interval '1 hour', ended_at = now() where call_sid = $1",
    ] {
        sqlx::query(query).bind(sid(1).as_str()).execute(store.pool()).await.unwrap();
    }
    link_by_phone(&store, organization, &sid(2)).await.unwrap();
    end(&store, &sid(2)).await;
    let outcome = link_by_phone(&store, organization, &sid(1)).await.unwrap();
    assert_eq!(outcome, LinkOutcome::MovedOn { lead: id, call_sid: sid(2) });
    assert_eq!(call_of(&store, organization, id).await, Some(sid(2)));
    // What came by another way than our TwiML is as old as the carrier's first word of it.
    let told = CarrierEvent {
        call_sid: sid(3),
        from: Some(CALLER.into()),
        ..callback(organization, Some("completed"), Some(1))
    };
    call_events::record(&store, &told).await.unwrap();
    let outcome = link_by_phone(&store, organization, &sid(3)).await.unwrap();
    assert!(matches!(outcome, LinkOutcome::Linked { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_call_is_over_when_the_carrier_says_so_or_its_node_is_silent() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    add_lead(&store, organization, CALLER).await;
    for number in 1..=3 {
        offer_from(&store, &agent, &sid(number), CALLER).await;
    }
    link_by_phone(&store, organization, &sid(1)).await.unwrap();
    call_events::record(&store, &callback(organization, Some("completed"), Some(9))).await.unwrap();
    let outcome = link_by_phone(&store, organization, &sid(2)).await.unwrap();
    assert!(matches!(outcome, LinkOutcome::Linked { moved_from: Some(_), .. }), "{outcome:?}");

    sqlx::query("update call_leases set offered_at = now() - interval '3 minutes'")
        .execute(store.pool())
        .await
        .unwrap();
    let outcome = link_by_phone(&store, organization, &sid(3)).await.unwrap();
    assert!(matches!(outcome, LinkOutcome::Linked { moved_from: Some(_), .. }), "{outcome:?}");
}

#[tokio::test]
async fn many_linkers_of_one_call_link_one_lead() {
    let store = support::store(8).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    for number in 1..=20 {
        let from = format!("+1500555{number:04}");
        let ids =
            [add_lead(&store, organization, &from).await.id, add_lead(&store, organization, &from).await.id];
        offer_from(&store, &agent, &sid(number), &from).await;
        let mut linkers = JoinSet::new();
        for _ in 0..6 {
            let store = store.clone();
            linkers.spawn(async move { link_by_phone(&store, organization, &sid(number)).await.unwrap() });
        }
        let outcomes = linkers.join_all().await;
        let linked = outcomes.iter().filter(|outcome| matches!(outcome, LinkOutcome::Linked { .. })).count();
        assert_eq!(linked, 1, "{outcomes:?}");
        assert_eq!(call_of(&store, organization, ids[1]).await, Some(sid(number)));
        assert_eq!(call_of(&store, organization, ids[0]).await, None);
    }
}

#[tokio::test]
async fn of_two_live_calls_of_one_caller_exactly_one_gets_the_lead() {
    let store = support::store(8).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    for round in 1..=20_u32 {
        let from = format!("+1500555{round:04}");
        let id = add_lead(&store, organization, &from).await.id;
        let calls = [sid(2 * round), sid(2 * round + 1)];
        let mut linkers = JoinSet::new();
        for call_sid in calls.clone() {
            offer_from(&store, &agent, &call_sid, &from).await;
        }
        for call_sid in calls {
            let store = store.clone();
            linkers.spawn(async move {
                (link_by_phone(&store, organization, &call_sid).await.unwrap(), call_sid)
            });
        }
        let outcomes = linkers.join_all().await;
        let winners: Vec<_> =
            outcomes.iter().filter(|(outcome, _)| matches!(outcome, LinkOutcome::Linked { .. })).collect();
        let [(_, winner)] = winners.as_slice() else { panic!("{outcomes:?}") };
        assert_eq!(call_of(&store, organization, id).await.as_ref(), Some(winner));
    }
}

#[tokio::test]
async fn a_lead_is_linked_and_unlinked_by_hand() {
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
    let [one, two] =
        [add_lead(&store, organization, CALLER).await.id, add_lead(&store, organization, CALLER).await.id];
    for _ in 0..2 {
        assert_eq!(link_call(&store, organization, one, &sid(1)).await.unwrap().call_sid, Some(sid(1)));
    }
    let error = link_call(&store, organization, two, &sid(1)).await.unwrap_err();
    assert!(matches!(error, LinkError::CallBelongsTo { lead } if lead == one), "{error}");
    assert_eq!(unlink_call(&store, organization, one).await.unwrap().unwrap().call_sid, None);
    assert_eq!(unlink_call(&store, organization, one).await.unwrap().unwrap().call_sid, None);
    assert_eq!(link_call(&store, organization, two, &sid(1)).await.unwrap().call_sid, Some(sid(1)));
    assert!(matches!(link_call(&store, organization, 99, &sid(2)).await, Err(LinkError::LeadNotFound)));
    assert_eq!(unlink_call(&store, organization, 99).await.unwrap(), None);
}

#[tokio::test]
async fn a_lead_in_a_live_call_is_not_linked_to_another_by_hand() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    let id = add_lead(&store, organization, CALLER).await.id;
    offer_from(&store, &agent, &sid(1), CALLER).await;
    link_call(&store, organization, id, &sid(1)).await.unwrap();
    let error = link_call(&store, organization, id, &sid(2)).await.unwrap_err();
    assert!(matches!(&error, LinkError::LeadOnLiveCall { call_sid } if *call_sid == sid(1)), "{error}");
    end(&store, &sid(1)).await;
    assert_eq!(link_call(&store, organization, id, &sid(2)).await.unwrap().call_sid, Some(sid(2)));
}

#[tokio::test]
async fn the_calls_and_leads_of_another_organisation_do_not_exist() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let organization = agent.organization_id;
    let (other, _) = other_tenant(&store).await;
    let [ours, theirs] =
        [add_lead(&store, organization, CALLER).await.id, add_lead(&store, other, CALLER).await.id];
    offer_from(&store, &agent, &sid(1), CALLER).await;
    assert!(matches!(link_call(&store, other, ours, &sid(1)).await, Err(LinkError::LeadNotFound)));
    assert!(matches!(link_call(&store, other, theirs, &sid(1)).await, Err(LinkError::CallNotFound)));
    assert_eq!(unlink_call(&store, other, ours).await.unwrap(), None);
    assert_eq!(link_by_phone(&store, other, &sid(1)).await.unwrap(), LinkOutcome::NoNumber);
}
