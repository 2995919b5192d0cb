//! Routes, each with who may ask it. There is no other way to add one, so none is without.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, Request};
use axum::http::Method;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem, Paths};
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
        let known = Arc::new(query_parameters(&routes.1));
        let check = from_fn(move |request: Request, next: Next| {
            let known = Arc::clone(&known);
            async move {
                match permit(&request, needs).and_then(|()| all_known(&request, &known)) {
                    Ok(()) => next.run(request).await,
                    Err(error) => error.into_response(),
                }
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

/// Names of the parameters that each method of a route takes in its query, as the document has them.
fn query_parameters(paths: &Paths) -> HashMap<Method, Vec<String>> {
    let names = |operation: &Operation| {
        let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter),
            RefOr::Ref(_) => None,
        });
        let of_query = parameters.filter(|parameter| parameter.parameter_in == ParameterIn::Query);
        of_query.map(|parameter| parameter.name.clone()).collect::<Vec<_>>()
    };
    let methods = paths.paths.values().flat_map(|item| {
        [
            (Method::GET, &item.get),
            (Method::POST, &item.post),
            (Method::PUT, &item.put),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ]
    });
    methods.filter_map(|(method, operation)| Some((method, names(operation.as_ref()?)))).collect()
}

/// Refuses parameters that the route does not have. A filter that is misspelled would otherwise find everything.
fn all_known(request: &Request, known: &HashMap<Method, Vec<String>>) -> Result<(), ApiError> {
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    let Some(known) = known.get(method) else { return Ok(()) };
    // What cannot be read at all the handler refuses.
    let Ok(Query(asked)) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()) else { return Ok(()) };
    match asked.iter().find(|(name, _)| !known.contains(name)) {
        None => Ok(()),
        Some(_) if known.is_empty() => {
            Err(ApiError::bad_request("invalid_query", "this route takes no parameters in its address"))
        }
        Some(_) => {
            let message =
                format!("there is a parameter that this route does not have; it has {}", known.join(", "));
            Err(ApiError::bad_request("invalid_query", message))
        }
    }
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
