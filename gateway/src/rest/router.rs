//! The routes of the REST API, and the OpenAPI document that is generated from them.

use crate::{
    auth::credential::LOGIN_COOKIE,
    rest::{documents, events, login, sessions, tokens, workers},
    state::Gateway,
};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{MethodRouter, get},
};
use bytes::Bytes;
use http::{
    HeaderValue,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use std::sync::Arc;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, Server,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
        server::{ServerBuilder, ServerVariableBuilder},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Limit of a request body, in bytes. Bodies have only a few lines.
const LARGEST_BODY: usize = 64 << 10;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Camo-fleet",
        description = "Browser sessions and pools of a Camo-fleet. Authenticate with a static token as \
            `Authorization: Bearer` or `?token=`, or with the cookie of a login."
    ),
    components(schemas(documents::Snapshot, documents::Deletion)),
    security(("bearer" = []), ("query" = []), ("cookie" = [])),
    modifiers(&Servers)
)]
struct Documented;

struct Servers;

impl Modify for Servers {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let any_namespace = ServerBuilder::new()
            .url("/api/namespaces/{namespace}")
            .description(Some("The sessions and pools of any namespace"))
            .parameter("namespace", ServerVariableBuilder::new().default_value("default"));
        let own =
            ServerBuilder::new().url("/api").description(Some("The sessions and pools of the gateway's own namespace"));
        document.servers = Some::<Vec<Server>>(vec![own.build(), any_namespace.build()]);
        let components = document.components.get_or_insert_default();
        let key = |key: fn(ApiKeyValue) -> ApiKey, name: &str| SecurityScheme::ApiKey(key(ApiKeyValue::new(name)));
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        components.add_security_scheme("bearer", bearer);
        components.add_security_scheme("query", key(ApiKey::Query, "token"));
        components.add_security_scheme("cookie", key(ApiKey::Cookie, LOGIN_COOKIE));
    }
}

/// All operations, under `/api`, under `/api/namespaces/{namespace}`, and without a prefix for clients behind a proxy
/// that strips it.
pub fn router() -> Router<Arc<Gateway>> {
    let (calls, document) = calls().split_for_parts();
    let document = Bytes::from(document.to_json().expect("an OpenAPI document serializes"));
    let served: MethodRouter<Arc<Gateway>> = get(([(CONTENT_TYPE, "application/json")], document));
    let calls = calls
        .route("/openapi.json", served)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        // Documents of sessions contain tokens and change.
        .layer(SetResponseHeaderLayer::overriding(CACHE_CONTROL, HeaderValue::from_static("no-store")));
    Router::new().nest("/api", calls.clone()).nest("/api/namespaces/{namespace}", calls.clone()).merge(calls)
}

/// Returns the OpenAPI document.
pub fn document() -> openapi::OpenApi {
    calls().into_openapi()
}

fn calls() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::with_openapi(Documented::openapi())
        .routes(routes!(sessions::list, sessions::create))
        .routes(routes!(sessions::get, sessions::delete))
        .routes(routes!(sessions::touch))
        .routes(routes!(sessions::connect))
        .routes(routes!(tokens::create_token))
        .routes(routes!(workers::list))
        .routes(routes!(workers::health))
        .routes(routes!(workers::namespaces))
        .routes(routes!(events::events))
        .routes(routes!(login::login, login::whoami))
        .routes(routes!(login::logout))
}
