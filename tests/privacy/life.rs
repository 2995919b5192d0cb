//! Two people and all that can be on record of them, and the whole database to look at.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;
use voicebridge::call::end::EndReason;
use voicebridge::call::transcript::{Entry, Role, Status};
use voicebridge::clock::CallTime;
use voicebridge::ids::{CallSid, ItemId, PhoneNumber, StreamSid};
use voicebridge::lifecycle::{self, CallEvent, CallRef, OptOutSource};
use voicebridge::store::agents::{self, Agent};
use voicebridge::store::call_events::CarrierEvent;
use voicebridge::store::leases::{self, FencingToken, Offer};
use voicebridge::store::transcripts::{self, Turns};
use voicebridge::store::{leads, phone_numbers};

use crate::surface;

pub(crate) const OWN: &str = "+15005550000";

/// A server whose organisation has a number, an agent and a campaign.
pub(crate) struct Office {
    http: surface::Server,
    pub(crate) agent: Agent,
    pub(crate) campaign: Uuid,
}

/// Somebody of whom everything is on record that can be.
pub(crate) struct Person {
    pub(crate) lead: i64,
    /// In E.164.
    pub(crate) number: &'static str,
    /// Nobody else says or is this.
    pub(crate) word: &'static str,
    /// One that came in and was handed to people, one that was made, and one by a number that is spelled otherwise.
    pub(crate) calls: [CallSid; 3],
}

impl Deref for Office {
    type Target = surface::Server;

    fn deref(&self) -> &surface::Server {
        &self.http
    }
}

impl Office {
    pub(crate) async fn open() -> Self {
        let http = surface::Server::new().await;
        let agent = agents::default_agent(&http.store).await.unwrap().unwrap();
        let own = PhoneNumber::parse(OWN).unwrap();
        phone_numbers::create(&http.store, agent.organization_id, agent.id, &own, "").await.unwrap();
        let campaign = sqlx::query_scalar(
            "insert into campaigns (organization_id, name, status, agent_id) values ($1, 'May', 'active', $2) returning id",
        );
        let campaign = campaign.bind(agent.organization_id.0).bind(agent.id.0);
        let campaign = campaign.fetch_one(http.store.pool()).await.unwrap();
        Self { http, agent, campaign }
    }

    /// A life with us, days ago. `own`: digits that tell this person's calls from those of others.
    pub(crate) async fn life(&self, number: &'static str, word: &'static str, own: u32) -> Person {
        let sid = |call: u32| CallSid::parse(&format!("CA{own:08}{call:024}")).unwrap();
        let calls = [sid(1), sid(2), sid(3)];
        let created = self
            .post(
                "/api/leads",
                json!({"name": format!("Ms {word}"), "phone": number, "email": format!("{word}@example.com"),
                       "notes": format!("likes {word}")}),
            )
            .await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
        let lead = created.json()["data"]["id"].as_i64().unwrap();
        self.came_in(&calls[0], number, word).await;
        self.was_made(&calls[1], number, word, lead).await;
        self.came_in(&calls[2], number.trim_start_matches('+'), word).await;
        let blocked =
            self.post("/api/do-not-call", json!({"number": number, "reason": format!("said {word}")}));
        assert_eq!(blocked.await.status, StatusCode::OK);
        Person { lead, number, word, calls }
    }

    pub(crate) fn reference(&self, call_sid: &CallSid) -> CallRef {
        CallRef { call_sid: call_sid.clone(), organization: self.agent.organization_id, agent: self.agent.id }
    }

    pub(crate) async fn happens(&self, call_sid: &CallSid, event: CallEvent) {
        let call = self.reference(call_sid);
        lifecycle::record(&self.store, &call, Timestamp::now(), &event).await.unwrap();
    }

    pub(crate) async fn offered(
        &self,
        call_sid: &CallSid,
        from: &str,
        to: &str,
        direction: &str,
    ) -> Option<FencingToken> {
        let mut token_sha256 = [0; 32];
        token_sha256.copy_from_slice(&call_sid.as_str().as_bytes()[2..34]);
        let offer = Offer {
            call_sid,
            organization: self.agent.organization_id,
            agent: self.agent.id,
            direction: Some(direction),
            from: Some(from),
            to: Some(to),
            token_sha256,
        };
        let token = leases::offer(&self.store, &offer).await.unwrap();
        if token.is_some() {
            leases::claim(&self.store, &token_sha256, "node").await.unwrap().unwrap();
        }
        token
    }

