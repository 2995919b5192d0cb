//! The agent's audio on its way to the ear.

use voicebridge::audio::AudioFormat;

use crate::support::*;

#[test]
fn audio_is_sent_as_it_came_byte_for_byte() {
    let mut call = TestCall::answering();
    let mut sent = Vec::new();
    for (n, length) in [1_usize, 159, 160, 161, 7, 4000, 3, 801].into_iter().enumerate() {
        let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + n) as u8).collect();
        sent.extend_from_slice(&bytes);
        call.at(0, audio_bytes("resp_1", "item_1", bytes));
    }
    call.at(0, response_done("resp_1"));
    call.until(3000);
    assert_eq!(call.media, sent);
}

#[test]
fn samples_cut_in_two_by_the_model_arrive_whole() {
    let run = |pieces: &[usize]| {
        let mut call = TestCall::new(settings(AudioFormat::Pcm24k), ABLE);
        call.at(0, model_ready());
        call.at(0, response_started("resp_1"));
        let audio: Vec<u8> = (0..9_600_u32).map(|i| (i * i / 7) as u8 & 0x3F).collect();
        let mut rest = audio.as_slice();
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            call.at(0, audio_bytes("resp_1", "item_1", now.to_vec()));
            rest = later;
        }
        call.at(0, response_done("resp_1"));
        call.until(1000);
        call.media
    };
    let whole = run(&[9_600]);
    assert_eq!(whole.len(), 1600, "200 ms stay 200 ms");
    assert_eq!(run(&[1]), whole);
    assert_eq!(run(&[1, 7, 480, 3, 2]), whole);
}

#[test]
fn thirty_seconds_at_once_are_paced_a_little_ahead_of_the_ear() {
    let mut call = TestCall::answering();
    for _ in 0..30 {
        call.at(0, agent_audio("item_1", 1000));
    }
    call.at(0, response_done("resp_1"));
    call.until(15_000);
    // The rules hold every message to the lead; here, that the lead is also used.
    let ahead = call.media.len() as u64 / 8 - 15_000;
    assert!((100..=200).contains(&ahead), "{ahead} ms ahead");
    for ms in [15_000, 30_000] {
        call.at(ms, caller_frame(ms)); // The stream lives.
    }
    call.until(40_000);
    assert_eq!(call.media.len(), 30_000 * 8);
}

#[test]
fn the_end_of_an_item_is_sent_although_it_is_no_whole_frame() {
    let mut call = TestCall::answering();
    call.at(0, audio_bytes("resp_1", "item_1", vec![1; 1600 + 100]));
    call.until(50);
    assert_eq!(call.media.len(), 1600, "the rest of the frame may come");
    call.at(50, audio_done("item_1"));
    assert_eq!(call.media.len(), 1700);
    assert_eq!(call.marks, ["g0:item_1:200", "g0:item_1:212"]);
}

#[test]
fn part_of_a_frame_waits_for_the_rest_only_until_the_caller_would_hear_a_gap() {
    let mut call = TestCall::answering();
    call.at(0, audio_bytes("resp_1", "item_1", vec![1; 1600 + 100]));
    call.until(179);
    assert_eq!(call.media.len(), 1600);
    call.until(180);
    assert_eq!(call.media.len(), 1700, "20 ms are left to hear");
}

#[test]
fn audio_that_comes_at_the_pace_of_speech_is_not_held_up_by_the_converter() {
    let mut call = TestCall::new(settings(AudioFormat::Pcm24k), ABLE);
    call.at(0, model_ready());
    call.at(0, response_started("resp_1"));
    for frame in 0..10 {
        call.at(frame * 20, audio_bytes("resp_1", "item_1", vec![0; 960]));
        // 1.5 ms stay in the filter, and no frame waits for the one after it.
        assert_eq!(call.media.len() as u64, 160 * (frame + 1) - 12);
    }
}

#[test]
fn the_next_item_flushes_the_one_before() {
    let mut call = TestCall::answering();
    call.at(0, audio_bytes("resp_1", "item_1", vec![1; 100]));
    call.at(0, audio_bytes("resp_1", "item_2", vec![2; 160]));
    assert_eq!(call.media.len(), 260);
    assert_eq!(call.marks, ["g0:item_1:12"]);
}

#[test]
fn marks_come_every_200_ms_and_at_the_end_of_an_item() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 500));
    call.at(0, agent_audio("item_2", 120));
    call.at(0, response_done("resp_1"));
    call.until(2000);
    assert_eq!(call.marks, ["g0:item_1:200", "g0:item_1:400", "g0:item_1:500", "g0:item_2:120"]);
}

