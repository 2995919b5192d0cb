//! The configuration: defaults, rules, and that every mistake is told at once and no secret is.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;
use voicebridge::config::{Config, ConfigError, Database, Dial, Mistake, Need, VARIABLES};
use voicebridge::wire::model::AudioFormat;

const KEY: (&str, &str) = ("OPENAI_API_KEY", "sk-test-0123456789");

#[test]
fn a_key_is_all_that_is_needed_on_one_machine() {
    let config = load(&[KEY]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert!(config.public_url.is_none());
    assert!(matches!(config.database, Database::Private));
    assert_eq!(config.data_dir, Path::new("./data"));
    assert_eq!(config.openai.realtime_url.as_str(), "wss://api.openai.com/v1/realtime");
    assert_eq!(config.openai.model, "gpt-realtime-2.1");
    assert_eq!(config.openai.audio_format, AudioFormat::Pcm24k);
    assert_eq!(config.twilio.api_url.as_str(), "https://api.twilio.com/");
    assert_eq!(config.grace_period, Duration::from_mins(5));
    assert_eq!(config.max_calls, 500);
    assert_eq!(config.dial, Dial { per_second: 1, max_calls: 50, inbound_reserve_percent: 20 });
    assert!(config.admin_key.is_none());
    assert!(config.cors_origins.is_empty());
    assert!(config.kaleyra.is_none());
}

#[test]
fn an_account_of_kaleyra_is_a_key_and_its_mistakes_are_told() {
    let kaleyra = load(&[KEY, ("KALEYRA_API_KEY", "A0123456789")]).unwrap().kaleyra.unwrap();
    assert_eq!(kaleyra.api_url.as_str(), "https://api-voice.kaleyra.com/v1/");
    assert_eq!((kaleyra.organization.as_str(), kaleyra.sync_every), ("default", None));
    assert!(!format!("{kaleyra:?}").contains("A0123456789"));
    let told = mistakes(&[
        KEY,
        ("KALEYRA_API_URL", "http://api-voice.kaleyra.com/v1/"),
        ("KALEYRA_ORGANIZATION", "Kanzlei Weber"),
        ("KALEYRA_SYNC_EVERY_MIN", "0"),
    ]);
    let names: Vec<&str> = told.iter().map(|mistake| mistake.name.as_str()).collect();
    assert_eq!(names, ["KALEYRA_API_URL", "KALEYRA_ORGANIZATION", "KALEYRA_SYNC_EVERY_MIN"]);
    let told = mistakes(&[KEY, ("KALEYRA_SYNC_EVERY_MIN", "15")]);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].name, "KALEYRA_API_KEY");
}

#[test]
fn everything_can_be_set() {
    let config = load(&[
        KEY,
        ("VOICEBRIDGE_LISTEN", "0.0.0.0:9000"),
        ("PUBLIC_URL", "https://voice.example.com/"),
        ("DATABASE_URL", "postgres://voice:pw@db.example.com/voice"),
        ("VOICEBRIDGE_DATA_DIR", "/var/lib/voicebridge"),
        ("OPENAI_REALTIME_URL", "wss://models.example.com/realtime?api-version=1"),
        ("OPENAI_REALTIME_FALLBACK_URL", "wss://others.example.com/realtime"),
        ("OPENAI_REALTIME_FALLBACK_API_KEY", "theirs"),
        ("OPENAI_REALTIME_MODEL", "another"),
        ("OPENAI_TRANSCRIPTION_MODEL", "writer"),
        ("AUDIO_FORMAT", "pcmu"),
        ("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001"),
        ("TWILIO_AUTH_TOKEN", "first, second,"),
        ("TWILIO_API_URL", "http://127.0.0.1:4010"),
        ("KALEYRA_API_URL", "http://127.0.0.1:4011/v1/"),
        ("KALEYRA_API_KEY", "A0123456789"),
        ("KALEYRA_ORGANIZATION", "kanzlei-weber"),
        ("KALEYRA_SYNC_EVERY_MIN", "15"),
        ("VAPI_WEBHOOK_SECRET", "0123456789abcdef-1,0123456789abcdef-2"),
        ("VOICEBRIDGE_ADMIN_KEY", "0123456789abcdef"),
        ("VOICEBRIDGE_CORS_ORIGINS", "https://Desk.example.com, http://localhost:3000"),
        ("VOICEBRIDGE_MAX_CALLS", "7"),
        ("VOICEBRIDGE_DIAL_CPS", "30"),
        ("VOICEBRIDGE_DIAL_MAX_CALLS", "0"),
        ("VOICEBRIDGE_INBOUND_RESERVE", "50"),
        ("VOICEBRIDGE_GRACE_PERIOD_S", "0"),
        ("VOICEBRIDGE_LOG", "warn,voicebridge=debug"),
        ("VOICEBRIDGE_LOG_FORMAT", "json"),
    ])
    .unwrap();
    assert_eq!(config.public_url.unwrap().as_str(), "https://voice.example.com");
    assert!(config.database.connect_options().is_some());
    assert_eq!(config.openai.audio_format, AudioFormat::Pcmu);
    assert_eq!(config.openai.fallback_url.unwrap().as_str(), "wss://others.example.com/realtime");
    assert_eq!(config.openai.fallback_api_key.unwrap().expose_secret(), "theirs");
    assert_eq!(
        (config.openai.model.as_str(), config.openai.transcription_model.as_str()),
        ("another", "writer")
    );
    let tokens: Vec<_> =
        config.twilio.auth_tokens.iter().map(|token| token.expose_secret().to_owned()).collect();
    assert_eq!(tokens, ["first", "second"]);
    assert_eq!(config.cors_origins, ["https://desk.example.com", "http://localhost:3000"]);
    let kaleyra = config.kaleyra.unwrap();
    assert_eq!(kaleyra.api_url.as_str(), "http://127.0.0.1:4011/v1/");
    assert_eq!(kaleyra.organization, "kanzlei-weber");
    assert_eq!(kaleyra.sync_every, Some(Duration::from_mins(15)));
    let secrets = config.vapi_webhook_secrets.iter().map(ExposeSecret::expose_secret);
    assert_eq!(secrets.collect::<Vec<_>>(), ["0123456789abcdef-1", "0123456789abcdef-2"]);
    assert_eq!((config.max_calls, config.grace_period), (7, Duration::ZERO));
    assert_eq!(config.dial, Dial { per_second: 30, max_calls: 0, inbound_reserve_percent: 50 });
}

