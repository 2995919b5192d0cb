//! Tables of people and numbers.

use serde_json::{Value, json};

use crate::server::{NOBODY, Server};

#[tokio::test]
async fn a_table_of_people_is_taken_row_by_row_and_bad_rows_are_named() {
    let server = Server::with_number().await;
    let path = format!("/api/campaigns/{}/leads.csv", server.campaign().await);
    let known = server.lead("+14155550101", None).await;
    server.post("/api/do-not-call", json!({"number": "+14155550106"})).await.data();
    let table = "Name,Phone,Time Zone,E-Mail,score,Shoe size\r\n\
        Ada,+1 415 555 0101,europe/berlin,ada@example.com,,38\r\n\
        \"Bob, Jr.\",+14155550102,America/New_York,,7,\r\n\
        Cleo,415 555 0103,Europe/Berlin,,,\r\n\
        Dan,ask him,Europe/Berlin,,,\r\n\
        Eve,,Europe/Berlin,,,\r\n\
        Fay,+14155550104,Mars/Olympus,,,\r\n\
        Gus,+14155550105,Europe/Berlin,gus,,\r\n\
        Hal,+14155550102,Europe/Berlin,,,\r\n\
        Ivy,+14155550106,Europe/Berlin,,,\r\n\
        Joe,+14155550107,,,,\r\n\
        Kim,+14155550108,Europe/Berlin,,many,\r\n";
    let report = server.csv(&path, table).await.data();
    let bad = |line: u64, column: &str, value: &str| json!([line, column, value]);
    let named: Vec<Value> = report["bad"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| json!([row["line"], row["column"], row["value"]]))
        .collect();
    assert_eq!(
        named,
        [
            bad(4, "phone", "national_number"),
            bad(5, "phone", "text"),
            bad(6, "phone", "empty"),
            bad(7, "time_zone", "text"),
            bad(8, "email", "text"),
            bad(9, "phone", "duplicate"),
            bad(12, "score", "text"),
        ]
    );
    let text = report.to_string();
    assert!(
        !text.contains("ask him") && !text.contains("Mars") && !text.contains("0103"),
        "values are not repeated"
    );
    for (member, value) in [
        ("rows", json!(11)),
        ("created", json!(3)),
        ("found", json!(1)),
        ("enqueued", json!(2)),
        ("already", json!(0)),
        ("bad_total", json!(7)),
        ("skipped_total", json!(2)),
        ("ignored_columns", json!(["shoe size"])),
    ] {
        assert_eq!(report[member], value, "{member}");
    }
    let reasons: Vec<&str> =
        report["skipped"].as_array().unwrap().iter().map(|it| it["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["do_not_call", "no_time_zone"]);
    let ada = server.get(&format!("/api/leads/{known}")).await.data();
    assert_eq!(
        (&ada["name"], &ada["time_zone"], &ada["email"]),
        (&json!("Ada"), &json!("Europe/Berlin"), &json!("ada@example.com")),
        "what was empty is filled"
    );

    let again = server.csv(&path, table.replace("Ada", "Someone else")).await.data();
    assert_eq!(
        (&again["created"], &again["found"], &again["enqueued"], &again["already"]),
        (&json!(0), &json!(4), &json!(0), &json!(2))
    );
    assert_eq!(server.get(&format!("/api/leads/{known}")).await.data()["name"], "Ada", "what is known stays");
    assert_eq!(server.get("/api/leads").await.total(), 4);
}

#[tokio::test]
async fn rows_without_a_zone_may_share_one() {
    let server = Server::with_number().await;
    let path = format!("/api/campaigns/{}/leads.csv", server.campaign().await);
    let table = "phone;time_zone\n+14155550101;\n+14155550102;Asia/Kolkata\n";
    server.csv(&format!("{path}?time_zone=Mars"), table).await.is_error(400, "invalid_query");
    assert_eq!(server.csv(&format!("{path}?time_zone=Europe/Berlin"), table).await.data()["enqueued"], 2);
    assert_eq!(
        server.scalar::<Value>("select jsonb_object_agg(phone, time_zone) from leads").await,
        json!({"+14155550101": "Europe/Berlin", "+14155550102": "Asia/Kolkata"})
    );
}

#[tokio::test]
async fn of_people_who_share_a_telephone_the_one_contacted_last_is_meant() {
    let server = Server::with_number().await;
    let path = format!("/api/campaigns/{}/leads.csv", server.campaign().await);
    let older = server.lead("+14155550101", Some("Europe/Berlin")).await;
    server.lead("+14155550101", Some("Europe/Berlin")).await;
    server
        .patch(&format!("/api/leads/{older}"), json!({"last_contacted_at": "2026-01-01T00:00:00Z"}))
        .await
        .data();
    assert_eq!(server.csv(&path, "phone\n+14155550101\n").await.data()["enqueued"], 1);
    assert_eq!(server.get("/api/queue").await.data()[0]["lead_id"], older);
}

#[tokio::test]
async fn a_table_of_thousands_uploaded_twice_at_once_makes_each_lead_once() {
    let server = Server::with_number().await;
    let path = format!("/api/campaigns/{}/leads.csv", server.campaign().await);
    let rows: Vec<String> = (0..1_200).map(|n| format!("+1415555{},Europe/Berlin", 1000 + n)).collect();
    let table = format!("phone,time_zone\n{}\n", rows.join("\n"));
    let both = tokio::join!(server.csv(&path, table.clone()), server.csv(&path, table));
    let sum =
        |member: &str| both.0.data()[member].as_u64().unwrap() + both.1.data()[member].as_u64().unwrap();
    assert_eq!((sum("created"), sum("found")), (1_200, 1_200));
    assert_eq!((sum("enqueued"), sum("already"), sum("bad_total")), (1_200, 1_200, 0));
    assert_eq!(server.get("/api/leads").await.total(), 1_200);
}

#[tokio::test]
async fn a_table_that_is_none_is_refused_whole() {
    let server = Server::with_number().await;
    let campaign = server.campaign().await;
    let path = format!("/api/campaigns/{campaign}/leads.csv");
    for path in [path.as_str(), "/api/do-not-call.csv"] {
        server.plain(path, "phone\n+14155550101\n").await.is_error(415, "unsupported_media_type");
        server.csv(path, "").await.is_error(422, "invalid_value");
        let error = server.csv(path, "name\nAda\n").await.is_error(422, "invalid_value");
        assert!(error["message"].as_str().unwrap().contains("column"), "it says what to do");
        server.csv(path, "phone,number\n1,2\n").await.is_error(422, "invalid_value");
        let large = "phone\n".to_owned() + &"x".repeat(4 * 1024 * 1024);
        server.csv(path, large).await.is_error(413, "payload_too_large");
        let below = format!("phone\n{}\n", "x".repeat(200 * 1024));
        assert_eq!(
            server.csv(path, below).await.data()["bad_total"],
            1,
            "tables may be larger than other bodies"
        );
        assert_eq!(server.csv(path, "phone\n").await.data()["rows"], 0);
    }
    let nobody = format!("/api/campaigns/{NOBODY}/leads.csv");
    server.csv(&nobody, "phone\n+14155550101\n").await.is_error(404, "not_found");
    assert_eq!(server.get("/api/leads").await.total(), 0);
}

#[tokio::test]
async fn a_table_of_numbers_that_are_not_to_be_called_is_taken_row_by_row() {
    let server = Server::with_number().await;
    server.queued("+14155550101").await;
    let table = "number,reason\n+14155550101,asked\n+1 415 555 0101,asked twice\n12,\n+14155550102,\n";
    let report = server.csv("/api/do-not-call.csv", table).await.data();
    for (member, value) in [
        ("rows", json!(4)),
        ("added", json!(2)),
        ("already", json!(0)),
        ("blocked_calls", json!(1)),
        ("bad_total", json!(2)),
    ] {
        assert_eq!(report[member], value, "{member}");
    }
    let lines: Vec<u64> =
        report["bad"].as_array().unwrap().iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 4]);
    let entry = server.get("/api/do-not-call?number=%2B14155550101").await.data()[0].clone();
    assert_eq!((&entry["reason"], &entry["source"]), (&json!("asked"), &json!("import")));
    assert_eq!(server.csv("/api/do-not-call.csv", table).await.data()["already"], 2);
}
