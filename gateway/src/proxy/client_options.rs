//! Reads what a Playwright client asks for beyond its own contexts, from the query or from headers.

use crate::{error::ApiError, state::Gateway};
use axum::extract::{FromRequestParts, Query};
use camofleet_runner_api::{ClientName, ClientOptions, InitialPage};
use http::{HeaderMap, HeaderName, Uri, request::Parts};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny, IntoDeserializer, value::Error},
};
use std::sync::Arc;

/// Header with the same values as the query parameter `page`.
const PAGE: HeaderName = HeaderName::from_static("x-camofleet-page");
/// Header with the same values as the query parameter `client`.
const CLIENT: HeaderName = HeaderName::from_static("x-camofleet-client");
/// Header with the value of Playwright's option `exposeNetwork`. Empty without the option.
const EXPOSE_NETWORK: HeaderName = HeaderName::from_static("x-playwright-proxy");

/// The options of a request to `/ws`.
pub struct Options(pub ClientOptions);

impl FromRequestParts<Arc<Gateway>> for Options {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Gateway>) -> Result<Self, ApiError> {
        client_options(&parts.headers, &parts.uri).map(Self).map_err(ApiError::InvalidClientOption)
    }
}

/// The query of `/ws`. Any other parameter is an error, because a misspelled one would be ignored silently.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectQuery {
    page: Option<InitialPage>,
    client: Option<ClientName>,
    /// The credential, which `auth` reads.
    #[serde(rename = "token")]
    _token: Option<IgnoredAny>,
}

fn client_options(headers: &HeaderMap, uri: &Uri) -> Result<ClientOptions, String> {
    if headers.get_all(EXPOSE_NETWORK).iter().any(|value| !value.is_empty()) {
        return Err("sessions do not support exposeNetwork: serve the site where the runner pods reach it".to_owned());
    }
    let Query(query) = Query::<ConnectQuery>::try_from_uri(uri).map_err(|error| {
        format!("{}: the parameters are page (open, none or new), client (a name) and token", error.body_text())
    })?;
    Ok(ClientOptions {
        page: one_of("page", query.page, from_header(headers, &PAGE)?)?,
        client: one_of("client", query.client, from_header(headers, &CLIENT)?)?,
    })
}

fn from_header<T: DeserializeOwned>(headers: &HeaderMap, name: &HeaderName) -> Result<Option<T>, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(format!("the header {name} is repeated"));
    }
    let text = value.to_str().map_err(|_| format!("the header {name} has characters that are not ASCII"))?;
    T::deserialize(IntoDeserializer::<Error>::into_deserializer(text))
        .map(Some)
        .map_err(|error| format!("the header {name} is invalid: {error}"))
}

fn one_of<T: PartialEq>(name: &str, query: Option<T>, header: Option<T>) -> Result<Option<T>, String> {
    match (query, header) {
        (Some(query), Some(header)) if query != header => {
            Err(format!("the query parameter {name} and the header x-camofleet-{name} differ: send one of them"))
        }
        (query, header) => Ok(query.or(header)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(headers: &[(&str, &str)], uri: &str) -> Result<ClientOptions, String> {
        let pairs = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        client_options(&pairs.collect(), &uri.parse().unwrap())
    }

    fn named(name: &str) -> ClientName {
        name.to_owned().try_into().unwrap()
    }

    #[test]
    fn reads_options_from_the_query_and_from_headers() {
        let expected = ClientOptions { page: Some(InitialPage::Open), client: Some(named("worker-1")) };
        assert_eq!(options(&[], "/ws/a/b?page=open&client=worker-1&token=secret"), Ok(expected.clone()));
        let headers = [("x-camofleet-page", "open"), ("x-camofleet-client", "worker-1")];
        assert_eq!(options(&headers, "/ws/a/b"), Ok(expected.clone()));
        assert_eq!(options(&headers, "/ws/a/b?page=open"), Ok(expected));
        assert_eq!(options(&[], "/ws/a/b"), Ok(ClientOptions::default()));
        let other =
            [("x-playwright-launch-options", "{}"), ("x-playwright-browser", "chromium"), ("x-playwright-proxy", "")];
        assert_eq!(options(&other, "/ws/a/b?page=none").map(|options| options.page), Ok(Some(InitialPage::None)));
    }

    #[test]
    fn rejects_anything_else_and_names_it() {
        let too_long = format!("/ws/a/b?client={}", "x".repeat(64));
        for (headers, uri, expected) in [
            (&[][..], "/ws/a/b?page=yes", "yes"),
            (&[], "/ws/a/b?pages=open", "pages"),
            (&[], "/ws/a/b?page=open&page=new", "page"),
            (&[], "/ws/a/b?client=", "1 to 63"),
            (&[], "/ws/a/b?client=a%20b", "1 to 63"),
            (&[], "/ws/a/b?client=%C3%A9", "1 to 63"),
            (&[], &too_long, "1 to 63"),
            (&[], "/ws/a/b?launch-options=%7B%7D", "launch-options"),
            (&[("x-camofleet-page", "OPEN")], "/ws/a/b", "x-camofleet-page"),
            (&[("x-camofleet-client", "a/b")], "/ws/a/b", "1 to 63"),
            (&[("x-camofleet-client", "a"), ("x-camofleet-client", "b")], "/ws/a/b", "repeated"),
            (&[("x-camofleet-page", "open")], "/ws/a/b?page=new", "differ"),
            (&[("x-playwright-proxy", "<loopback>")], "/ws/a/b", "exposeNetwork"),
        ] {
            let error = options(headers, uri).unwrap_err();
            assert!(error.contains(expected), "{uri} {headers:?}: {error}");
        }
    }
}