#[test]
fn calls_of_ours_leave_the_reserve_free_for_others() {
    let dial = Dial { per_second: 1, max_calls: 50, inbound_reserve_percent: 20 };
    for (max_calls, live_calls, room) in
        [(500, 0, 400), (500, 399, 1), (500, 400, 0), (500, 500, 0), (7, 0, 5), (0, 0, 0)]
    {
        assert_eq!(dial.room(max_calls, live_calls), room, "{live_calls} of {max_calls}");
    }
    assert_eq!(Dial { inbound_reserve_percent: 100, ..dial }.room(500, 0), 0);
    assert_eq!(Dial { inbound_reserve_percent: 0, ..dial }.room(500, 499), 1);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let mistakes = mistakes(&[
        ("VOICEBRIDGE_LISTEN", "8080"),
        ("PUBLIC_URL", "voice.example.com"),
        ("DATABASE_URL", "mysql://x"),
        ("OPENAI_REALTIME_URL", "ws://models.example.com/realtime"),
        ("OPENAI_REALTIME_FALLBACK_URL", "others.example.com"),
        ("AUDIO_FORMAT", "opus"),
        ("TWILIO_ACCOUNT_SID", "AC12"),
        ("TWILIO_API_URL", "ftp://example.com"),
        ("VOICEBRIDGE_ADMIN_KEY", "short"),
        ("VOICEBRIDGE_MAX_CALLS", "many"),
        ("VOICEBRIDGE_GRACE_PERIOD_S", "-1"),
        ("VOICEBRIDGE_LOG", "voicebridge=loudest"),
        ("VOICEBRIDGE_LOG_FORMAT", "xml"),
    ]);
    let mut names: Vec<_> = mistakes.iter().map(|mistake| mistake.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "AUDIO_FORMAT",
            "DATABASE_URL",
            "OPENAI_API_KEY",
            "OPENAI_REALTIME_FALLBACK_URL",
            "OPENAI_REALTIME_URL",
            "PUBLIC_URL",
            "TWILIO_ACCOUNT_SID",
            "TWILIO_API_URL",
            "VOICEBRIDGE_ADMIN_KEY",
            "VOICEBRIDGE_GRACE_PERIOD_S",
            "VOICEBRIDGE_LISTEN",
            "VOICEBRIDGE_LOG",
            "VOICEBRIDGE_LOG_FORMAT",
            "VOICEBRIDGE_MAX_CALLS",
        ]
    );
}

#[test]
fn the_second_endpoint_has_a_key_and_a_key_has_an_endpoint() {
    let here = ("OPENAI_REALTIME_URL", "ws://127.0.0.1:9");
    let there = ("OPENAI_REALTIME_FALLBACK_URL", "wss://others.example.com/realtime");
    let key = ("OPENAI_REALTIME_FALLBACK_API_KEY", "theirs");
    assert!(load(&[here, there, key]).is_ok() && load(&[KEY, there]).is_ok());
    for wrong in [&[here, there][..], &[KEY, key]] {
        let mistakes = mistakes(wrong);
        assert_eq!((mistakes.len(), mistakes[0].name.as_str()), (1, key.0), "{mistakes:?}");
    }
}

