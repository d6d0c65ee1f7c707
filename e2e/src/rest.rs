//! A client of the REST API, for the sessions and pools of a test's namespace.

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

/// Calls the REST API with an admin's token.
pub struct Rest {
    base: String,
    token: String,
}

impl Rest {
    /// The client of a test's namespace.
    pub fn new(ns: &TestNamespace) -> Result<Self> {
        let base = format!("{}/api/namespaces/{}", ns.fleet.gateway_url()?, ns.name);
        Ok(Self { base, token: ns.fleet.admin_token()? })
    }

    /// A call that is not sent yet.
    pub fn request(&self, method: Method, path: &str) -> Result<RequestBuilder> {
        Ok(http_client()?.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token))
    }

    /// Calls, and hands over status and body.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Value)> {
        let request = self.request(method, path)?;
        let request = match body {
            Some(body) => request.json(body),
            // As clients of the original do it.
            None => request.header("content-type", "application/json"),
        };
        let answer = request.send().await?;
        Ok((answer.status(), answer.json().await?))
    }

    /// Calls, and hands over the body of an answer that has that status.
    pub async fn expect(&self, status: StatusCode, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let (answered, body) = self.call(method.clone(), path, body).await?;
        ensure!(answered == status, "{method} {path} is answered {answered}: {body}");
        Ok(body)
    }
}

/// Issues a token for a session. `request` is the body of the REST call: scope, expiry, `single_use`.
pub async fn issue_session_token(ns: &TestNamespace, session: &str, request: &Value) -> Result<String> {
    let path = format!("/sessions/-/{session}/tokens");
    let issued = Rest::new(ns)?.expect(StatusCode::CREATED, Method::POST, &path, Some(request)).await?;
    Ok(issued["token"].as_str().context("the response has no token")?.to_owned())
}

/// Lets the gateway make and delete sessions in a test's namespace, as the chart does in the release's.
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
    // The API server judges by a cache.
    let user = format!("system:serviceaccount:{}:camofleet-gateway", crate::fleet::RELEASE_NAMESPACE);
    let review: SubjectAccessReview = serde_json::from_value(json!({ "spec": { "user": user, "resourceAttributes": {
        "namespace": ns.name, "group": "camofleet.dev", "resource": "browsersessions", "verb": "create",
    } } }))?;
    let reviews = Api::<SubjectAccessReview>::all(ns.fleet.client.clone());
    poll("the gateway to be allowed to make sessions", async || {
        let allowed =
            reviews.create(&PostParams::default(), &review).await?.status.is_some_and(|status| status.allowed);
        ensure!(allowed, "it is not allowed");
        Ok(())
    })
    .await
}

/// Waits until the namespace has no session.
pub async fn wait_for_no_sessions(ns: &TestNamespace) -> Result<()> {
    crate::wait::poll("every session to be gone", async || {
        let sessions = ns.api::<BrowserSession>().list(&kube::api::ListParams::default()).await?.items;
        ensure!(sessions.is_empty(), "{} are there", sessions.len());
        Ok(())
    })
    .await
}
