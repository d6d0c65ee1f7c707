//! A client of the REST API for a test's namespace.

use crate::{TestNamespace, endpoints::http_client, wait::poll};
use anyhow::{Context, Result, ensure};
use camofleet_crds::v1alpha1::BrowserSession;
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview,
    rbac::v1::{Role, RoleBinding},
};
use kube::{Api, api::PostParams};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// Calls the REST API of a namespace with the admin token.
pub struct Rest {
    base: String,
    token: String,
}

impl Rest {
    /// A client for the test's namespace.
    pub fn new(ns: &TestNamespace) -> Result<Self> {
        let base = format!("{}/api/namespaces/{}", ns.fleet.gateway_url()?, ns.name);
        Ok(Self { base, token: ns.fleet.admin_token()? })
    }

    /// Builds a request without sending it.
    pub fn request(&self, method: Method, path: &str) -> Result<RequestBuilder> {
        Ok(http_client()?.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token))
    }

    /// Sends a request and returns the status and body of the response.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Value)> {
        let request = self.request(method, path)?;
        let request = match body {
            Some(body) => request.json(body),
            // Clients of the original Camo-fleet send this header also without a body.
            None => request.header("content-type", "application/json"),
        };
        let response = request.send().await?;
        Ok((response.status(), response.json().await?))
    }

    /// Sends a request and returns the body of the response.
    ///
    /// # Errors
    /// If the response does not have that status, with its body.
    pub async fn expect(&self, status: StatusCode, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let (actual, body) = self.call(method.clone(), path, body).await?;
        ensure!(actual == status, "{method} {path} returned {actual} instead of {status}: {body}");
        Ok(body)
    }
}

/// Issues a token for a session. `request` is the body of the REST call: scope, expiry, `single_use`.
pub async fn issue_session_token(ns: &TestNamespace, session: &str, request: &Value) -> Result<String> {
    let path = format!("/sessions/-/{session}/tokens");
    let issued = Rest::new(ns)?.expect(StatusCode::CREATED, Method::POST, &path, Some(request)).await?;
    Ok(issued["token"].as_str().context("the response has no token")?.to_owned())
}

/// Grants the gateway permission to create and delete sessions in a test's namespace, as the chart does in the
/// release's. Waits until the permission is in effect.
pub async fn allow_gateway_writes(ns: &TestNamespace) -> Result<()> {
    let role: Role = serde_json::from_value(json!({
        "metadata": { "name": "gateway" },
        "rules": [{ "apiGroups": ["camofleet.dev"], "resources": ["browsersessions"], "verbs": ["create", "delete"] }],
    }))?;
    ns.api::<Role>().create(&PostParams::default(), &role).await?;
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": { "name": "gateway" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gateway" },
        "subjects": [{ "kind": "ServiceAccount", "name": "camofleet-gateway", "namespace": crate::fleet::RELEASE_NAMESPACE }],
    }))?;
    ns.api::<RoleBinding>().create(&PostParams::default(), &binding).await?;
    // The API server's authorizer reads roles from a cache.
    let user = format!("system:serviceaccount:{}:camofleet-gateway", crate::fleet::RELEASE_NAMESPACE);
    let review: SubjectAccessReview = serde_json::from_value(json!({ "spec": { "user": user, "resourceAttributes": {
        "namespace": ns.name, "group": "camofleet.dev", "resource": "browsersessions", "verb": "create",
    } } }))?;
    let reviews = Api::<SubjectAccessReview>::all(ns.fleet.client.clone());
    poll("the gateway to have permission to create sessions", async || {
        let allowed =
            reviews.create(&PostParams::default(), &review).await?.status.is_some_and(|status| status.allowed);
        ensure!(allowed, "permission is denied");
        Ok(())
    })
    .await
}

/// Waits until the namespace has no session.
pub async fn wait_for_no_sessions(ns: &TestNamespace) -> Result<()> {
    poll("all sessions to be deleted", async || {
        let sessions = ns.api::<BrowserSession>().list(&kube::api::ListParams::default()).await?.items;
        ensure!(sessions.is_empty(), "{} sessions remain", sessions.len());
        Ok(())
    })
    .await
}
