//! Who asks, what they may, and what they have seen: a key makes a [`Caller`], whose request is one transaction as the key's
//! organisation.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::api::Api;
use crate::api::error::ApiError;
use crate::api::layers::{API_KEY, ORGANIZATION, RequestId};
use crate::ids::OrganizationId;
use crate::keys::{KeyPrint, Scope};
use crate::store::api_keys::ShownKey;
use crate::store::audit::{self, Actor, Deed};
use crate::store::{Store, api_keys, organisations};

/// The administrator, in records.
const ADMINISTRATOR: &str = "administrator";

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The records as the caller's organisation sees them. What is done is kept when the request has been answered well.
    pub store: Store,
    /// The caller's organisation, or the one that the administrator asks for.
    pub organization: OrganizationId,
    actor: Actor,
    /// `None`: the administrator of the server.
    scopes: Option<Arc<[Scope]>>,
    request: Uuid,
    deeds: Arc<Mutex<Vec<Deed>>>,
}

impl Caller {
    /// Whether the caller may do what this scope is needed for.
    #[must_use]
    pub fn may(&self, needed: Scope) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|scope| scope.includes(needed)))
    }

    /// Whether it is the administrator of the server, who sees all organisations.
    #[must_use]
    pub const fn is_administrator(&self) -> bool {
        self.scopes.is_none()
    }

    /// Who asks, for records that people read.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.actor.name
    }

    /// Who asks, and in which request, for work that is put on record elsewhere than in this one.
    #[must_use]
    pub const fn author(&self) -> (&Actor, Uuid) {
        (&self.actor, self.request)
    }

    /// Something is done that is of no conversation: a kind of thing and a verb, and an id. It is on record once the request
    /// has been answered well.
    pub fn does(&self, action: &'static str, subject: impl Display) {
        self.note(Deed::to(action, subject));
    }

    /// The same of the conversation of a call.
    pub fn does_in_call(&self, action: &'static str, subject: impl Display, call_sid: Option<&str>) {
        self.note(Deed::in_call(action, subject, call_sid));
    }

    /// Keeps what was done so far; what follows is another transaction. For handlers that wait for somebody else.
    pub async fn keep(&self) -> sqlx::Result<()> {
        let deeds = std::mem::take(&mut *self.deeds.lock().unwrap_or_else(PoisonError::into_inner));
        audit::note(&self.store, self.organization, &self.actor, self.request, &deeds).await?;
        self.store.finish().await
    }

    fn note(&self, deed: Deed) {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner).push(deed);
    }

    /// Keeps what a request did that was answered well, and undoes what another did.
    async fn conclude(&self, response: Response) -> Response {
        if response.status().is_success() {
            return match self.keep().await {
                Ok(()) => response,
                Err(error) => ApiError::from(error).into_response(),
            };
        }
        if let Err(error) = self.store.undo().await {
            // The connection is gone, and the transaction with it.
            tracing::debug!(%error, "a transaction could not be undone");
        }
        response
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        // Only a route that was registered as open is asked by nobody.
        parts.extensions.get::<Self>().cloned().ok_or_else(ApiError::unauthorized)
    }
}

/// Where a request comes from, as far as this server sees.
#[derive(Debug, Clone, Copy)]
pub struct Peer(Option<IpAddr>);

impl Peer {
    fn of(extensions: &Extensions) -> Self {
        Self(extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip()))
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

/// Lets a request through that shows a key that holds, as its caller and in a transaction of its own.
pub async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map_or_else(Uuid::now_v7, |id| id.0);
    let peer = Peer::of(request.extensions());
    let caller = match caller(&api, request.headers(), peer, id).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    caller.conclude(response).await
}

