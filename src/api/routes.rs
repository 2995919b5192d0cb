//! Routes, each with who may ask it. There is no other way to add one, so none is without.

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use serde_json::Value;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::SecurityRequirement;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt as _};

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::error::ApiError;
use crate::keys::Scope;

/// Member of an operation in the document that says who may ask it.
pub(super) const NEEDS: &str = "x-needs";

/// Who may ask a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Whoever has a key with this scope.
    Scope(Scope),
    /// The administrator of the server.
    Administrator,
    /// The carrier or another service, which shows so itself.
    Signature,
    /// Anybody.
    Nothing,
}

/// Routes and who may ask them.
#[derive(Default)]
pub struct Routes {
    keyed: OpenApiRouter<Api>,
    open: OpenApiRouter<Api>,
}

impl Routes {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A route that shows records.
    #[must_use]
    pub fn read(self, routes: UtoipaMethodRouter<Api>) -> Self {
        self.keyed(Needs::Scope(Scope::Read), routes)
    }

    /// A route that says something of conversations.
    #[must_use]
    pub fn review(self, routes: UtoipaMethodRouter<Api>) -> Self {
        self.keyed(Needs::Scope(Scope::Review), routes)
    }

    /// A route that calls people, or changes whom and how.
    #[must_use]
    pub fn operate(self, routes: UtoipaMethodRouter<Api>) -> Self {
        self.keyed(Needs::Scope(Scope::Operate), routes)
    }

    /// A route that changes what an organisation is.
    #[must_use]
    pub fn admin(self, routes: UtoipaMethodRouter<Api>) -> Self {
        self.keyed(Needs::Scope(Scope::Admin), routes)
    }

    /// A route about all organisations.
    #[must_use]
    pub fn administrator(self, routes: UtoipaMethodRouter<Api>) -> Self {
        self.keyed(Needs::Administrator, routes)
    }

    /// A route that another service asks; the handler checks that it is that one.
    #[must_use]
    pub fn signed(mut self, routes: UtoipaMethodRouter<Api>) -> Self {
        self.open = self.open.routes(documented(Needs::Signature, routes));
        self
    }

    /// A route that anybody may ask.
    #[must_use]
    pub fn open(mut self, routes: UtoipaMethodRouter<Api>) -> Self {
        self.open = self.open.routes(documented(Needs::Nothing, routes));
        self
    }

    /// A route that the administrator may ask, which the handler sees to: it answers others as well on some servers.
    #[must_use]
    pub fn administrator_by_handler(mut self, routes: UtoipaMethodRouter<Api>) -> Self {
        self.open = self.open.routes(documented(Needs::Administrator, routes));
        self
    }

    /// These and those.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.keyed = self.keyed.merge(other.keyed);
        self.open = self.open.merge(other.open);
        self
    }

    /// The routes that need a key, which is still to be looked at, and the others.
    pub(super) fn split(self) -> (OpenApiRouter<Api>, OpenApiRouter<Api>) {
        (self.keyed, self.open)
    }

    fn keyed(mut self, needs: Needs, routes: UtoipaMethodRouter<Api>) -> Self {
        let check = from_fn(move |request: Request, next: Next| async move {
            match permit(&request, needs) {
                Ok(()) => next.run(request).await,
                Err(error) => error.into_response(),
            }
        });
        let routes = documented(needs, routes).map(|handlers| handlers.route_layer(check));
        self.keyed = self.keyed.routes(routes);
        self
    }
}

impl Needs {
    /// As the document has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scope(scope) => scope.as_str(),
            Self::Administrator => "administrator",
            Self::Signature => "signature",
            Self::Nothing => "nothing",
        }
    }
}

fn permit(request: &Request, needs: Needs) -> Result<(), ApiError> {
    // Whoever has come here without being somebody has found a hole.
    let Some(caller) = request.extensions().get::<Caller>() else { return Err(ApiError::unauthorized()) };
    let permitted = match needs {
        Needs::Scope(scope) => caller.may(scope),
        Needs::Administrator => caller.is_administrator(),
        Needs::Signature | Needs::Nothing => true,
    };
    if permitted { Ok(()) } else { Err(ApiError::forbidden_by_scope(needs.as_str())) }
}

/// The same routes, with the document saying who may ask them.
fn documented(
    needs: Needs,
    (schemas, mut paths, handlers): UtoipaMethodRouter<Api>,
) -> UtoipaMethodRouter<Api> {
    for operation in paths.paths.values_mut().flat_map(operations) {
        operation.security = match needs {
            Needs::Scope(_) | Needs::Administrator => Some(
                ["bearer", "api_key"].map(|name| SecurityRequirement::new(name, Vec::<String>::new())).into(),
            ),
            Needs::Signature => operation.security.take(),
            Needs::Nothing => None,
        };
        let extensions = operation.extensions.get_or_insert_default();
        extensions.insert(NEEDS.to_owned(), Value::from(needs.as_str()));
    }
    (schemas, paths, handlers)
}

/// All operations of a path.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete].into_iter().flatten()
}
