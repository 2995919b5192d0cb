//! Everything that decides where calls go is set up over HTTP.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::server::{Server, id};

#[tokio::test]
async fn a_schedule_is_added_read_changed_listed_and_removed() {
    let server = Server::new().await;
    let body = json!({
        "name": "Office", "time_zone": "europe/berlin",
        "spans": [{"weekday": 2, "opens": "13:00", "closes": "24:00"}, {"weekday": 1, "opens": "00:00", "closes": "12:30:15"}],
        "holidays": [{"day": "2026-12-25", "name": "Christmas"}, {"day": "2026-12-24", "opens": "09:00", "closes": "12:00"}],
    });
    let schedule = server.add("/api/schedules", body).await;
    let path = format!("/api/schedules/{}", id(&schedule));
    assert_eq!((&schedule["time_zone"], &schedule["enabled"]), (&json!("Europe/Berlin"), &json!(true)));
    let spans = json!([
        {"weekday": 1, "opens": "00:00", "closes": "12:30:15"}, {"weekday": 2, "opens": "13:00", "closes": "24:00"}
    ]);
    assert_eq!(schedule["spans"], spans);
    let holidays = json!([
        {"day": "2026-12-24", "name": "", "opens": "09:00", "closes": "12:00"},
        {"day": "2026-12-25", "name": "Christmas", "opens": null, "closes": null},
    ]);
    assert_eq!(schedule["holidays"], holidays);
    assert_eq!(server.get(&path).await.data(), schedule);

    let changed = server.patch(&path, json!({"holidays": [], "name": "Weekdays"})).await.data();
    assert_eq!((&changed["holidays"], &changed["spans"]), (&json!([]), &spans), "what is not named stays");
    let spans = json!([{"weekday": 7, "opens": "10:00", "closes": "11:00"}]);
    assert_eq!(server.patch(&path, json!({"spans": spans})).await.data()["spans"], spans);

    server.add("/api/schedules", json!({"name": "Another", "time_zone": "UTC"})).await;
    let page = server.get("/api/schedules?limit=1").await.json();
    assert_eq!(page["pagination"], json!({"limit": 1, "offset": 0, "total": 2}));
    assert_eq!(page["data"][0]["name"], "Another", "by name");
    assert_eq!(server.send(Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    gone(&server, &path, json!({"name": "x"})).await;
    assert_eq!((server.count("schedule_spans").await, server.count("schedules").await), (0, 1));
}

/// There is nothing at this path.
async fn gone(server: &Server, path: &str, body: Value) {
    server.get(path).await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.patch(path, body).await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.send(Method::DELETE, path, None).await.is_error(StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test]
async fn a_schedule_that_cannot_be_is_refused_entry_by_entry_and_nothing_is_changed() {
    let server = Server::new().await;
    let post = async |body: Value| server.send(Method::POST, "/api/schedules", Some(body)).await;
    let span = |weekday: u8, opens: &str, closes: &str| json!({"weekday": weekday, "opens": opens, "closes": closes});
    let with = |spans: Value, holidays: Value| json!({"name": "x", "time_zone": "UTC", "spans": spans, "holidays": holidays});

    for zone in ["Mars/Olympus", "", "CEST?", "Etc/Unknown", "../etc/passwd"] {
        post(json!({"name": "x", "time_zone": zone})).await.blames(&["time_zone"]);
    }
    post(json!({"name": "", "time_zone": "x"})).await.blames(&["name", "time_zone"]);
    post(with(json!([span(0, "09:00", "10:00"), span(8, "09:00", "10:00")]), json!([])))
        .await
        .blames(&["spans[0].weekday", "spans[1].weekday"]);
    let spans = json!([
        span(1, "09:00", "12:00"),
        span(2, "11:00", "13:00"),
        span(1, "11:59", "13:00"),
        span(3, "10:00", "10:00"),
        span(3, "12:00", "09:00"),
        span(1, "12:00", "12:30"),
    ]);
    post(with(spans, json!([]))).await.blames(&["spans[2]", "spans[3]", "spans[4]", "spans[5]"]);
    post(with(
        json!([span(1, "09:00", "12:00"), span(1, "12:00", "13:00")]),
        json!([{"day": "2026-02-28", "opens": "09:00"}]),
    ))
    .await
    .blames(&["holidays[0]"]);
    let holidays = json!([
        {"day": "2026-12-25"}, {"day": "2026-12-24", "opens": "12:00", "closes": "12:00"}, {"day": "2026-12-25", "name": "again"},
    ]);
    post(with(json!([]), holidays)).await.blames(&["holidays[1]", "holidays[2]"]);
    for body in [
        with(json!([span(1, "9:00", "12:00")]), json!([])),
        with(json!([span(1, "09:00", "24:01")]), json!([])),
        with(json!([]), json!([{"day": "2026-02-29"}])),
        json!({"name": "x"}),
        json!({"name": "x", "time_zone": "UTC", "timezone": "UTC"}),
    ] {
        post(body).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    }
    assert_eq!(server.count("schedules").await, 0);

    let schedule = server.add("/api/schedules", with(json!([span(1, "09:00", "12:00")]), json!([]))).await;
    let path = format!("/api/schedules/{}", id(&schedule));
    let bad = json!({"name": "y", "spans": [span(1, "09:00", "12:00"), span(1, "10:00", "11:00")]});
    server.patch(&path, bad).await.blames(&["spans[1]"]);
    server.patch(&path, json!({"time_zone": "Nowhere"})).await.blames(&["time_zone"]);
    assert_eq!(server.get(&path).await.data(), schedule);
}

#[tokio::test]
async fn a_team_is_added_read_changed_listed_and_removed() {
    let server = Server::new().await;
    let body = json!({"name": "Front desk", "members": [
        {"name": "Grace", "number": "+1 415 555 0101"}, {"name": "Edsger", "number": "+14155550102", "enabled": false},
    ]});
    let team = server.add("/api/teams", body).await;
    let path = format!("/api/teams/{}", id(&team));
    assert_eq!(team["ring_timeout_s"], 25);
    let grace = &team["members"][0];
    assert_eq!((&grace["number"], &grace["enabled"]), (&json!("+14155550101"), &json!(true)));
    assert_eq!(server.get(&path).await.data(), team);

    let members =
        json!([{"name": "Grace H.", "number": "+14155550101"}, {"name": "Ada", "number": "+14155550103"}]);
    let changed = server.patch(&path, json!({"members": members, "ring_timeout_s": 40})).await.data();
    assert_eq!((&changed["name"], &changed["ring_timeout_s"]), (&json!("Front desk"), &json!(40)));
    assert_eq!(changed["members"][0]["id"], grace["id"], "who keeps the number stays who they are");
    assert_eq!(
        (&changed["members"][0]["name"], &changed["members"][1]["name"]),
        (&json!("Grace H."), &json!("Ada"))
    );
    assert_eq!(changed["members"].as_array().unwrap().len(), 2);
    assert_eq!(server.get("/api/teams").await.json()["pagination"]["total"], 1);

    server.patch(&path, json!({"ring_timeout_s": 4})).await.blames(&["ring_timeout_s"]);
    let members = json!([
        {"number": "12"}, {"number": "+14155550101"}, {"number": "+1 415 5550101"}, {"name": "x".repeat(201), "number": "+14155550109"},
    ]);
    let fields = ["members[0].number", "members[2].number", "members[3].name"];
    server.patch(&path, json!({"members": members})).await.blames(&fields);
    let post = async |body: Value| server.send(Method::POST, "/api/teams", Some(body)).await;
    post(json!({"name": "", "ring_timeout_s": 601})).await.blames(&["name", "ring_timeout_s"]);
    post(json!({"members": []})).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    assert_eq!(server.get(&path).await.data(), changed, "nothing was changed");

    assert_eq!(server.send(Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    gone(&server, &path, json!({"name": "x"})).await;
    assert_eq!(server.count("team_members").await, 0);
}

#[tokio::test]
async fn a_number_is_added_read_changed_listed_and_removed() {
    let server = Server::new().await;
    let line = server.line().await;
    let path = format!("/api/phone-numbers/{}", line.number);
    let number = server.get(&path).await.data();
    let members: Vec<_> = number.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["agent_id", "created_at", "id", "label", "number", "schedule_id", "team_id"]);
    assert_eq!((&number["number"], &number["schedule_id"]), (&json!("+14155550199"), &json!(line.schedule)));

    let changed = server.patch(&path, json!({"label": "Main", "schedule_id": null})).await.data();
    assert_eq!((&changed["label"], &changed["schedule_id"]), (&json!("Main"), &Value::Null));
    assert_eq!(changed["team_id"], json!(line.team), "what is not named stays");
    server
        .patch(&path, json!({"number": "+14155550198"}))
        .await
        .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");

    let post = async |body: Value| server.send(Method::POST, "/api/phone-numbers", Some(body)).await;
    post(json!({"number": "+14155550199", "agent_id": line.agent}))
        .await
        .is_error(StatusCode::CONFLICT, "number_taken");
    post(json!({"number": "4155550199", "agent_id": line.agent, "label": "x".repeat(201)}))
        .await
        .blames(&["label", "number"]);
    post(json!({"number": "+14155550198"})).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    let nobody = Uuid::nil();
    for (member, value) in [("agent_id", nobody), ("schedule_id", nobody), ("team_id", nobody)] {
        let answer = server.patch(&path, json!({ (member): value })).await;
        let error = answer.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
        assert!(error["message"].as_str().unwrap().starts_with(member), "{error}");
    }

    assert_eq!(server.get("/api/phone-numbers").await.json()["data"], json!([changed]));
    server.rings(&line, "CA1").await.connects();
    assert_eq!(server.send(Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    gone(&server, &path, json!({"label": "x"})).await;
    assert_eq!(server.record("CA1").await.phone_number_id, None, "its calls stay");
}

#[tokio::test]
async fn a_number_that_calls_are_to_show_is_not_given_up() {
    let server = Server::new().await;
    let line = server.line().await;
    let path = format!("/api/phone-numbers/{}", line.number);
    let refused = async || {
        server.send(Method::DELETE, &path, None).await.is_error(StatusCode::CONFLICT, "in_use");
    };
    let body =
        json!({"name": "Spring", "time_start": "09:00", "time_end": "17:00", "phone_number_id": line.number});
    server.add("/api/campaigns", body).await;
    server.execute("update campaigns set status = 'paused'").await;
    refused().await;
    server.execute("update campaigns set status = 'completed'").await;
    let call = json!({"to": "+14155550123", "phone_number_id": line.number});
    assert_eq!(server.post("/api/queue/schedule-call", call).await.status, StatusCode::ACCEPTED);
    refused().await;
    server.execute("update call_queue set status = 'failed'").await;
    assert_eq!(server.send(Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    server.send(Method::DELETE, &path, None).await.is_error(StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test]
async fn what_something_else_goes_by_is_not_removed() {
    let server = Server::new().await;
    let line = server.line().await;
    for path in [format!("/api/schedules/{}", line.schedule), format!("/api/teams/{}", line.team)] {
        server.send(Method::DELETE, &path, None).await.is_error(StatusCode::CONFLICT, "in_use");
    }
    let agent = format!("/api/agents/{}", line.agent);
    server.send(Method::DELETE, &agent, None).await.is_error(StatusCode::CONFLICT, "default_agent");
    server.patch(&agent, json!({"is_default": false})).await.is_error(StatusCode::CONFLICT, "default_agent");
    let other = server
        .add("/api/agents", json!({"name": "Second", "instructions": "Be brief.", "is_default": true}))
        .await;
    assert_eq!(server.get(&agent).await.data()["is_default"], false, "there is one default agent");
    server.send(Method::DELETE, &agent, None).await.is_error(StatusCode::CONFLICT, "in_use");
    let number = format!("/api/phone-numbers/{}", line.number);
    server.patch(&number, json!({"agent_id": id(&other)})).await.data();
    assert_eq!(server.send(Method::DELETE, &agent, None).await.status, StatusCode::NO_CONTENT);
    gone(&server, &agent, json!({"name": "x"})).await;

    server.patch(&number, json!({"team_id": null, "schedule_id": null})).await.data();
    let agent = format!("/api/agents/{}", id(&other));
    server.patch(&agent, json!({"team_id": line.team})).await.data();
    let team = format!("/api/teams/{}", line.team);
    server.send(Method::DELETE, &team, None).await.is_error(StatusCode::CONFLICT, "in_use");
    server.patch(&agent, json!({"team_id": null})).await.data();
    assert_eq!(server.send(Method::DELETE, &team, None).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_agent_is_added_with_every_member_and_answers_its_next_call_as_it_was_changed() {
    let server = Server::new().await;
    let team = server.team(&["+14155550101"]).await;
    let tool = |header: Value| {
        json!({
            "name": "hours", "description": "When we are open.", "parameters": {"type": "object"},
            "url": "https://example.com/hours", "timeout_ms": 5000, "secret_header": header,
        })
    };
    let whole = json!({
        "name": "Ada", "vapi_assistant_id": "va-1", "is_default": false, "enabled": true, "instructions": "Be kind.",
        "greeting": "Say hello.", "voice": "cedar", "model": "m", "transcription_model": "t", "languages": ["de", "en"],
        "keywords": ["Kanzlei"], "audio_format": "pcm24k", "turn_detection": {"type": "semantic_vad", "eagerness": "low"},
        "tools": [tool(json!({"name": "X-Key", "value": "hush"}))], "transfer_number": "+14155550177", "team_id": team,
        "fallback_sentence": "Sorry.", "max_duration_s": 600, "nudge_after_s": 20, "max_nudges": 1, "reversible_barge_in": false,
        "opt_out_digit": "5",
    });
    let agent = server.add("/api/agents", whole.clone()).await;
    for (member, value) in whole.as_object().unwrap() {
        if member != "tools" {
            assert_eq!(&agent[member], value, "{member}");
        }
    }
    assert_eq!(agent["tools"], json!([tool(json!({"name": "X-Key"}))]), "secrets are not shown");
    let path = format!("/api/agents/{}", id(&agent));
    assert_eq!(server.get(&path).await.data(), agent);

    // What was read can be sent back, and the secret is still there.
    let mut again = agent.clone();
    for member in ["id", "created_at", "updated_at"] {
        again.as_object_mut().unwrap().remove(member);
    }
    again["turn_detection"] = Value::Null;
    again["greeting"] = Value::Null;
    let changed = server.patch(&path, again).await.data();
    assert_eq!((&changed["turn_detection"], &changed["greeting"]), (&Value::Null, &Value::Null));
    let sql = "select tools->0->'secret_header'->>'value' from agents where name = 'Ada'";
    let secret: String = sqlx::query_scalar(sql).fetch_one(server.store.pool()).await.unwrap();
    assert_eq!(secret, "hush");

    let incoming = format!("/api/agent/{}/call-incoming", id(&agent));
    server.twilio(&incoming, &[("CallSid", "CA1")]).await.connects();
    server.patch(&path, json!({"enabled": false, "team_id": null, "transfer_number": null})).await.data();
    server.twilio(&incoming, &[("CallSid", "CA2")]).await.speaks("This number cannot take calls right now.");
    let names = server.get("/api/agents").await.json();
    assert_eq!(
        (&names["data"][0]["name"], &names["data"][1]["name"]),
        (&json!("Ada"), &json!("Receptionist"))
    );
}

#[tokio::test]
async fn an_agent_that_cannot_be_is_refused_member_by_member() {
    let server = Server::new().await;
    let post = async |body: Value| server.send(Method::POST, "/api/agents", Some(body)).await;
    post(json!({})).await.blames(&["name", "instructions"]);
    let base = |more: Value| {
        let mut body = json!({"name": "x", "instructions": "y"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (member, value, field) in [
        ("name", json!(""), "name"),
        ("voice", json!(""), "voice"),
        ("greeting", json!(""), "greeting"),
        ("fallback_sentence", json!("x".repeat(1001)), "fallback_sentence"),
        ("languages", json!(["de", "german"]), "languages[1]"),
        ("keywords", json!([""]), "keywords[0]"),
        ("audio_format", json!("mp3"), "audio_format"),
        ("opt_out_digit", json!("99"), "opt_out_digit"),
        ("turn_detection", json!({"type": "server_vad", "threshold": 2}), "turn_detection.threshold"),
        ("turn_detection", json!({"type": "semantic_vad", "eagerness": "very"}), "turn_detection.eagerness"),
        ("transfer_number", json!("12"), "transfer_number"),
        ("max_duration_s", json!(0), "max_duration_s"),
        ("max_duration_s", json!(14_401), "max_duration_s"),
        ("nudge_after_s", json!(0), "nudge_after_s"),
        ("max_nudges", json!(101), "max_nudges"),
    ] {
        post(base(json!({ (member): value }))).await.blames(&[field]);
    }
    let tool = |name: &str, more: Value| {
        let mut tool = json!({"name": name, "description": "d", "parameters": {"type": "object"}, "url": "https://example.com"});
        tool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tool
    };
    let tools = json!([
        tool("a", json!({})),
        tool("a", json!({})),
        tool("b c", json!({})),
        tool("end_call", json!({})),
        tool("e", json!({"url": "http://example.com"})),
        tool("f", json!({"parameters": {"type": 7}})),
        tool("g", json!({"timeout_ms": 0})),
        tool("h", json!({"secret_header": {"name": "X"}})),
    ]);
    let fields = [
        "tools[7].secret_header.value",
        "tools[1].name",
        "tools[2].name",
        "tools[3].name",
        "tools[4]",
        "tools[5]",
        "tools[6].timeout_ms",
    ];
    post(base(json!({"tools": tools}))).await.blames(&fields);
    for body in [
        base(json!({"turn_detection": {"type": "none"}})),
        base(json!({"color": "red"})),
        base(json!({"enabled": "yes"})),
    ] {
        post(body).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    }
    post(base(json!({"team_id": Uuid::nil()})))
        .await
        .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    assert_eq!(server.count("agents").await, 1, "nothing was added");
    server.get("/api/agents?limit=0").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
    server.get("/api/agents/7").await.is_error(StatusCode::BAD_REQUEST, "invalid_path");
}

#[tokio::test]
async fn an_organisation_is_added_read_renamed_listed_and_removed() {
    let server = Server::new().await;
    let default = server.get("/api/organisations").await.data()[0].clone();
    assert_eq!(default["slug"], "default");
    let weber =
        server.add("/api/organisations", json!({"slug": "kanzlei-weber", "name": "Kanzlei Weber"})).await;
    assert_eq!((&weber["slug"], &weber["name"]), (&json!("kanzlei-weber"), &json!("Kanzlei Weber")));
    let path = format!("/api/organisations/{}", id(&weber));
    assert_eq!(server.get(&path).await.data(), weber);
    assert_eq!(server.patch(&path, json!({"name": "A. Weber"})).await.data()["name"], "A. Weber");
    assert_eq!(server.patch(&path, json!({})).await.data()["name"], "A. Weber", "what is not named stays");
    let page = server.get("/api/organisations?limit=1").await.json();
    assert_eq!(page["pagination"], json!({"limit": 1, "offset": 0, "total": 2}));
    assert_eq!(page["data"][0]["name"], "A. Weber", "by name");
    assert_eq!(server.get("/api/organisations?offset=1").await.data(), json!([default]));
    assert_eq!(server.send(Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    gone(&server, &path, json!({"name": "x"})).await;
    assert_eq!(server.count("organisations").await, 1);
}

#[tokio::test]
async fn an_organisation_that_cannot_be_is_refused_and_nothing_is_changed() {
    let server = Server::new().await;
    let post = async |body: Value| server.send(Method::POST, "/api/organisations", Some(body)).await;
    let long = "x".repeat(64);
    for slug in ["", "-a", "A", "a b", "ä", "a_b", "a\u{0}", long.as_str()] {
        post(json!({"slug": slug, "name": "x"})).await.blames(&["slug"]);
    }
    post(json!({"slug": "", "name": "x".repeat(201)})).await.blames(&["slug", "name"]);
    post(json!({"slug": "default", "name": "x"})).await.is_error(StatusCode::CONFLICT, "organisation_exists");
    for body in [json!({"slug": "a"}), json!({"name": "a"}), json!({"slug": "a", "name": "a", "id": 1})] {
        post(body).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    }
    assert_eq!(server.count("organisations").await, 1);
    server.add("/api/organisations", json!({"slug": &long[1..], "name": "x"})).await;

    let default = server.get("/api/organisations").await.data()[0].clone();
    let path = format!("/api/organisations/{}", id(&default));
    server.patch(&path, json!({"name": ""})).await.blames(&["name"]);
    server
        .patch(&path, json!({"slug": "x"}))
        .await
        .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    let delete = server.send(Method::DELETE, &path, None).await;
    delete.is_error(StatusCode::CONFLICT, "default_organisation");
    assert_eq!(server.get(&path).await.data(), default);
    server.get("/api/organisations/7").await.is_error(StatusCode::BAD_REQUEST, "invalid_path");
    server.get("/api/organisations?limit=0").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
}

/// Puts one row, of whatever values its columns take, into a table for the organisation `other`. Rows that others refer to
/// need not be there, and rules of the values do not hold.
const ONE_ROW: &str = r"
    create function one_row(tab text) returns void language plpgsql as $$
    declare
        names text;
        vals text;
        rule record;
    begin
        for rule in select conname from pg_constraint where conrelid = tab::regclass and contype = 'c' loop
            execute format('alter table %I drop constraint %I', tab, rule.conname);
        end loop;
        select string_agg(quote_ident(attname), ', '),
               string_agg(
                   case
                       when attname = 'organization_id' then '(select id from organisations where slug = ''other'')'
                       when typtype = 'e' then (select quote_literal(enumlabel) from pg_enum where enumtypid = typ.oid limit 1)
                       when typcategory = 'A' or typname in ('json', 'jsonb') then quote_literal('{}')
                       when typname = 'uuid' then 'gen_random_uuid()'
                       when typname = 'bytea' then 'decode(repeat(''00'', 32), ''hex'')'
                       when typcategory = 'N' then '1'
                       when typcategory = 'B' then 'false'
                       when typname in ('timestamptz', 'date') then 'now()'
                       when typname = 'time' then quote_literal('09:00')
                       else quote_literal('x')
                   end,
                   ', '
               )
        into names, vals
        from pg_attribute att
        join pg_type typ on typ.oid = atttypid
        where attrelid = tab::regclass and attnum > 0 and not attisdropped and attnotnull and not atthasdef
            and attidentity = '' and attgenerated = '';
        perform set_config('session_replication_role', 'replica', true);
        execute format('insert into %I (%s) values (%s)', tab, names, vals);
        perform set_config('session_replication_role', 'origin', true);
    end
    $$";

#[tokio::test]
async fn an_organisation_that_anything_belongs_to_is_not_removed() {
    let server = Server::new().await;
    let other = server.add("/api/organisations", json!({"slug": "other", "name": "Other"})).await;
    let path = format!("/api/organisations/{}", id(&other));
    server.execute(ONE_ROW).await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select conrelid::regclass::text from pg_constraint
         where confrelid = 'organisations'::regclass and contype = 'f'
             -- Whose turn it is to be dialed goes with the organisation.
             and conrelid <> 'dial_turns'::regclass
         order by 1",
    )
    .fetch_all(server.store.pool())
    .await
    .unwrap();
    assert!(tables.len() > 20, "{tables:?}");
    for table in &tables {
        sqlx::query("select one_row($1)").bind(table).execute(server.store.pool()).await.unwrap();
        let answer = server.send(Method::DELETE, &path, None).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{table}: {}", answer.text);
        answer.is_error(StatusCode::CONFLICT, "in_use");
        let clean = format!("delete from {table} where organization_id = $1::uuid");
        let clean = sqlx::query(sqlx::AssertSqlSafe(clean)).bind(id(&other));
        assert_eq!(clean.execute(server.store.pool()).await.unwrap().rows_affected(), 1, "{table}");
    }
    assert_eq!(server.send(Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn what_another_organisation_has_is_neither_seen_nor_touched() {
    let server = Server::new().await;
    let line = server.line().await;
    server.rings(&line, "CA1").await;
    let mut paths = Vec::new();
    for name in ["schedules", "teams", "agents", "phone-numbers"] {
        let known = &server.get(&format!("/api/{name}")).await.json()["data"][0];
        paths.push((name, format!("/api/{name}/{}", id(known))));
    }
    // What the key showed until now is another organisation's from here on.
    server
        .execute(
            "update organisations set slug = 'other' where slug = 'default';
             insert into organisations (slug, name) values ('default', 'New');
             insert into agents (organization_id, name, instructions, is_default)
             select id, 'New', 'Speak.', true from organisations where slug = 'default'",
        )
        .await;
    let stranger = Server::on(server.store.clone(), |_| {});
    for (name, path) in &paths {
        stranger.get(path).await.is_error(StatusCode::NOT_FOUND, "not_found");
        let patch = if *name == "phone-numbers" { json!({"label": "mine"}) } else { json!({"name": "mine"}) };
        stranger.patch(path, patch).await.is_error(StatusCode::NOT_FOUND, "not_found");
        stranger.send(Method::DELETE, path, None).await.is_error(StatusCode::NOT_FOUND, "not_found");
        let total = &stranger.get(&format!("/api/{name}")).await.json()["pagination"]["total"];
        assert_eq!(total, &json!(i32::from(*name == "agents")), "{name}");
    }
    stranger.get("/api/calls/CA1/routing").await.is_error(StatusCode::NOT_FOUND, "not_found");
    let own = stranger.default_agent().await.id.to_string();
    for (member, value) in
        [("schedule_id", &line.schedule), ("team_id", &line.team), ("agent_id", &line.agent)]
    {
        let mut number = json!({"number": "+14155550198", "agent_id": own});
        number[member] = json!(value);
        let answer = stranger.send(Method::POST, "/api/phone-numbers", Some(number)).await;
        answer.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    }
    let team = json!({"team_id": line.team});
    let path = format!("/api/agents/{own}");
    stranger.patch(&path, team).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    let taken = json!({"number": "+14155550199", "agent_id": own});
    let answer = stranger.send(Method::POST, "/api/phone-numbers", Some(taken)).await;
    answer.is_error(StatusCode::CONFLICT, "number_taken");
    // Its calls are taken as before.
    assert_eq!(server.rings(&line, "CA2").await.text, line.rings_the_team());
}
