//! Answers clients that ask for another protocol over HTTP: WebDriver (Selenium) and the Chrome DevTools Protocol. The
//! answers are errors that the client's library shows. They are the same for everyone, so they need no token. Clients
//! that connect with WebSocket are answered by the session's Playwright server.

use crate::{error::Problem, metrics::Outcome};
use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use hyper::ext::ReasonPhrase;
use serde_json::json;

/// Message of the errors.
const MESSAGE: &str =
    "this is a Playwright server: connect with Playwright's firefox.connect() to /ws/<namespace>/<name>";
/// Reason phrase of the status line, which is all that Puppeteer shows.
const REASON: &[u8] = b"Not Found (this is a Playwright server: use its firefox.connect)";

/// Routes that the libraries derive from a session's URL or from the gateway's.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let mut router = Router::new().route("/wd/hub/session", post(webdriver));
    for base in ["", "/ws/{namespace}/{name}"] {
        router = router
            .route(&format!("{base}/session"), post(webdriver))
            .route(&format!("{base}/json/version"), get(devtools))
            .route(&format!("{base}/json/version/"), get(devtools));
    }
    router
}

/// An error of WebDriver (<https://www.w3.org/TR/webdriver2/#errors>).
async fn webdriver() -> Response {
    let value = json!({ "error": "session not created", "message": MESSAGE, "stacktrace": "" });
    let mut response = (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "value": value }))).into_response();
    response.extensions_mut().insert(Outcome::NotFound);
    response
}

/// The response of a server without the HTTP endpoints of the Chrome DevTools Protocol.
async fn devtools() -> Response {
    let mut response = (StatusCode::NOT_FOUND, Json(Problem { detail: MESSAGE.to_owned() })).into_response();
    response.extensions_mut().insert(Outcome::NotFound);
    response.extensions_mut().insert(ReasonPhrase::from_static(REASON));
    response
}
