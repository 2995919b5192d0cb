use serde_json::json;

use super::*;
use crate::ids::PhoneNumber;

fn mapping(value: &Value) -> Mapping {
    Mapping::parse(value).expect("it is a mapping")
}

fn kolkata() -> TimeZone {
    TimeZone::get("Asia/Kolkata").expect("there is such a zone")
}

fn fields(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.field.as_str()).collect()
}

#[test]
fn members_are_found_by_pointers_by_paths_and_by_names() {
    let mapping = mapping(&json!({
        "call_id": "/data/call/id", "call_sid": "data.legs.1.sid", "from_number": "caller.number",
        "to_number": "DialedNumber", "status": "data.state", "started_at": "/data/times/0", "ended_at": "data.times.1",
        "duration": "secs", "digits": "data.menu", "recording_url": "rec",
    }));
    let payload = json!({
        "caller.number": "+14155550123", "DialedNumber": 14_155_550_199_u64, "secs": "00:01:30", "rec": " ",
        "data": {
            "call": {"id": 7}, "legs": [{}, {"sid": "CA1"}], "state": "done", "menu": ["1", 2],
            "times": ["2024-10-30 14:30:00", 1_730_278_890],
        },
    });
    let read = mapping.read(payload.clone(), &kolkata(), Country::parse("US").ok()).expect("it has an id");
    assert_eq!(read.problems, []);
    let at = |text: &str| text.parse().ok();
    assert_eq!(
        read.told,
        Told {
            provider_call_id: "7".to_owned(),
            call_sid: CallSid::parse("CA1").ok(),
            from_number: Some("+14155550123".to_owned()),
            from_phone: PhoneNumber::parse("+14155550123").ok(),
            to_number: Some("14155550199".to_owned()),
            to_phone: PhoneNumber::parse("+14155550199").ok(),
            status: Some("done".to_owned()),
            started_at: at("2024-10-30T09:00:00Z"),
            ended_at: at("2024-10-30T09:01:30Z"),
            duration_s: Some(90),
            digits: Some("1,2".to_owned()),
            recording_url: None,
            occurred_at: at("2024-10-30T09:01:30Z"),
            unreadable: Vec::new(),
            payload,
        }
    );
}

#[test]
fn without_an_id_all_that_is_wrong_is_told_and_with_one_only_that_member_is_missing() {
    let mapping = mapping(&json!({
        "call_id": "id", "started_at": "start", "duration": "secs", "call_sid": "sid", "digits": "keys", "status": "s",
    }));
    let bad = json!({"start": "soon", "secs": -1, "sid": "a b", "keys": [{}], "s": {}});
    let problems = mapping.read(bad.clone(), &TimeZone::UTC, None).expect_err("it has no id");
    assert_eq!(fields(&problems), ["call_id", "call_sid", "status", "started_at", "duration", "digits"]);
    for id in [json!("x".repeat(201)), json!([1]), json!("a\u{0}b")] {
        let problems = mapping.read(json!({ "id": id }), &TimeZone::UTC, None).expect_err("it is no id");
        assert_eq!(fields(&problems), ["call_id"], "{id}");
    }
    let mut with_id = bad;
    with_id["id"] = json!("7");
    let read = mapping.read(with_id, &TimeZone::UTC, None).expect("it has an id");
    assert_eq!(read.told.unreadable, ["call_sid", "status", "started_at", "duration", "digits"]);
    assert_eq!(
        (read.told.started_at, read.told.duration_s, read.told.call_sid, read.told.digits),
        (None, None, None, None)
    );
    // A message that is no object has no members.
    for payload in [json!(null), json!([]), json!("id"), json!(7)] {
        assert_eq!(
            fields(&mapping.read(payload, &TimeZone::UTC, None).expect_err("it is none")),
            ["call_id"]
        );
    }
}

#[test]
fn a_mapping_is_told_all_that_is_wrong_with_it() {
    for (bad, expected) in [
        (json!([]), vec!["mapping"]),
        (json!({}), vec!["mapping.call_id"]),
        (json!({"call_id": ""}), vec!["mapping.call_id"]),
        (json!({"call_id": 7, "caller": "x"}), vec!["mapping.call_id", "mapping"]),
        (json!({"digits": "x".repeat(201), "call_id": "id"}), vec!["mapping.digits"]),
    ] {
        assert_eq!(fields(&Mapping::parse(&bad).expect_err("it is no mapping")), expected, "{bad}");
    }
    for field in Field::ALL {
        let mut good = json!({"call_id": "id"});
        good[field.as_str()] = json!("x");
        assert!(Mapping::parse(&good).is_ok(), "{field:?}");
    }
}

