//! Just the beginning and the end of a call, for those who bring a media stream of their own.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::twiml::{Verb, parse};
use super::webhook::{Webhooks, absolute};

/// Asks webhooks on behalf of many calls.
#[derive(Debug, Clone)]
pub struct Switchboard {
    webhooks: Webhooks,
    account_sid: String,
}

/// Where the stream of one call is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// `ws://` or `wss://`.
    pub stream_url: String,
    /// The TwiML's `<Parameter>`s.
    pub parameters: BTreeMap<String, String>,
    /// What the stream's handshake is signed with; `None` without a token.
    pub signature: Option<String>,
    /// Whom to ask when the stream has ended.
    pub after: Option<String>,
}

/// One call, as every webhook is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// `CA…`.
    pub call_sid: String,
    /// The caller's number.
    pub from: String,
    /// The number that is called.
    pub to: String,
}

impl Switchboard {
    /// Signs with `auth_token` if there is one.
    pub fn new(auth_token: Option<SecretString>, account_sid: &str) -> Result<Self, String> {
        let webhooks = Webhooks::new(auth_token, None).map_err(|error| error.to_string())?;
        Ok(Self { webhooks, account_sid: account_sid.to_owned() })
    }

    /// An offer for a stream whose URL is known without asking.
    #[must_use]
    pub fn direct(&self, stream_url: &str) -> Offer {
        Offer {
            stream_url: stream_url.to_owned(),
            parameters: BTreeMap::new(),
            signature: self.webhooks.sign(stream_url, &[]),
            after: None,
        }
    }

    /// Asks `url` for TwiML and returns the stream that it connects the call to.
    pub async fn ask(&self, url: &str, call: &Introduction) -> Result<Offer, String> {
        let text = self
            .webhooks
            .twiml(url, "POST", &self.fields(call, "ringing"))
            .await
            .map_err(|error| error.to_string())?;
        let verbs = parse(&text).map_err(|error| format!("12100: {error}"))?;
        for verb in verbs {
            if let Verb::Connect { action, stream, .. } = verb {
                let mut stream_url = stream.url;
                if !stream_url.contains("://") {
                    stream_url = absolute(url, &stream_url).replacen("http", "ws", 1);
                }
                let signature = self.webhooks.sign(&stream_url, &[]);
                let after = action.map(|action| absolute(url, &action));
                return Ok(Offer { stream_url, parameters: stream.parameters, signature, after });
            }
        }
        Err(format!("{url} answered with TwiML that connects no stream"))
    }

    /// Says that the stream of a call has ended because the caller hung up. What the answer says does not matter.
    pub async fn tell_end(&self, offer: &Offer, call: &Introduction) -> Result<(), String> {
        let Some(after) = &offer.after else { return Ok(()) };
        let fields = self.fields(call, "completed");
        self.webhooks.notify(after, &fields).await.map_err(|error| error.to_string())
    }

    fn fields(&self, call: &Introduction, status: &str) -> Vec<(String, String)> {
        [
            ("CallSid", call.call_sid.as_str()),
            ("AccountSid", &self.account_sid),
            ("From", &call.from),
            ("To", &call.to),
            ("CallStatus", status),
            ("Direction", "inbound"),
            ("ApiVersion", "2010-04-01"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }
}