async fn caller(api: &Api, headers: &HeaderMap, peer: Peer, request: Uuid) -> Result<Caller, ApiError> {
    let shown = shown_key(headers).ok_or_else(ApiError::unauthorized)?;
    let (organization, actor, scopes) = if is_same(shown, api.settings.admin_key.expose_secret()) {
        let actor = Actor { key: None, name: ADMINISTRATOR.to_owned() };
        (organization_asked_for(api, headers).await?, actor, None)
    } else {
        let print = KeyPrint::of(shown).ok_or_else(ApiError::unknown_key)?;
        let key = key(api, &print, peer).await?;
        if headers.contains_key(ORGANIZATION)
            && organization_asked_for(api, headers).await.ok() != Some(key.organization)
        {
            return Err(ApiError::forbidden_by_scope(ADMINISTRATOR));
        }
        let name = format!("{} ({})", key.name, print.prefix);
        (key.organization, Actor { key: Some(key.id), name }, Some(key.scopes.into()))
    };
    let store = api.store.of_organization(organization);
    Ok(Caller { store, organization, actor, scopes, request, deeds: Arc::default() })
}

/// The key that is shown, which may ask now.
async fn key(api: &Api, print: &KeyPrint, Peer(peer): Peer) -> Result<ShownKey, ApiError> {
    let look = api.limits.ask(print, peer).map_err(ApiError::too_many_requests)?;
    match api_keys::shown(&api.store, print).await {
        Ok(Some(key)) => {
            let found = api.limits.found(look, key.id, key.requests_per_minute);
            found.map(|()| key).map_err(ApiError::too_many_requests)
        }
        Ok(None) => {
            api.limits.not_found(look);
            Err(ApiError::unknown_key())
        }
        Err(error) => {
            api.limits.not_known(look);
            Err(error.into())
        }
    }
}

/// The organisation that the administrator names, or the default one.
async fn organization_asked_for(api: &Api, headers: &HeaderMap) -> Result<OrganizationId, ApiError> {
    let Some(asked_for) = headers.get(ORGANIZATION) else { return Ok(api.default_organization().await?) };
    let unknown = || {
        ApiError::bad_request(
            "unknown_organization",
            "X-Organization must be the slug or id of an organisation; GET /api/organisations lists them",
        )
    };
    let asked_for = asked_for.to_str().map_err(|_| unknown())?;
    organisations::by_slug_or_id(&api.store, asked_for).await?.ok_or_else(unknown)
}

/// Refuses whoever does not show the key of the administrator.
pub async fn require_administrator(api: &Api, headers: &HeaderMap, peer: Peer) -> Result<(), ApiError> {
    // Known without the database, which may be what is to be looked at.
    if shown_key(headers).is_some_and(|shown| is_same(shown, api.settings.admin_key.expose_secret())) {
        return Ok(());
    }
    caller(api, headers, peer, Uuid::nil()).await?;
    Err(ApiError::forbidden_by_scope(ADMINISTRATOR))
}

/// The secret that is shown in this header, or as `Authorization: Bearer`.
pub(crate) fn shown_secret<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let own = headers.get(name).and_then(|value| value.to_str().ok());
    own.or_else(|| bearer(headers))
}

/// Whether one of these is shown, compared in a time that does not tell which.
pub(crate) fn is_one_of(shown: &str, known: &[SecretString]) -> bool {
    known.iter().fold(false, |is_known, one| is_known | is_same(shown, one.expose_secret()))
}

fn shown_key(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).or_else(|| headers.get(API_KEY)?.to_str().ok())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Compares in a time that tells neither length nor likeness.
fn is_same(shown: &str, known: &str) -> bool {
    Sha256::digest(shown).ct_eq(&Sha256::digest(known)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_either_header() {
        let headers = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
        };
        assert_eq!(shown_key(&headers("authorization", "Bearer abc")), Some("abc"));
        assert_eq!(shown_key(&headers("authorization", "bearer  abc ")), Some("abc"));
        assert_eq!(shown_key(&headers("x-api-key", "abc")), Some("abc"));
        assert_eq!(shown_key(&headers("authorization", "Basic abc")), None);
        assert_eq!(shown_key(&HeaderMap::new()), None);
    }

    #[test]
    fn only_the_whole_key_is_the_key() {
        assert!(is_same("0123456789abcdef", "0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert!(!is_same(wrong, "0123456789abcdef"), "{wrong}");
        }
    }
}
