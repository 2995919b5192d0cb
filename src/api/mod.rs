//! The HTTP surface: records, Twilio's webhooks, health.
//!
//! Webhooks are trusted by their signature, everything else by the API key; health and the document are open.

pub mod attempts;
pub mod auth;
pub mod call_status;
pub mod error;
pub mod extract;
pub mod layers;
pub mod known;
pub mod leads;
pub mod media_stream;
pub mod operations;
pub mod settings;
pub mod stream_token;
pub mod transcripts;
pub mod twilio;
pub mod webhook;
mod standby_token;
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
use crate::api::settings::Settings;
use crate::api::standby_token::Seal;
use crate::bridge::Bridge;
use crate::clients::twilio::Twilio;
use crate::ids::OrganizationId;
use crate::shutdown::Tasks;
use crate::store::{Store, organisations};
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
    /// Who answered calls so far, for those that come while the database is away.
    pub known: Known,
    /// Checks Twilio's signatures; `None` without a token.
    pub signatures: Option<Validator>,
    /// Makes secrets of streams that any node can take without the database.
    seal: Seal,
    organization: OnceCell<OrganizationId>,
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
        let seal = Seal::new(&settings.twilio_auth_tokens, &settings.public_url);
        let tokens = settings.twilio_auth_tokens.clone();
        let signatures = (!tokens.is_empty()).then(|| Validator::new(tokens, settings.public_url.as_str()));
        let organization = OnceCell::new();
        let known = Known::default();
        Self(Arc::new(Parts {
            settings,
            store,
            bridge,
            tasks,
            metrics,
            carrier: None,
            known,
            signatures,
            seal,
            organization,
        }))
    }

    /// The same with an account that calls can be steered with. To be called before the parts are shared.
    #[must_use]
    pub fn with_carrier(mut self, carrier: Option<Twilio>) -> Self {
        if let Some(parts) = Arc::get_mut(&mut self.0) {
            parts.carrier = carrier;
        }
        self
    }

    /// Whose records the key shows. There is one key, and it is the default organisation's.
    pub async fn organization(&self) -> sqlx::Result<OrganizationId> {
        self.organization.get_or_try_init(|| organisations::default_organization(&self.store)).await.copied()
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
        (name = "transcripts", description = "What was said."),
        (name = "leads", description = "People, each linked to their most recent call."),
        (name = "operations", description = "Health and numbers."),
    ),
)]
struct Document;

/// The whole HTTP surface.
pub fn router(api: Api) -> Router {
    let keyed = keyed_routes().route_layer(from_fn_with_state(api.clone(), auth::require_key));
    let metrics = operations::metrics_router()
        .route_layer(from_fn_with_state(api.clone(), auth::require_key_for_metrics));
    let (router, _) = open_routes().merge(keyed).merge(metrics).split_for_parts();
    layers::around(router).with_state(api)
}

/// The `OpenAPI` document of the same routes.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let routes = open_routes().merge(keyed_routes()).merge(operations::metrics_router());
    let mut document = OpenApiRouter::with_openapi(Document::openapi()).merge(routes).into_openapi();
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let api_key = ApiKey::Header(ApiKeyValue::new("X-Api-Key"));
    components.add_security_scheme("api_key", SecurityScheme::ApiKey(api_key));
    let signature = ApiKey::Header(ApiKeyValue::new("X-Twilio-Signature"));
    components.add_security_scheme("twilio", SecurityScheme::ApiKey(signature));
    document
}

/// The `OpenAPI` document as text.
#[must_use]
pub fn openapi_json() -> String {
    openapi().to_pretty_json().unwrap_or_else(|error| unreachable!("texts and maps can be written: {error}"))
}

fn open_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(twilio::router())
        .merge(media_stream::router())
        .merge(call_status::router())
        .merge(operations::router())
}

fn keyed_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().merge(transcripts::router()).merge(leads::router())
}
