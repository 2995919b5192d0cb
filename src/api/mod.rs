//! The HTTP surface: records, Twilio's webhooks, health.
//!
//! Webhooks are trusted by their signature, everything else by a key, which is of one organisation and may do what its scopes
//! say; health and the document are open.

pub mod agent_calls;
pub mod agents;
pub mod attempts;
pub mod auth;
pub mod call_logs;
pub mod call_status;
pub mod calls;
pub mod campaign_leads;
pub mod campaign_settings;
pub mod campaigns;
pub mod do_not_call;
pub mod error;
mod examples;
pub mod extract;
pub mod interactions;
pub mod handoff;
pub mod layers;
pub mod limits;
pub mod inbound;
pub mod kaleyra;
pub mod kaleyra_syncs;
pub mod ivr_calls;
pub mod ivr_providers;
pub mod known;
pub mod leads;
pub mod live;
pub mod media_stream;
pub mod operations;
pub mod privacy;
pub mod projects;
pub mod queue;
pub mod routes;
pub mod api_keys;
pub mod audit;
pub mod organisations;
pub mod phone_numbers;
pub mod retention;
pub mod schedules;
pub mod settings;
pub mod stream_token;
pub mod teams;
pub mod transcripts;
pub mod twilio;
pub mod upload;
pub mod vapi;
pub mod vapi_accounts;
pub mod webhook;
pub mod webhook_deliveries;
pub mod webhook_endpoints;
pub(crate) mod body;
pub mod wall_clock;
mod standby_token;
mod statuses;
mod without_database;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tokio::sync::OnceCell;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use crate::api::error::Failure;
use crate::api::known::Known;
use crate::api::limits::Limits;
use crate::api::routes::Routes;
use crate::api::settings::Settings;
use crate::api::standby_token::Seal;
use crate::api::wall_clock::WallClock;
use crate::bridge::Bridge;
use crate::clients::receiver::Reach;
use crate::clients::twilio::Twilio;
use crate::ids::OrganizationId;
use crate::ingest::kaleyra::Syncs;
use crate::shutdown::Tasks;
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use crate::wire::signature::Validator;

/// What handlers work with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api(Arc<Parts>);

/// The parts behind [`Api`].
#[derive(Debug)]
pub struct Parts {
    /// Settings.
    pub settings: Settings,
    /// Records.
    pub store: Store,
    /// Live calls.
    pub bridge: Bridge,
    /// Background work, and whether the process is being stopped.
    pub tasks: Tasks,
    /// What is counted.
    pub metrics: Metrics,
    /// Makes and steers calls; `None` without an account.
    pub carrier: Option<Twilio>,
    /// Fetches Kaleyra's log of calls; `None` without an account.
    pub kaleyra: Option<Syncs>,
    /// Who answered calls so far, for those that come while the database is away.
    pub known: Known,
    /// By which schedules are read.
    pub clock: WallClock,
    /// Checks Twilio's signatures; `None` without a token.
    pub signatures: Option<Validator>,
    /// Makes secrets of streams that any node can take without the database.
    seal: Seal,
    /// Where webhooks may be sent.
    pub webhooks: Reach,
    /// How often keys have asked of late.
    limits: Limits,
    default_organization: OnceCell<OrganizationId>,
}

impl Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Api {
    /// Puts the parts together.
    #[must_use]
    pub fn new(settings: Settings, store: Store, bridge: Bridge, tasks: Tasks, metrics: Metrics) -> Self {
        Self::with_clock(settings, store, bridge, tasks, metrics, WallClock::default())
    }

    /// As [`Api::new`], by another clock than the machine's.
    #[must_use]
    pub fn with_clock(
        settings: Settings,
        store: Store,
        bridge: Bridge,
        tasks: Tasks,
        metrics: Metrics,
        clock: WallClock,
    ) -> Self {
        let seal = Seal::new(&settings.twilio_auth_tokens, &settings.public_url);
        let tokens = settings.twilio_auth_tokens.clone();
        let signatures = (!tokens.is_empty()).then(|| Validator::new(tokens, settings.public_url.as_str()));
        let known = Known::default();
        Self(Arc::new(Parts {
            settings,
            store,
            bridge,
            tasks,
            metrics,
            carrier: None,
            kaleyra: None,
            known,
            clock,
            signatures,
            seal,
            webhooks: Reach::default(),
            limits: Limits::default(),
            default_organization: OnceCell::new(),
        }))
    }

    /// The same with webhooks that may be sent elsewhere than to the internet. To be called before the parts are shared.
    #[must_use]
    pub fn with_webhooks(mut self, reach: Reach) -> Self {
        if let Some(parts) = Arc::get_mut(&mut self.0) {
            parts.webhooks = reach;
        }
        self
    }

    /// The same with an account that calls can be steered with. To be called before the parts are shared.
    #[must_use]
    pub fn with_carrier(mut self, carrier: Option<Twilio>) -> Self {
        if let Some(parts) = Arc::get_mut(&mut self.0) {
            parts.carrier = carrier;
        }
        self
    }

