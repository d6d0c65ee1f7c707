//! Serves the files of the UI's build: the dashboard and the live view's page. They contain no secrets and need no
//! token; the pages load their data with a token or login.

use axum::{Router, extract::Request, middleware, middleware::Next, response::Response};
use http::{
    HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use std::path::Path;
use tower_http::services::{ServeDir, ServeFile};

/// Content-Security-Policy: scripts and styles are files of this host, connections go only to this gateway, and only
/// pages of the same origin can embed the live view.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// Routes of the dashboard at `/`, the live view's page at `/view/{namespace}/{name}`, and their assets. `dir`: the
/// directory with the UI's build.
pub fn router<S: Clone + Send + Sync + 'static>(dir: &Path) -> Router<S> {
    let pages = Router::new()
        .route_service("/", ServeFile::new(dir.join("index.html")))
        .route_service("/view/{namespace}/{name}", ServeFile::new(dir.join("view.html")))
        // The assets of another build have other names, so a cached page would request assets that no longer exist.
        .layer(middleware::from_fn(|request: Request, next: Next| cached("no-cache", request, next)));
    let assets = Router::new()
        .nest_service("/assets", ServeDir::new(dir.join("assets")))
        // Immutable, because asset names contain a hash of the content.
        .layer(middleware::from_fn(|request: Request, next: Next| {
            cached("public, max-age=31536000, immutable", request, next)
        }));
    pages.merge(assets)
}

async fn cached(cache_control: &'static str, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let cache_control = if response.status().is_success() { cache_control } else { "no-store" };
    let set: [(HeaderName, &'static str); 4] = [
        (CACHE_CONTROL, cache_control),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    response.headers_mut().extend(set.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}