    pub(crate) fn turns(&self, call_sid: &CallSid, token: FencingToken, words: &[String]) -> Turns {
        let entry = |(index, words): (usize, &String)| Entry {
            item: ItemId::parse(&format!("item_{index}")).unwrap(),
            sequence: index as u32 + 1,
            revision: 1,
            role: if index % 2 == 0 { Role::User } else { Role::Assistant },
            content: words.clone(),
            generated: (index % 2 == 1).then(|| format!("{words} and more")),
            interrupted: false,
            status: Status::Final,
            at: CallTime::from_millis(index as u64 * 1000),
            audio_start: None,
            audio_end: None,
            heard_until_ms: None,
            evidence: None,
            response_latency_ms: None,
            tool_name: None,
            tool_call: None,
        };
        Turns {
            organization: self.agent.organization_id,
            call_sid: call_sid.clone(),
            token,
            stream_started: Timestamp::now(),
            entries: words.iter().enumerate().map(entry).collect(),
        }
    }

    pub(crate) fn callback(
        &self,
        call_sid: &CallSid,
        status: &str,
        from: &str,
        to: &str,
        sequence: u32,
    ) -> CarrierEvent {
        CarrierEvent {
            organization: Some(self.agent.organization_id),
            call_sid: call_sid.clone(),
            call_status: Some(status.to_owned()),
            to: Some(to.to_owned()),
            from: Some(from.to_owned()),
            direction: Some(if to == OWN { "inbound" } else { "outbound-api" }.to_owned()),
            duration_s: Some(90),
            sequence_number: Some(sequence),
            event_time: Some(Timestamp::now()),
            sip_response_code: None,
            answered_by: None,
            payload: json!({"From": from, "To": to, "CallerName": "as the carrier knows it", "CallSid": call_sid}),
        }
    }

    pub(crate) async fn carrier_says(&self, callback: &CarrierEvent) {
        lifecycle::callback::record(&self.store, callback, Timestamp::now()).await.unwrap();
    }

    /// A call that is answered, spoken on, handed to people with a summary, steered, opted out on, and over.
    async fn came_in(&self, call_sid: &CallSid, from: &str, word: &str) {
        let incoming =
            CallEvent::Incoming { phone_number: None, from: from.into(), to: OWN.into(), to_team: false };
        self.happens(call_sid, incoming).await;
        let token = self.offered(call_sid, from, OWN, "inbound").await.unwrap();
        self.speak(call_sid, token, word).await;
        let handed = CallEvent::Transferred {
            token,
            to: None,
            reason: format!("wants {word}"),
            summary: format!("spoke of {word}"),
        };
        self.happens(call_sid, handed).await;
        let leg = CallSid::parse(&format!("CB{}", &call_sid.as_str()[2..])).unwrap();
        self.carrier_says(&self.callback(&leg, "completed", from, "+15005550077", 1)).await;
        let ended = CallEvent::HandoffEnded {
            handoff: 1,
            dial_status: "completed".into(),
            leg: Some(leg),
            duration_s: Some(20),
        };
        self.happens(call_sid, ended).await;
        if from.starts_with('+') {
            let opted = CallEvent::OptedOut { number: from.into(), source: OptOutSource::Call };
            self.happens(call_sid, opted).await;
        }
        self.end(call_sid, token, word).await;
        self.carrier_says(&self.callback(call_sid, "completed", from, OWN, 3)).await;
        self.execute(&format!(
            "insert into call_commands (organization_id, call_sid, kind, payload)
             select id, '{call_sid}', 'say', '{{\"text\": \"{word}\"}}' from organisations where slug = 'default';
             insert into routing_decisions (organization_id, call_sid, step, decision, reason, decided_at)
             select id, '{call_sid}', 'incoming', 'agent', 'default_agent', now() from organisations where slug = 'default';
             update agent_calls set transcript = '{word}', agent_notes = '{word}', objections = '[\"{word}\"]'
             where parent_call_sid = '{call_sid}';
             update call_logs set conversation_summary = '{word}', ai_analysis = '{{\"about\": \"{word}\"}}'
             where call_sid = '{call_sid}'"
        ))
        .await;
    }

