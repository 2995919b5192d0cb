use std::time::Instant;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;

fn all() -> Redaction {
    Redaction::of(&Kind::ALL)
}

fn cards() -> Redaction {
    Redaction::of(&[Kind::PaymentCard])
}

/// All but telephone numbers, which ordinary talk is full of.
fn secrets() -> Redaction {
    Redaction::of(&[Kind::PaymentCard, Kind::CardSecurityCode, Kind::Iban, Kind::UsSsn])
}

#[test]
fn a_card_number_is_found_however_it_is_written_or_said() {
    for said in [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111.1111.1111.1111",
        "4111, 1111, 1111, 1111",
        "4111. 1111. 1111. 1111",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "4,111,111,111,111,111",
        "41 11 11 11 11 11 11 11",
        "four one one one one one one one one one one one one one one one",
        "Four, one one one; one one one one, one-one-one-one, uh, one one one one",
        "four triple one quadruple one double one double one triple one 1",
        "forty-one eleven eleven eleven eleven eleven eleven eleven",
        "four one one one, 1111, eleven eleven, 11 double one",
        "3782 822463 10005",
        "thirty-seven eighty-two, eighty-two twenty-four sixty-three, one thousand five",
        "six oh one one, oh oh oh nine, nine oh one three, nine four two four",
        "5555 5555 5555 four four four four",
        "４１１１ １１１１ １１１１ １１１１",
        "6304 0000 0000 0000",
    ] {
        for (before, behind) in
            [("It is ", "."), ("", ""), ("Well, 2 things: ", ", expires 12/27."), ("(", ")")]
        {
            let text = format!("{before}{said}{behind}");
            let redacted = cards().apply(&text);
            let expected = format!("{before}[payment card]{behind}");
            if said.ends_with("one thousand five") {
                // Said as an amount, the last group is 1000 and 5: more is not understood.
                continue;
            }
            assert_eq!(redacted, expected, "{text}");
        }
    }
}

#[test]
fn what_only_looks_like_a_card_number_stays() {
    for said in [
        "4111 1111 1111 1112",                // The check digit is wrong.
        "1234 5678 9012 3452",                // No network has it.
        "CA41111111111111114111111111111111", // The SID of a call.
        "item_4111111111111111",
        "41111111-1111-1111-1111-111111111111",
        "0191e0a0-4111-1111-1111-111111111111",
        "+44 4111 1111 1111 111",
        "$4,111,111,111,111,111",
    ] {
        assert_eq!(cards().apply(said), said);
    }
}

#[test]
fn each_kind_is_found_where_it_is_asked_for_and_stays_where_it_is_not() {
    for (kind, said, left) in [
        (Kind::Iban, "to DE89 3704 0044 0532 0130 00, please", "to [bank account], please"),
        (Kind::Iban, "GB82WEST12345698765432", "[bank account]"),
        (Kind::Iban, "it is d e eight nine 3704 0044 0532 0130 00", "it is [bank account]"),
        (Kind::UsSsn, "mine is 123-45-6789.", "mine is [social security number]."),
        (
            Kind::UsSsn,
            "my social security number is one two three, four five, six seven eight nine",
            "my social security number is [social security number]",
        ),
        (Kind::CardSecurityCode, "the CVV is 123", "the CVV is [security code]"),
        (
            Kind::CardSecurityCode,
            "security code: three digits on the back, one two three",
            "security code: three digits on the back, [security code]",
        ),
        (Kind::CardSecurityCode, "the c v v, it's 0 4 2, thanks", "the c v v, it's [security code], thanks"),
        (Kind::Email, "write to john.smith+x@mail.example.com.", "write to [e-mail address]."),
        (Kind::Email, "john dot smith at example dot co dot uk thanks", "[e-mail address] thanks"),
        (Kind::Email, "it's j s nine at gmail dot com", "it's [e-mail address]"),
        (
            Kind::PhoneNumber,
            "call +1 (415) 555-0123 or 415.555.0199",
            "call [phone number] or [phone number]",
        ),
        (
            Kind::PhoneNumber,
            "four one five, five five five oh one two three",
            "four one five, [phone number]",
        ),
    ] {
        assert_eq!(Redaction::of(&[kind]).apply(said), left, "{kind:?}");
        let others: Vec<Kind> = Kind::ALL.into_iter().filter(|other| *other != kind).collect();
        let by_others = Redaction::of(&others).apply(said).into_owned();
        assert!(!by_others.contains(kind.placeholder()), "{by_others}");
        assert_eq!(Redaction::NONE.apply(said), said);
        assert_eq!(Kind::from_word(kind.as_str()), Some(kind));
    }
}