#[test]
fn what_happened_last_is_what_the_message_says_or_the_latest_time_in_it() {
    let mapping = mapping(&json!({"call_id": "id", "started_at": "s", "ended_at": "e", "updated_at": "u"}));
    let of = |payload: Value| {
        mapping
            .read(payload, &TimeZone::UTC, None)
            .expect("it has an id")
            .told
            .occurred_at
            .map(Timestamp::as_second)
    };
    let (s, e, u) = (1_730_278_800, 1_730_278_860, 1_730_278_830);
    assert_eq!(of(json!({"id": 1})), None);
    assert_eq!(of(json!({"id": 1, "s": s})), Some(s));
    assert_eq!(of(json!({"id": 1, "s": s, "e": e})), Some(e));
    assert_eq!(of(json!({"id": 1, "s": s, "e": e, "u": u})), Some(u));
}

#[test]
fn times_are_read_as_such_systems_write_them() {
    let read = |value: Value| moment::read(&value, &kolkata()).map(|moment| moment.to_string());
    for value in [
        json!("2024-10-30T09:00:00Z"),
        json!("2024-10-30T14:30:00+05:30"),
        json!(" 2024-10-30 14:30:00 "),
        json!("2024-10-30T14:30:00"),
        json!("Wed, 30 Oct 2024 09:00:00 +0000"),
        json!(1_730_278_800),
        json!("1730278800"),
        json!(1_730_278_800_000_u64),
        json!("1730278800000"),
    ] {
        assert_eq!(read(value.clone()).as_deref(), Some("2024-10-30T09:00:00Z"), "{value}");
    }
    for value in [
        json!("soon"),
        json!(7),
        json!(1e300),
        json!("NaN"),
        json!("inf"),
        json!(true),
        json!("9999-01-01"),
        json!({}),
    ] {
        assert_eq!(read(value.clone()), None, "{value}");
    }
    for (value, expected) in [
        (json!(90), Some(90)),
        (json!(89.2), Some(90)),
        (json!("90"), Some(90)),
        (json!("01:30"), Some(90)),
        (json!("90:00"), Some(5400)),
        (json!("1:00:01"), Some(3601)),
        (json!("1:60"), None),
        (json!("1:2:3:4"), None),
        (json!(-1), None),
        (json!("NaN"), None),
        (json!(1e10), None),
        (json!("a"), None),
        (json!([]), None),
    ] {
        assert_eq!(moment::seconds(&value), expected, "{value}");
    }
}

#[test]
fn a_form_keeps_all_values_of_a_name() {
    let form =
        form([("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")].map(|(n, v)| (n.into(), v.into())).to_vec());
    assert_eq!(form, json!({"a": ["1", "3", "4"], "b": "2"}));
}

#[test]
fn numbers_without_a_plus_are_those_of_the_providers_country_and_nobodys_when_it_has_none() {
    let mapping = mapping(&json!({"call_id": "id", "from_number": "from", "to_number": "to"}));
    let read = |from: &str, country: Option<&str>| {
        let home = country.map(|country| Country::parse(country).expect("it is one"));
        let payload = json!({"id": 1, "from": from, "to": from});
        let told = mapping.read(payload, &TimeZone::UTC, home).expect("it has an id").told;
        assert_eq!((told.from_number.as_deref(), &told.to_phone), (Some(from), &told.from_phone));
        told.from_phone.map(|phone| phone.expose().to_owned())
    };
    assert_eq!(read("9812345678", Some("IN")).as_deref(), Some("+919812345678"));
    assert_eq!(read("+14155550123", Some("IN")).as_deref(), Some("+14155550123"));
    // Eleven digits of China, which would be somebody's in Texas.
    assert_eq!(read("13612345678", Some("CN")).as_deref(), Some("+8613612345678"));
    for (from, country) in [
        ("13612345678", None),
        ("13612345678", Some("IN")),
        ("919812345678", None),
        ("9812345678", None),
        ("anonymous", Some("IN")),
    ] {
        assert_eq!(read(from, country), None, "{from} {country:?}");
    }
}