#[test]
fn each_mistake_names_the_value_and_what_to_do() {
    for (name, value, told) in [
        (
            "VOICEBRIDGE_LISTEN",
            "8080",
            "VOICEBRIDGE_LISTEN=\"8080\" must be an address and a port, such as 127.0.0.1:8080",
        ),
        (
            "PUBLIC_URL",
            "https://example.com/path",
            "PUBLIC_URL=\"https://example.com/path\" must be only scheme, host and port",
        ),
        ("PUBLIC_URL", "https://example.com/?a=b", "no path, query or fragment"),
        ("OPENAI_REALTIME_URL", "ws://example.com/x", "use wss:// (ws:// only to 127.0.0.1)"),
        ("OPENAI_REALTIME_URL", "https://example.com", "must begin with wss://"),
        ("AUDIO_FORMAT", "opus", "AUDIO_FORMAT=\"opus\" must be pcm24k or pcmu"),
        ("VOICEBRIDGE_MAX_CALLS", "0", "must be a whole number from 1 to 100000"),
        ("VOICEBRIDGE_LOG_FORMAT", "xml", "use text or json"),
        ("VOICEBRIDGE_LOG", "voicebridge=loudest", "such as info"),
        ("TWILIO_ACCOUNT_SID", "AC12", "must be AC and 32 hexadecimal digits"),
    ] {
        let error = load(&[KEY, (name, value)]).unwrap_err().to_string();
        assert!(error.contains(told), "{name}={value}: {error}");
    }
}

#[test]
fn an_unencrypted_model_is_allowed_on_this_machine_only_and_needs_no_key() {
    for url in ["ws://127.0.0.1:9001/v1/realtime", "ws://localhost:9001", "ws://[::1]:9001"] {
        assert!(load(&[("OPENAI_REALTIME_URL", url)]).is_ok(), "{url}");
    }
    for url in ["ws://10.0.0.1:9001", "ws://127.0.0.1.example.com", "ws://localhost.example.com"] {
        assert_eq!(mistakes(&[KEY, ("OPENAI_REALTIME_URL", url)])[0].name, "OPENAI_REALTIME_URL", "{url}");
    }
}

#[test]
fn without_a_token_only_this_machine_may_reach_us() {
    let open = [KEY, ("VOICEBRIDGE_LISTEN", "0.0.0.0:8080"), ("PUBLIC_URL", "https://voice.example.com")];
    let error = load(&open).unwrap_err().to_string();
    assert!(error.contains("VOICEBRIDGE_LISTEN=\"0.0.0.0:8080\""), "{error}");
    assert!(error.contains("set TWILIO_AUTH_TOKEN, or listen on 127.0.0.1"), "{error}");
    assert!(load(&[open.as_slice(), &[("TWILIO_AUTH_TOKEN", "token")]].concat()).is_ok());

    let local = load(&[KEY]).unwrap();
    assert!(local.warnings().iter().any(|warning| warning.contains("SIGNATURES ARE NOT CHECKED")));
    let signed = load(&[KEY, ("TWILIO_AUTH_TOKEN", "token")]).unwrap();
    assert!(signed.warnings().is_empty());
}

#[test]
fn an_address_for_others_needs_a_public_url() {
    let error = load(&[KEY, ("VOICEBRIDGE_LISTEN", "0.0.0.0:8080"), ("TWILIO_AUTH_TOKEN", "t")]).unwrap_err();
    assert!(error.to_string().contains("set PUBLIC_URL"), "{error}");
    let plain = load(&[KEY, ("PUBLIC_URL", "http://voice.example.com"), ("TWILIO_AUTH_TOKEN", "t")]).unwrap();
    assert!(plain.warnings().iter().any(|warning| warning.contains("over TLS only")));
}

#[test]
fn an_account_without_a_token_is_half_a_configuration() {
    let found = mistakes(&[KEY, ("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")]);
    assert_eq!(found[0].name, "TWILIO_AUTH_TOKEN");
    assert_eq!(mistakes(&[KEY, ("TWILIO_AUTH_TOKEN", ",")])[0].problem, "holds no token");
}

#[test]
fn migrating_needs_only_the_database_but_checks_what_is_given() {
    let parts = |values: &[(&str, &str)]| Config::from_parts(None, environment(values), Need::Database);
    assert!(parts(&[("VOICEBRIDGE_LISTEN", "0.0.0.0:8080")]).is_ok());
    assert!(parts(&[("AUDIO_FORMAT", "opus")]).is_err());
}