#[test]
fn ordinary_talk_stays_as_it_is() {
    for said in [
        "We open at 9:30 and close at 18:00 on 24 December 2026; on 2026-12-31 at noon.",
        "That is 1,249.99 euros, or $12,500 for ten, plus 19 percent: four thousand one hundred dollars.",
        "My number is 415 555 0123, or +44 20 7946 0958, or (0049) 30 1234567, or 09876 543210.",
        "Order 20241030-0042 of two thousand and twenty four, room 4111, floor twelve, 3-4 people.",
        "One, two, three, four, five: once I caught a fish alive.",
        "At example dot, he said, I was at home. DE is Germany; GB 20 is not an account.",
        "It took 3 days, 4 hours, 15 minutes and 26 seconds; the ticket is 550e8400-e29b-41d4-a716-446655440000.",
        "Version 10.0.19045.3803, 192.168.100.200, section 4.1.1.1, pages 100-120 and 4111-4121.",
        "From 2026-01-01 09:00 to 2026-01-02 17:30, call CA00000000000000000000000000000001 lasted 90 seconds.",
    ] {
        assert_eq!(secrets().apply(said), said);
    }
    let dates = "On 2026-12-31 or 31.12.2026, at 9:30, for 1,249.99 euros or $12,500,000.";
    assert_eq!(all().apply(dates), dates);
}

#[test]
fn what_is_json_stays_json() {
    let text =
        r#"{"card":4111111111111111,"again":"4111 1111 1111 1111","id":"CA1","amount":12.5,"list":["five"]}"#;
    let redacted = cards().apply_to_document(text);
    let value: Value = serde_json::from_str(&redacted).unwrap_or_default();
    assert_eq!(
        value,
        json!({"card": "[payment card]", "again": "[payment card]", "id": "CA1", "amount": 12.5, "list": ["five"]})
    );
    let untouched = r#"{"b": 1,  "a": 2}"#;
    assert_eq!(cards().apply_to_document(untouched), untouched);
    assert_eq!(cards().apply_to_document("paid with 4111111111111111"), "paid with [payment card]");
}

#[test]
fn a_value_is_known_by_the_name_of_its_member() {
    for name in [
        "cvv",
        "CVV",
        "cvc",
        "cvv2",
        "CVC2",
        "cardCVV",
        "cvvCode",
        "securityCode",
        "card_security_code",
        "card-security-code",
        "CardSecurityCode",
        "securitycode",
        "card.security.code",
        "cardVerificationValue",
    ] {
        for value in
            [json!("123"), json!(1234), json!("one two three"), json!(" 0 4 2"), json!(42), json!(["123"])]
        {
            let text = json!({ name: value, "floor": 3, "room": "123" }).to_string();
            let redacted: Value = serde_json::from_str(&secrets().apply_to_document(&text)).unwrap();
            let left = if value.is_array() { json!(["[security code]"]) } else { json!("[security code]") };
            let left = if value == json!(" 0 4 2") { json!(" [security code]") } else { left };
            assert_eq!(redacted, json!({ name: left, "floor": 3, "room": "123" }), "{text}");
            assert_eq!(cards().apply_to_document(&text), text, "it was not asked for");
        }
    }
    for name in [
        "ssn",
        "SSN",
        "customerSsn",
        "user_ssn",
        "social_security_number",
        "socialSecurityNumber",
        "social-security",
    ] {
        for value in [json!("123456789"), json!(123_456_789), json!("123 45 6789"), json!(12_345_678)] {
            let redacted =
                secrets().apply_json(json!({ name: value, "order": "123456789", "n": 123_456_789 }));
            let left = json!({ name: "[social security number]", "order": "123456789", "n": 123_456_789 });
            assert_eq!(redacted, left, "{name}: {value}");
        }
    }
    let nested = json!({"card": {"number": "4111 1111", "security": {"code": 123}, "year": 2027}, "guests": [{"ssn": 123_456_789}]});
    assert_eq!(
        secrets().apply_json(nested),
        json!({
            "card": {"number": "[payment card]", "security": {"code": "[security code]"}, "year": 2027},
            "guests": [{"ssn": "[social security number]"}],
        })
    );
    let ordinary = json!({"pin": "1234", "code": 123, "session": 123_456_789, "address": "123 Main Street", "total": 12.5});
    assert_eq!(secrets().apply_json(ordinary.clone()), ordinary);
}

