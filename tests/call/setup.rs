//! Agreeing with the model before the first sound.

use voicebridge::audio::AudioFormat;
use voicebridge::call::setup::{Setup, SetupError, Step};
use voicebridge::wire::model::{
    ErrorClass, ModelError, ModelEvent, SessionConfig, SessionEcho, Transcription, TurnDetection, TurnTaking,
};

use crate::support::{ABLE, TestCall, caller_frame, model_ready, session, settings};

fn created() -> ModelEvent<'static> {
    ModelEvent::SessionCreated { session_id: "sess_1".into(), expires_at: None }
}

fn echo(input: Option<AudioFormat>, output: Option<AudioFormat>) -> ModelEvent<'static> {
    ModelEvent::SessionUpdated(SessionEcho {
        input_format: input,
        output_format: output,
        ..SessionEcho::default()
    })
}

fn refused(param: Option<&str>, message: &str) -> ModelEvent<'static> {
    ModelEvent::Error(ModelError {
        code: "invalid_value".into(),
        message: message.into(),
        param: param.map(str::to_owned),
        class: ErrorClass::BadRequest,
        ..ModelError::default()
    })
}

fn asked(config: SessionConfig) -> Setup {
    let mut setup = Setup::new(config);
    assert_eq!(setup.handle_event(&created()), Step::Update { event_id: "session-1".into() });
    setup
}

fn rich() -> SessionConfig {
    SessionConfig {
        transcription: Some(Transcription {
            model: "gpt-transcribe".into(),
            languages: Vec::new(),
            keywords: Vec::new(),
        }),
        turn_detection: TurnDetection::SemanticVad { eagerness: "low".into() },
        turn_taking: TurnTaking::ByUs,
        max_output_tokens: Some(100),
        reasoning_effort: Some("low".into()),
        noise_reduction: Some("near_field".into()),
        ..session(AudioFormat::Pcmu)
    }
}

#[test]
fn a_session_is_ready_when_both_formats_are_echoed_as_asked() {
    let mut setup = asked(session(AudioFormat::Pcmu));
    assert_eq!(setup.handle_event(&echo(Some(AudioFormat::Pcmu), Some(AudioFormat::Pcmu))), Step::Ready);
    assert!(setup.left_out().is_empty());
}

#[test]
fn another_format_in_the_echo_is_refused() {
    for (input, output) in [
        (Some(AudioFormat::Pcmu), Some(AudioFormat::Pcm24k)),
        (Some(AudioFormat::Pcm24k), Some(AudioFormat::Pcmu)),
        (None, Some(AudioFormat::Pcmu)),
        (Some(AudioFormat::Pcmu), None),
    ] {
        let mut setup = asked(session(AudioFormat::Pcmu));
        assert_eq!(setup.handle_event(&echo(input, output)), Step::Failed(SetupError::WrongFormat));
    }
}

#[test]
fn an_echo_before_we_asked_means_nothing() {
    let mut setup = Setup::new(session(AudioFormat::Pcmu));
    assert_eq!(setup.handle_event(&echo(Some(AudioFormat::Pcmu), Some(AudioFormat::Pcmu))), Step::Wait);
}

#[test]
fn each_refused_member_is_left_out_once_and_named() {
    for (param, named) in [
        ("session.reasoning.effort", "reasoning"),
        ("session.audio.input.noise_reduction.type", "noise_reduction"),
        ("session.max_output_tokens", "max_output_tokens"),
        ("session.audio.input.turn_detection.eagerness", "turn_detection"),
        ("session.audio.input.turn_detection.create_response", "turn_taking"),
        ("session.tools[0].parameters", "tools"),
    ] {
        let mut setup = asked(rich());
        assert_eq!(
            setup.handle_event(&refused(Some(param), "")),
            Step::Update { event_id: "session-2".into() },
            "{param}"
        );
        assert_eq!(setup.left_out(), [named]);
        assert_ne!(*setup.config(), rich());
        let again = setup.handle_event(&refused(Some(param), ""));
        assert!(matches!(again, Step::Failed(SetupError::Refused { .. })), "{param}: {again:?}");
    }
}

