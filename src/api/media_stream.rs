//! The media stream's upgrade: signature and token first, the handshake after.

use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::error::ApiError;
use crate::api::extract::Path;
use crate::api::routes::Routes;
use crate::api::without_database::promised;
use crate::bridge::Refusal;

/// Routes of the media stream.
pub fn router() -> Routes {
    Routes::new().signed(routes!(connect)).signed(routes!(connect_offered))
}

/// Connects a stream of TwiML that is hosted elsewhere; the parameter `agent_id` names the agent.
#[utoipa::path(
    get, path = "/media-stream", tag = "twilio",
    responses(
        (status = 101, description = "The media stream is connected."),
        (status = 400, description = "Not a WebSocket handshake.", body = crate::api::error::Failure),
        (status = 403, description = "Signature missing or wrong.", body = crate::api::error::Failure),
        (status = 503, description = "No new calls are taken, or the database cannot be reached.", body = crate::api::error::Failure),
    ),
    security(("twilio" = [])),
)]
pub async fn connect(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    upgrade(&api, None, request).await
}

/// Connects the stream of our own TwiML. Its one-time token is in the path, because a stream's address takes no query.
#[utoipa::path(
    get, path = "/media-stream/{token}", tag = "twilio",
    params(("token" = String, Path, description = "One-time token from the TwiML.")),
    responses(
        (status = 101, description = "The media stream is connected."),
        (status = 400, description = "Not a WebSocket handshake.", body = crate::api::error::Failure),
        (status = 403, description = "Signature missing or wrong; or the token is unknown, used or replaced.", body = crate::api::error::Failure),
        (status = 503, description = "No new calls are taken, or the database cannot be reached.", body = crate::api::error::Failure),
    ),
    security(("twilio" = [])),
)]
pub async fn connect_offered(
    State(api): State<Api>,
    Path(token): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    upgrade(&api, Some(&token), request).await
}

async fn upgrade(api: &Api, token: Option<&str>, mut request: Request) -> Result<Response, ApiError> {
    if let Some(validator) = &api.signatures {
        let path_and_query = request.uri().path_and_query().map_or("/", |text| text.as_str());
        let signature = request.headers().get("x-twilio-signature").and_then(|value| value.to_str().ok());
        validator.check_websocket(path_and_query, signature).map_err(|why| {
            tracing::warn!(%why, "a media stream was refused: is PUBLIC_URL what Twilio calls, and the token right?");
            ApiError::forbidden_signature()
        })?;
    }
    let accept = accept_key(request.headers()).ok_or_else(|| {
        ApiError::bad_request("not_a_websocket", "this path takes WebSocket handshakes only")
    })?;
    let promised = token.and_then(|token| promised(api, token));
    let admission = api.bridge.admit(token, promised).await.map_err(|refusal| {
        tracing::warn!(%refusal, "a media stream was refused");
        match refusal {
            Refusal::UnknownToken => ApiError::forbidden("unknown_stream_token", refusal.to_string()),
            Refusal::Stopping | Refusal::Full => ApiError::unavailable("no_new_calls", refusal.to_string()),
            Refusal::Unavailable => ApiError::unavailable("database_unavailable", refusal.to_string()),
        }
    })?;
    api.bridge.carry(connection(hyper::upgrade::on(&mut request)), admission);
    let headers = [(CONNECTION, "Upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_ACCEPT, accept.as_str())];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// The connection itself, and what has come on it already. What HTTP needed around it would be passed with every frame.
async fn connection(upgraded: OnUpgrade) -> Option<(TcpStream, Bytes)> {
    let upgraded = match upgraded.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::warn!(%error, "a media stream was let in and did not come");
            return None;
        }
    };
    let Ok(parts) = downcast::<TokioIo<TcpStream>>(upgraded) else {
        tracing::error!("a media stream came over something that is no TCP connection");
        return None;
    };
    Some((parts.io.into_inner(), parts.read_buf))
}

/// The answer to the handshake's key; `None` when the request is no WebSocket handshake (RFC 6455, section 4.2.1).
fn accept_key(headers: &HeaderMap) -> Option<String> {
    let says = |name, word: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let asked =
        says(CONNECTION, "upgrade") && says(UPGRADE, "websocket") && says(SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    Some(derive_accept_key(key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_handshake_is_answered_as_the_standard_shows() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        assert_eq!(accept_key(&headers), None);
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept_key(&headers).as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        assert_eq!(accept_key(&headers), None);
    }
}