#[test]
fn names_announce_a_value_also_where_the_json_was_cut() {
    for (text, left) in [
        (r#"{"card_security_code": "123", "a"#, r#"{"card_security_code": "[security code]", "a"#),
        (r#"{"securityCode":123,"#, r#"{"securityCode":[security code],"#),
        (r#"{"customer_ssn":"123456789"#, r#"{"customer_ssn":"[social security number]"#),
    ] {
        assert_eq!(secrets().apply_to_document(text), left);
    }
}

#[test]
fn what_a_function_is_given_may_be_the_answer_to_a_question() {
    let mut talk = Talk::new(secrets());
    let given = r#"{"value":"123","amount":500,"fee":1.25,"card_amount":"700"}"#;
    assert_eq!(talk.document(1, given), given);
    let _ = talk.turn(2, "And the security code, please?", None);
    let left = r#"{"amount":500,"card_amount":"700","fee":1.25,"value":"[security code]"}"#;
    let as_value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(as_value(&talk.document(4, given)), as_value(left));
    assert_eq!(talk.document(4, "It was 123."), "It was [security code].");
    assert_eq!(talk.document(1, given), given, "it was before the question");
    assert_eq!(talk.document(40, given), given);
    assert_eq!(Talk::new(Redaction::NONE).document(1, r#"{"cvv":"123"}"#), r#"{"cvv":"123"}"#);
}

#[test]
fn a_question_is_remembered_when_the_conversation_goes_on_elsewhere() {
    let asked = |turns_since: usize| {
        let mut turns = vec!["Hello.", "And the security code, please?"];
        turns.extend(vec!["Hm."; turns_since]);
        Talk::resumed(secrets(), turns.into_iter())
    };
    // Places may begin anywhere: what a session was told may stand before.
    for begins_at in [1, 7, 10_001] {
        let answer = |turns_since, after| {
            let mut talk = asked(turns_since);
            let _ = talk.turn(begins_at, "Are you there?", None);
            talk.turn(begins_at + after, "One two three.", None).0.into_owned()
        };
        assert_eq!(answer(0, 1), "[security code].");
        assert_eq!(answer(0, 7), "[security code].");
        assert_eq!(answer(0, 8), "One two three.", "it is as long ago as without a break");
        assert_eq!(answer(6, 1), "[security code].");
        assert_eq!(answer(7, 1), "One two three.");
        assert_eq!(asked(0).document(begins_at, r#"{"value":123}"#), r#"{"value":"[security code]"}"#);
    }
    let mut nothing = Talk::resumed(cards(), ["The security code?"].into_iter());
    assert_eq!(nothing.turn(1, "One two three.", None).0, "One two three.");
}

#[test]
fn an_answer_is_known_by_its_question_in_whatever_order_they_are_written() {
    let mut talk = Talk::new(secrets());
    let mut said = |sequence, text: &'static str| talk.turn(sequence, text, None).0.into_owned();
    assert_eq!(said(1, "Room 123, thanks."), "Room 123, thanks.");
    assert_eq!(said(2, "And the security code, please?"), "And the security code, please?");
    assert_eq!(said(3, "One two three."), "[security code].");
    assert_eq!(said(4, "Which digits are on the card?"), "Which digits are on the card?");
    assert_eq!(said(5, "4111 1111"), "[payment card]");
    assert_eq!(said(6, "Yes?"), "Yes?");
    assert_eq!(
        said(7, "eleven eleven, eleven eleven, that's it, at 9:30 for $100"),
        "[payment card], [payment card], that's it, at 9:30 for $100"
    );
    // Again, as when a turn is corrected.
    assert_eq!(said(3, "One two three."), "[security code].");
    assert_eq!(said(1, "Room 123, thanks."), "Room 123, thanks.");
    assert_eq!(said(40, "Room 123, thanks."), "Room 123, thanks.");
}

#[test]
fn what_was_cut_in_the_middle_of_a_number_does_not_keep_the_part_that_was_heard() {
    let mut talk = Talk::new(cards());
    let meant = "I repeat: 4111 1111 1111 1111. Is that right?";
    for (heard, left) in [
        ("I repeat: 4111 1111 11", "I repeat: [payment card]"),
        ("I rep", "I rep"),
        (meant, "I repeat: [payment card]. Is that right?"),
        ("", ""),
    ] {
        let (heard, rest) = talk.turn(1, heard, Some(meant));
        assert_eq!((&*heard, rest.as_deref()), (left, Some("I repeat: [payment card]. Is that right?")));
    }
}

#[test]
fn a_turn_takes_less_time_than_a_frame_of_audio() {
    let turn =
        "I would like to pay with my card, it is 4111 1111 1111 1111, and I live in number 12. ".repeat(12);
    #[expect(clippy::disallowed_methods, reason = "the machine's own time is what is measured")]
    let now = Instant::now;
    let fastest = (0..20).map(|_| {
        let begun = now();
        let redacted = all().apply(&turn);
        assert!(!redacted.contains("4111"));
        begun.elapsed()
    });
    let fastest = fastest.min().unwrap_or_default();
    assert!(fastest.as_millis() < 20, "a minute's talk took {fastest:?}");
}

/// A number with its check digit.
fn with_check_digit(mut digits: Vec<u8>) -> Vec<u8> {
    digits.push(0);
    let last = digits.len() - 1;
    while !card::has_check_digit(&digits) {
        digits[last] += 1;
    }
    digits
}

prop_compose! {
    fn card_number()(
        (prefix, length) in select(vec![
            ("4", 13), ("4", 16), ("4", 19), ("51", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15), ("36", 14),
            ("3528", 16), ("6011", 16), ("65", 19), ("62", 17), ("50", 13), ("6759", 18), ("2204", 16),
        ]),
        rest in prop::collection::vec(0..10_u8, 19),
    ) -> Vec<u8> {
        let mut digits: Vec<u8> = prefix.bytes().map(|byte| byte - b'0').collect();
        digits.extend(rest.into_iter().take(length - 1 - prefix.len()));
        with_check_digit(digits)
    }
}

const SPOKEN: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// The digits in groups of any size, in digits or in words, with anything between them that people put there.
fn write(digits: &[u8], groups: &[(usize, bool)], separators: &[&str]) -> String {
    let mut text = String::new();
    let mut rest = digits;
    for (index, (size, is_spoken)) in groups.iter().cycle().enumerate() {
        if rest.is_empty() {
            break;
        }
        let (group, more) = rest.split_at((*size).min(rest.len()));
        if index > 0 {
            text.push_str(separators[index % separators.len()]);
        }
        let words: Vec<String> = group
            .iter()
            .map(|digit| if *is_spoken { SPOKEN[usize::from(*digit)].to_owned() } else { digit.to_string() })
            .collect();
        text.push_str(&words.join(if *is_spoken { " " } else { "" }));
        rest = more;
    }
    text
}

proptest! {
    #[test]
    fn card_numbers_are_found_in_any_grouping(
        digits in card_number(),
        groups in prop::collection::vec((1..7_usize, any::<bool>()), 1..6),
        separators in prop::collection::vec(select(vec![" ", "-", ".", ", ", " - ", ". ", " uh ", "  "]), 1..4),
        before in "([A-Za-z]{2,9} ){0,4}",
        behind in "( [A-Za-z]{2,9}){0,4}",
    ) {
        let number = write(&digits, &groups, &separators);
        let text = format!("{before}{number}{behind}");
        let redacted = cards().apply(&text);
        prop_assert!(redacted.contains("[payment card]"), "{text}");
        // Nothing of it is left: there were no other digits, written or said.
        prop_assert!(!redacted.contains(|c: char| c.is_ascii_digit()), "{redacted}");
        prop_assert_eq!(cards().apply(&redacted), redacted.as_ref());
    }

    #[test]
    fn numbers_of_a_telephone_an_hour_a_day_or_a_price_are_no_card(
        country in select(vec![1_u32, 44, 49, 91, 351]),
        area in 100..1000_u32,
        first in 100..1000_u32,
        last in 0..10_000_u32,
        form in 0..7,
        (year, month, day) in (1990..2040_u32, 1..13_u32, 1..29_u32),
        (hour, minute) in (0..24_u32, 0..60_u32),
        price in 0..1_000_000_u32,
    ) {
        let said = match form {
            0 => format!("+{country} {area} {first} {last:04}"),
            1 => format!("+{country}{area}{first}{last:04}"),
            2 => format!("({area}) {first}-{last:04}"),
            3 => format!("00{country}-{area}-{first}-{last:04}"),
            4 => format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}, or {day}/{month}/{year}"),
            5 => format!("{price}.{minute:02} euros or ${price},{area}.00"),
            _ => format!("+{country} {area} {first} {last:04} on {day:02}.{month:02}.{year} at {hour}:{minute:02}"),
        };
        let text = format!("It is {said}, thank you.");
        prop_assert_eq!(secrets().apply(&text), text.as_str());
    }

    #[test]
    fn any_text_is_taken_and_a_second_time_changes_nothing(text in "\\PC{0,200}", sequence in 1..9_u32) {
        let redacted = all().apply(&text).into_owned();
        prop_assert_eq!(all().apply(&redacted), redacted.as_str());
        let mut talk = Talk::new(all());
        let cut = text.char_indices().map(|(at, _)| at).nth(text.chars().count() / 2).unwrap_or(0);
        let (heard, meant) = talk.turn(sequence, &text[..cut], Some(&text));
        prop_assert_eq!(meant.as_deref(), Some(redacted.as_str()));
        prop_assert!(heard.len() <= text.len() + 30 * text.len());
    }
}