#[test]
fn no_secret_is_ever_printed() {
    let secrets = [
        ("DATABASE_URL", "postgres://voice:hunter2secret@db.example.com/voice"),
        ("OPENAI_API_KEY", "sk-hunter2secret"),
        ("OPENAI_REALTIME_FALLBACK_URL", "wss://others.example.com/realtime"),
        ("OPENAI_REALTIME_FALLBACK_API_KEY", "sk-hunter2secret"),
        ("TWILIO_AUTH_TOKEN", "hunter2secret"),
        ("KALEYRA_API_KEY", "A-hunter2secret"),
        ("VAPI_WEBHOOK_SECRET", "hunter2secret-and-more"),
        ("VOICEBRIDGE_ADMIN_KEY", "hunter2secret-and-more"),
    ];
    let printed = format!("{:?}", load(&secrets).unwrap());
    assert!(!printed.contains("hunter2secret"), "{printed}");

    let wrong = [
        ("DATABASE_URL", "db.example.com/hunter2secret"),
        ("OPENAI_API_KEY", "sk hunter2secret"),
        ("OPENAI_REALTIME_FALLBACK_API_KEY", "sk hunter2secret"),
        ("TWILIO_AUTH_TOKEN", "hunter2secret x"),
        ("KALEYRA_API_KEY", "hunter2secret x"),
        ("VAPI_WEBHOOK_SECRET", "hunter2secret"),
        ("VOICEBRIDGE_ADMIN_KEY", "hunter2secret"),
        ("PUBLIC_URL", "https://me:hunter2secret@voice.example.com"),
        ("OPENAI_REALTIME_URL", "wss://me:hunter2secret@voice.example.com"),
        ("OPENAI_REALTIME_FALLBACK_URL", "wss://me:hunter2secret@voice.example.com"),
        ("TWILIO_API_URL", "https://hunter2secret@voice.example.com"),
    ];
    let error = load(&wrong).unwrap_err();
    assert_eq!(error.0.len(), wrong.len());
    assert!(!format!("{error} {error:?}").contains("hunter2secret"), "{error}");
    for variable in VARIABLES.iter().filter(|variable| variable.secret) {
        assert!(secrets.iter().any(|(name, _)| *name == variable.name), "{} is covered here", variable.name);
    }
}

#[test]
fn the_environment_wins_over_the_file_and_empty_counts_as_not_set() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("voicebridge.toml");
    fs::write(
        &file,
        "OPENAI_API_KEY = \"sk-file\"\nVOICEBRIDGE_MAX_CALLS = 12\nOPENAI_REALTIME_MODEL = \"from-file\"\n",
    )
    .unwrap();
    let values = [("OPENAI_REALTIME_MODEL", "from-environment"), ("VOICEBRIDGE_MAX_CALLS", "")];
    let config = Config::from_parts(Some(&file), environment(&values), Need::Calls).unwrap();
    assert_eq!((config.openai.model.as_str(), config.max_calls), ("from-environment", 12));
    assert_eq!(config.openai.api_key.unwrap().expose_secret(), "sk-file");
}

#[test]
fn a_file_with_mistakes_is_refused_without_quoting_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("voicebridge.toml");
    let told = |text: &str| {
        fs::write(&file, text).unwrap();
        Config::from_parts(Some(&file), environment(&[KEY]), Need::Calls).unwrap_err().to_string()
    };
    assert!(told("OPENAI_REALTIME_MODLE = \"cedar\"\n").contains("OPENAI_REALTIME_MODLE in "));
    assert!(told("OPENAI_REALTIME_MODEL = [\"a\"]\n").contains("must be a text or a number"));
    let broken = told("OPENAI_API_KEY = hunter2secret\n");
    assert!(broken.contains("is not valid TOML") && !broken.contains("hunter2secret"), "{broken}");
    let missing = Config::from_parts(Some(Path::new("/nonexistent.toml")), environment(&[KEY]), Need::Calls);
    assert!(missing.unwrap_err().to_string().contains("/nonexistent.toml cannot be read"));
}

#[test]
fn two_processes_have_two_names() {
    let (one, other) = (load(&[KEY]).unwrap().node, load(&[KEY]).unwrap().node);
    assert_ne!(one, other);
    assert!(one.len() <= 20 && one.starts_with("node-"), "{one}");
}

fn load(values: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_parts(None, environment(values), Need::Calls)
}

fn mistakes(values: &[(&str, &str)]) -> Vec<Mistake> {
    load(values).unwrap_err().0
}

fn environment(values: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    let values: Vec<(String, OsString)> =
        values.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    move |name| values.iter().rev().find(|(set, _)| set == name).map(|(_, value)| value.clone())
}