    /// A call that a campaign makes, for an interaction.
    async fn was_made(&self, call_sid: &CallSid, to: &str, word: &str, lead: i64) {
        let interaction = format!("interaction-{word}");
        let made = self.post("/api/interactions", json!({"id": interaction, "customerId": word})).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        let (queue, attempt): (Uuid, Uuid) = sqlx::query_as(
            "with row as (
                 insert into call_queue (organization_id, campaign_id, lead_id, status, attempt_count, to_number, message,
                                         agent_id, interaction_id)
                 values ($1, $2, $3, 'processing', 1, $4, $5, $6, $7)
                 returning *
             )
             insert into call_attempts (organization_id, queue_id, lead_id, campaign_id, agent_id, attempt_number,
                                        to_number, from_number, node, requested_at)
             select organization_id, id, lead_id, campaign_id, agent_id, 1, to_number, $8, 'node', now() from row
             returning queue_id, id",
        )
        .bind(self.agent.organization_id.0)
        .bind(self.campaign)
        .bind(lead)
        .bind(to)
        .bind(format!("tell of {word}"))
        .bind(self.agent.id.0)
        .bind(&interaction)
        .bind(OWN)
        .fetch_one(self.store.pool())
        .await
        .unwrap();
        let dispatched = CallEvent::Dispatched {
            attempt,
            queue,
            interaction: Some(interaction),
            from: OWN.into(),
            to: to.into(),
        };
        self.happens(call_sid, dispatched).await;
        let token = self.offered(call_sid, OWN, to, "outbound-api").await.unwrap();
        self.carrier_says(&self.callback(call_sid, "in-progress", OWN, to, 1)).await;
        self.speak(call_sid, token, word).await;
        leads::link_by_phone(&self.store, self.agent.organization_id, call_sid).await.unwrap();
        self.end(call_sid, token, word).await;
        self.carrier_says(&self.callback(call_sid, "completed", OWN, to, 2)).await;
    }

    async fn speak(&self, call_sid: &CallSid, token: FencingToken, word: &str) {
        let stream_sid = StreamSid::parse("MZ1").unwrap();
        self.happens(call_sid, CallEvent::StreamStarted { stream_sid, node: "node".into(), token }).await;
        self.happens(call_sid, CallEvent::Connected { token }).await;
        let words = [format!("I am {word}"), format!("Hello {word}"), format!("{word}, bye")];
        let late = transcripts::save(&self.store, &[self.turns(call_sid, token, &words)]).await.unwrap();
        assert!(late.is_empty());
    }

    async fn end(&self, call_sid: &CallSid, token: FencingToken, word: &str) {
        let report = Map::from_iter([
            ("soundsOverAgent".to_owned(), json!([{"why": "noise"}])),
            ("summary".to_owned(), json!(format!("about {word}"))),
        ]);
        let duration = Duration::from_secs(90);
        self.happens(call_sid, CallEvent::Ended { token, reason: EndReason::AgentEnded, duration, report })
            .await;
    }

    /// Makes everything that is on record of these calls so old.
    pub(crate) async fn grow_old(&self, calls: &[CallSid], days: u32) {
        let sids: Vec<_> = calls.iter().map(|call| format!("'{call}'")).collect();
        let (sids, age) = (sids.join(", "), format!("interval '{days} days'"));
        self.execute(&format!(
            "update calls set created_at = created_at - {age} where call_sid in ({sids});
             update call_events set created_at = created_at - {age} where call_sid in ({sids});
             update conversation_transcripts set created_at = created_at - {age} where call_sid in ({sids});
             update call_logs set started_at = started_at - {age}, ended_at = ended_at - {age} where call_sid in ({sids});
             update call_commands set created_at = created_at - {age} where call_sid in ({sids});
             update agent_calls set created_at = created_at - {age}, ended_at = ended_at - {age}
             where parent_call_sid in ({sids});
             update interactions set \"startTime\" = \"startTime\" - {age}, \"endTime\" = \"endTime\" - {age}
             where call_sid in ({sids});
             update call_queue set finished_at = finished_at - {age}
             where id in (select queue_id from call_attempts where call_sid in ({sids}))"
        ))
        .await;
    }

    /// Every row of every table, as text.
    pub(crate) async fn everything(&self) -> BTreeMap<String, Vec<String>> {
        let tables: Vec<String> = sqlx::query_scalar(
            "select relname::text from pg_class
             where relkind = 'r' and relnamespace = 'public'::regnamespace and relname <> '_sqlx_migrations'",
        )
        .fetch_all(self.store.pool())
        .await
        .unwrap();
        let mut all = BTreeMap::new();
        for table in tables {
            let rows = format!("select to_jsonb(t)::text from {table} t order by 1");
            let rows = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(self.store.pool()).await.unwrap();
            all.insert(table, rows);
        }
        all
    }

    /// Where in the database something is, in any text and any spelling of numbers: `table: row`.
    pub(crate) async fn places_of(&self, person: &Person) -> Vec<String> {
        let digits: String = person.number.chars().filter(char::is_ascii_digit).collect();
        let national = &digits[1..];
        let mut found = Vec::new();
        for (table, rows) in self.everything().await {
            for row in rows {
                let value: Value = serde_json::from_str(&row).unwrap();
                let mut texts = Vec::new();
                texts_in(&value, &mut texts);
                let is_here = texts.iter().any(|text| {
                    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
                    digits.contains(national)
                        || text.to_lowercase().contains(&person.word.to_lowercase())
                        || person.calls.iter().any(|call| text.contains(&call.as_str()[2..]))
                });
                if is_here {
                    found.push(format!("{table}: {row}"));
                }
            }
        }
        found
    }
}

/// Days before now.
pub(crate) fn days_ago(days: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(24 * days)
}

fn texts_in(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Number(number) => texts.push(number.to_string()),
        Value::Array(values) => values.iter().for_each(|value| texts_in(value, texts)),
        Value::Object(members) => {
            for (name, value) in members {
                texts.push(name.clone());
                texts_in(value, texts);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}
