//! The routes of all listeners, as data: the framework's resources are built from them, and a test compares
//! `docs/openapi.json` with them.

use actix_web::http::Method;
use actix_web::{FromRequest, Handler, HttpResponse, Resource, guard, web};

use super::response::{self, HttpRefusal};
use writ_core::endpoint::Endpoint;

/// A resource of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Token,
    Introspect,
    Jwks,
    Metadata,
    Livez,
    Readyz,
    Metrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Methods {
    Post,
    GetAndHead,
}

impl Route {
    pub(super) const ALL: [Self; 7] =
        [Self::Token, Self::Introspect, Self::Jwks, Self::Metadata, Self::Livez, Self::Readyz, Self::Metrics];

    const fn row(self) -> (&'static str, Methods) {
        match self {
            Self::Token => ("/token", Methods::Post),
            Self::Introspect => ("/introspect", Methods::Post),
            Self::Jwks => ("/.well-known/jwks.json", Methods::GetAndHead),
            Self::Metadata => ("/.well-known/oauth-authorization-server", Methods::GetAndHead),
            Self::Livez => ("/livez", Methods::GetAndHead),
            Self::Readyz => ("/readyz", Methods::GetAndHead),
            Self::Metrics => ("/metrics", Methods::GetAndHead),
        }
    }

    pub(super) const fn path(self) -> &'static str {
        self.row().0
    }

    pub(super) const fn methods(self) -> Methods {
        self.row().1
    }

    /// The resource, answered by `handler`; any other method gets 405.
    pub(super) fn resource<F, A>(self, handler: F) -> Resource
    where
        F: Handler<A>,
        A: FromRequest + 'static,
        F::Output: actix_web::Responder + 'static,
    {
        let methods = self.methods();
        let route = match methods {
            Methods::Post => web::post(),
            Methods::GetAndHead => web::route().guard(guard::Any(guard::Get()).or(guard::Head())),
        };
        let refusal = move || std::future::ready(method_not_allowed(methods));
        web::resource(self.path()).route(route.to(handler)).default_service(web::to(refusal))
    }

    /// The endpoint whose every answer is audited, if a request to `path` by `method` is for one. `path` is as the router
    /// decodes it: `/%74oken` is `/token`.
    pub(super) fn audited(method: &Method, path: &str) -> Option<Endpoint> {
        let endpoints = [(Self::Token, Endpoint::Token), (Self::Introspect, Endpoint::Introspection)];
        let matches = |(route, _): &(Self, Endpoint)| path == route.path() && *method == Method::POST;
        endpoints.into_iter().find(matches).map(|(_, endpoint)| endpoint)
    }
}

impl Methods {
    /// The value of the header `Allow`.
    pub(super) const fn allow(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::GetAndHead => "GET, HEAD",
        }
    }
}

// A route that is added to the enum and not to the list does not compile.
const _: () = assert!(Route::ALL.len() == Route::Metrics as usize + 1);

fn method_not_allowed(methods: Methods) -> HttpResponse {
    response::http(HttpRefusal::MethodNotAllowed(methods.allow()))
}