#[test]
fn the_model_that_writes_down_is_replaced_and_then_left_out() {
    let mut setup = asked(rich());
    let refusal = refused(Some("session.audio.input.transcription.model"), "");
    assert!(matches!(setup.handle_event(&refusal), Step::Update { .. }));
    assert_eq!(setup.config().transcription.as_ref().unwrap().model, "gpt-4o-mini-transcribe");
    assert!(matches!(setup.handle_event(&refusal), Step::Update { .. }));
    assert_eq!(setup.config().transcription, None);
    assert!(matches!(setup.handle_event(&refusal), Step::Failed(SetupError::Refused { .. })));
    assert_eq!(setup.left_out(), ["transcription model", "transcription"]);
}

#[test]
fn a_refusal_that_names_no_member_leaves_reasoning_out() {
    let mut setup = asked(rich());
    assert!(matches!(setup.handle_event(&refused(None, "unsupported")), Step::Update { .. }));
    assert_eq!(setup.left_out(), ["reasoning"]);
}

#[test]
fn what_cannot_be_left_out_fails() {
    let mut setup = asked(session(AudioFormat::Pcmu));
    let step = setup.handle_event(&refused(Some("session.audio.input.format"), ""));
    let refused =
        SetupError::Refused { code: "invalid_value".into(), param: "session.audio.input.format".into() };
    assert_eq!(step, Step::Failed(refused));
}

#[test]
fn a_wrong_key_fails_at_once_also_before_the_session_exists() {
    let class = ErrorClass::Fatal;
    let error = ModelError { code: "invalid_api_key".into(), class, ..ModelError::default() };
    let mut setup = Setup::new(session(AudioFormat::Pcmu));
    let fatal = Step::Failed(SetupError::Fatal { code: "invalid_api_key".into() });
    assert_eq!(setup.handle_event(&ModelEvent::Error(error)), fatal);
}

#[test]
fn trouble_that_passes_leaves_nothing_out_and_is_no_refusal() {
    for class in [ErrorClass::RetryResponse, ErrorClass::SessionOver] {
        let mut setup = asked(rich());
        let error = ModelError { code: "server_error".into(), class, ..ModelError::default() };
        let not_now = Step::Failed(SetupError::NotNow { code: "server_error".into() });
        assert_eq!(setup.handle_event(&ModelEvent::Error(error)), not_now);
        assert!(setup.left_out().is_empty());
    }
}

#[test]
fn a_peer_that_refuses_for_ever_is_asked_a_bounded_number_of_times() {
    let everything = "transcription reasoning noise_reduction max_output_tokens turn_detection tools";
    let mut setup = asked(rich());
    let updates = (0..100)
        .map(|_| setup.handle_event(&refused(None, everything)))
        .take_while(|step| matches!(step, Step::Update { .. }))
        .count();
    assert!(updates <= 4, "{updates}");
}

#[test]
fn no_caller_audio_is_forwarded_before_the_model_is_ready_and_none_is_lost_then() {
    let mut call = TestCall::new(settings(AudioFormat::Pcmu), ABLE);
    for n in 0..50 {
        call.at(20 + n * 20, caller_frame(n * 20));
    }
    assert_eq!(call.count("model"), 0);
    call.at(1_100, model_ready());
    assert_eq!(call.appended.len(), 50 * 160);
    call.at(1_120, caller_frame(1_000));
    assert_eq!(call.appended.len(), 51 * 160);
}

#[test]
fn of_a_long_wait_the_last_five_seconds_are_kept() {
    let mut call = TestCall::new(settings(AudioFormat::Pcmu), ABLE);
    for n in 0..400 {
        call.at(20 + n * 20, caller_frame(n * 20));
    }
    call.at(8_100, model_ready());
    assert_eq!(call.appended.len(), 5_000 * 8);
    assert_eq!(call.count("note FrameNotKept"), 150);
}

#[test]
fn a_model_that_is_not_ready_in_time_is_unavailable() {
    let mut call = TestCall::new(settings(AudioFormat::Pcmu), ABLE);
    call.run_out();
    call.expect_after(
        0,
        "
        10.000s end stream model_unavailable
        10.000s ended model_unavailable
    ",
    );
}

#[test]
fn the_greeting_is_asked_for_once_however_often_the_model_is_ready() {
    let mut settings = settings(AudioFormat::Pcmu);
    settings.greeting = Some("Greet.".into());
    let mut call = TestCall::new(settings, ABLE);
    call.at(100, model_ready());
    call.at(110, model_ready());
    call.expect_after(0, "0.100s model respond greeting in its own words [resp-greeting-1]");
}