    /// The same with an account whose log of calls can be fetched. To be called before the parts are shared.
    #[must_use]
    pub fn with_kaleyra(mut self, syncs: Option<Syncs>) -> Self {
        if let Some(parts) = Arc::get_mut(&mut self.0) {
            parts.kaleyra = syncs;
        }
        self
    }

    /// The organisation that exists after migration: the administrator's, where he names no other.
    pub async fn default_organization(&self) -> sqlx::Result<OrganizationId> {
        self.default_organization
            .get_or_try_init(|| store::organisations::default_organization(&self.store))
            .await
            .copied()
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "voicebridge",
        description = "Connects phone calls to speech-to-speech models in real time and keeps the truth of what was said.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(Failure)),
    tags(
        (name = "twilio", description = "Webhooks. Trusted by `X-Twilio-Signature`."),
        (name = "other systems", description = "Calls that other systems have handled. Webhooks are trusted by a shared secret."),
        (name = "transcripts", description = "What was said."),
        (name = "calls", description = "What happened in calls, and what came of them."),
        (name = "kaleyra", description = "Calls that Kaleyra handled, as its log has them."),
        (name = "interactions", description = "Calls as a platform around us counts them."),
        (name = "leads", description = "People, each linked to their most recent call."),
        (name = "campaigns", description = "Many leads called with one aim, by the clock where each of them is."),
        (name = "queue", description = "Calls to be made."),
        (name = "do-not-call", description = "Numbers that are not called, whatever for."),
        (name = "organisations", description = "Tenants."),
        (name = "agents", description = "Who answers: what the model is told, and what a call may do."),
        (name = "phone numbers", description = "The organisation's own numbers, and who answers them."),
        (name = "schedules", description = "When people answer."),
        (name = "teams", description = "People whose telephones ring together."),
        (name = "routing", description = "Where calls were sent, and why."),
        (name = "live calls", description = "Calls that are going on: who is on the line, and what somebody in charge wants of it."),
        (name = "api keys", description = "Who may ask, and what they may."),
        (name = "audit log", description = "Who has seen or changed which conversation."),
        (name = "webhooks", description = "Where an organisation is told what happens to its calls, and what was told. Signed after the Standard Webhooks specification."),
        (name = "privacy", description = "What is not kept: by its age, or because it is of somebody who is to be forgotten."),
        (name = "operations", description = "Health and numbers."),
    ),
)]
struct Document;

/// The whole HTTP surface.
pub fn router(api: Api) -> Router {
    let (keyed, open) = routes().split();
    let keyed = keyed.route_layer(from_fn_with_state(api.clone(), auth::authenticate));
    let (router, _) = open.merge(keyed).split_for_parts();
    layers::around(router, &api.settings.cors_origins).with_state(api)
}

/// The `OpenAPI` document of the same routes.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (keyed, open) = routes().split();
    let mut document =
        OpenApiRouter::with_openapi(Document::openapi()).merge(open).merge(keyed).into_openapi();
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let api_key = ApiKey::Header(ApiKeyValue::new("X-Api-Key"));
    components.add_security_scheme("api_key", SecurityScheme::ApiKey(api_key));
    let signature = ApiKey::Header(ApiKeyValue::new("X-Twilio-Signature"));
    components.add_security_scheme("twilio", SecurityScheme::ApiKey(signature));
    let secret = ApiKey::Header(ApiKeyValue::new("X-Vapi-Secret"));
    components.add_security_scheme("vapi", SecurityScheme::ApiKey(secret));
    let secret = ApiKey::Header(ApiKeyValue::new("X-Webhook-Secret"));
    components.add_security_scheme("ivr", SecurityScheme::ApiKey(secret));
    statuses::add(&mut document);
    examples::add(&mut document);
    document
}

/// The `OpenAPI` document as text.
#[must_use]
pub fn openapi_json() -> String {
    openapi().to_pretty_json().unwrap_or_else(|error| unreachable!("texts and maps can be written: {error}"))
}

/// Every route there is.
fn routes() -> Routes {
    vec![
        twilio::router(),
        inbound::router(),
        media_stream::router(),
        call_status::router(),
        handoff::router(),
        vapi::router(),
        vapi_accounts::router(),
        ivr_calls::router(),
        ivr_providers::router(),
        operations::router(),
        transcripts::router(),
        leads::router(),
        calls::router(),
        call_logs::router(),
        kaleyra::router(),
        kaleyra_syncs::router(),
        agent_calls::router(),
        interactions::router(),
        campaigns::router(),
        campaign_leads::router(),
        projects::router(),
        queue::router(),
        do_not_call::router(),
        organisations::router(),
        agents::router(),
        phone_numbers::router(),
        schedules::router(),
        teams::router(),
        live::router(),
        api_keys::router(),
        audit::router(),
        webhook_endpoints::router(),
        webhook_deliveries::router(),
        retention::router(),
        privacy::router(),
    ]
    .into_iter()
    .fold(Routes::new(), Routes::merge)
}