#[test]
fn marks_of_the_next_generation_are_told_apart() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 1000));
    call.at(100, speech_started());
    call.at(200, speech_stops("user_9", 200));
    call.at(300, response_started("resp_2"));
    call.at(300, audio_of("resp_2", "item_1", 200));
    assert_eq!(call.marks.last().unwrap(), "g1:item_1:200");
}

#[test]
fn an_item_is_heard_when_its_last_mark_comes_back() {
    let mut call = TestCall::answering();
    call.at(0, agent_text("item_1", "Hello."));
    call.at(0, agent_audio("item_1", 300));
    call.at(0, response_done("resp_1"));
    call.at(250, mark_played(1));
    call.expect_saved("");
    call.at(350, mark_played(2));
    call.expect_saved(r#"1r1 assistant "Hello." heard 300ms by mark"#);
}

#[test]
fn an_item_whose_mark_is_lost_is_heard_by_the_clock() {
    let mut call = TestCall::answering();
    call.at(0, agent_text("item_1", "Hello."));
    call.at(0, agent_audio("item_1", 300));
    call.at(0, response_done("resp_1"));
    call.until(800);
    call.expect_saved("");
    call.until(1000);
    call.expect_saved(r#"1r1 assistant "Hello." heard 300ms by clock"#);
}

#[test]
fn a_player_that_fell_behind_is_noticed_by_its_marks() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 5000));
    call.at(250, mark_played(1)); // 50 ms there and back.
    call.at(850, mark_played(2)); // From here on 400 ms late: it stood still.
    call.at(1050, mark_played(3));
    call.at(1250, mark_played(4));
    call.at(1310, speech_started());
    call.expect_after(
        1300,
        "
        1.310s twilio clear
        1.310s model truncate item_1 at 910ms
    ",
    );
}

#[test]
fn one_late_mark_is_jitter_and_not_a_player_that_fell_behind() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 5000));
    call.at(250, mark_played(1));
    call.at(450, mark_played(2));
    call.at(850, mark_played(3)); // Alone.
    call.at(850, mark_played(4));
    call.at(950, speech_started());
    call.expect_after(
        900,
        "
        0.950s twilio clear
        0.950s model truncate item_1 at 950ms
    ",
    );
}

#[test]
fn a_clear_empties_the_player_and_its_delay_with_it() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 5000));
    call.at(250, mark_played(1));
    call.at(850, mark_played(2));
    call.at(1050, mark_played(3));
    call.at(1250, mark_played(4)); // 400 ms behind.
    call.at(1300, speech_started());
    call.at(1400, speech_stops("user_9", 1400));
    call.at(1500, response_started("resp_2"));
    call.at(1500, audio_of("resp_2", "item_2", 1000));
    call.at(1750, speech_started()); // No mark of this generation has come back yet.
    call.expect_after(
        1700,
        "
        1.750s twilio clear
        1.750s model truncate item_2 at 250ms
    ",
    );
}

#[test]
fn a_pause_of_the_model_lets_a_late_player_catch_up() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 800));
    call.at(250, mark_played(1));
    call.at(850, mark_played(2));
    call.at(1050, mark_played(3));
    call.at(1250, mark_played(4)); // 400 ms behind, and now idle.
    call.at(2000, agent_audio("item_1", 1000));
    call.at(2150, speech_started());
    call.expect_after(
        2100,
        "
        2.150s twilio clear
        2.150s model truncate item_1 at 950ms
    ",
    );
}

#[test]
fn silence_between_two_deltas_is_not_counted_as_heard() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 100));
    call.at(1000, agent_audio("item_1", 500));
    call.at(1250, speech_started());
    call.expect_after(
        1200,
        "
        1.250s twilio clear
        1.250s model truncate item_1 at 350ms
    ",
    );
}

#[test]
fn an_item_that_goes_on_after_another_keeps_its_place() {
    let mut call = TestCall::answering();
    call.at(0, agent_audio("item_1", 200));
    call.at(0, agent_audio("item_2", 200));
    call.at(300, mark_played(1)); // The first stretch of item_1 is heard and forgotten.
    call.at(350, agent_audio("item_1", 400));
    call.at(550, speech_started());
    call.expect_after(
        500,
        "
        0.550s twilio clear
        0.550s model truncate item_1 at 350ms
    ",
    );
}

#[test]
fn deltas_without_audio_are_nothing() {
    let mut call = TestCall::answering();
    call.at(0, agent_text("item_1", "Hello."));
    call.at(0, audio_bytes("resp_1", "item_1", Vec::new()));
    call.at(0, audio_done("item_1"));
    call.until(2000);
    assert_eq!((call.media.len(), call.marks.len()), (0, 0));
    call.at(2000, stop());
    call.run_out();
    call.expect_saved(r#"1r1 assistant "" of "Hello." heard 0ms by clock interrupted"#);
}
