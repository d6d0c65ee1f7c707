//! Authentication and authorization at the endpoints of gateway and runner, and isolation between sessions.

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use camofleet_auth::token::{Issuer, Scope};
use camofleet_crds::v1alpha1::RunnerRef;
use camofleet_e2e::{
    Session, TestNamespace,
    clients::NodeClient,
    endpoints::{COMPATIBLE_CLIENT, request_upgrade, status_of},
    host,
    site::Site,
    test,
    tokens::{Key, unix_time_in},
    wait::poll,
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::SystemTime;

struct Keys {
    operator: Key,
    gateway: Key,
}

impl Keys {
    async fn load(ns: &TestNamespace) -> Result<Self> {
        Ok(Self {
            operator: Key::load(&ns.fleet, Issuer::Operator).await?,
            gateway: Key::load(&ns.fleet, Issuer::Gateway).await?,
        })
    }

    fn hop(&self, runner: &RunnerRef, session: &Session, scope: Scope) -> String {
        self.gateway.signer().hop_token(&runner.uid, &session.uid, scope, None)
    }
}

/// Two sessions, each on a runner of its own.
async fn two_sessions(ns: &TestNamespace) -> Result<(Session, Session)> {
    ns.pool("pool", json!({ "replicas": 2, "sessionDefaults": { "display": "LiveView" } })).await?;
    Ok((ns.ready_session(json!({})).await?, ns.ready_session(json!({})).await?))
}

#[test]
fn gateway_rejects_clients_without_a_valid_token_or_version() {
    test("gateway-auth", async |ns: TestNamespace| {
        let (session, other) = two_sessions(&ns).await?;
        let keys = Keys::load(&ns).await?;
        let runner = session.runner().await?;
        let url = |name: &str| -> Result<String> { Ok(format!("{}/ws/{}/{name}", ns.fleet.gateway_url()?, ns.name)) };
        let here = url(&session.name)?;
        let admin = ns.fleet.admin_token()?;
        let viewer = static_token(&ns, "viewer").await?;

        let cases = [
            ("no token", None, 401),
            ("an empty token", Some(String::new()), 401),
            ("a wrong token", Some(format!("{admin}x")), 401),
            ("a hop token", Some(keys.hop(&runner, &session, Scope::Connect)), 401),
            (
                "an operator's token",
                Some(keys.operator.signer().operator_token(&runner.uid, u64::MAX, SystemTime::now())),
                401,
            ),
            ("a token of the role viewer", Some(viewer.clone()), 403),
        ];
        for (credential, token, status) in cases {
            let response = request_upgrade(&here, token.as_deref(), COMPATIBLE_CLIENT).await?;
            ensure!(response.status() == status, "{credential}: got {}, expected {status}", response.status());
            let problem: Value = response.json().await?;
            let has_detail = problem["detail"].as_str().is_some_and(|detail| !detail.is_empty());
            ensure!(has_detail, "{credential} is rejected without a detail: {problem}");
        }
        let response = request_upgrade(&format!("{here}?token={viewer}"), None, COMPATIBLE_CLIENT).await?;
        ensure!(response.status() == 403, "a viewer token in the URL: got {}, expected 403", response.status());
        ensure!(status_of(Method::GET, &here, Some(&admin)).await? == 426, "a request without an upgrade must get 426");
        ensure!(request_upgrade(&url("missing")?, Some(&admin), COMPATIBLE_CLIENT).await?.status() == 404);

        let outdated = request_upgrade(&here, Some(&admin), "Playwright/1.61.0 (x64; debian 12) node/24.0").await?;
        ensure!(outdated.status() == 428, "a client of another minor version: got {}, expected 428", outdated.status());
        let body = outdated.text().await?;
        ensure!(body.contains("1.62") && body.contains("1.61"), "the response does not name both versions: {body}");

        ensure!(request_upgrade(&here, Some(&admin), COMPATIBLE_CLIENT).await?.status() == 101);
        ensure!(request_upgrade(&format!("{here}?token={admin}"), None, COMPATIBLE_CLIENT).await?.status() == 101);

        other.delete().await?;
        poll("the gateway to forget the deleted session", async || {
            let status = request_upgrade(&url(&other.name)?, Some(&admin), COMPATIBLE_CLIENT).await?.status();
            ensure!(status == 404, "got {status}, expected 404");
            Ok(())
        })
        .await
    });
}

#[test]
fn gateways_reject_a_revoked_static_token() {
    test("revoked-token", async |ns: TestNamespace| {
        let secrets = ns.fleet.release::<Secret>();
        let here = format!("{}/ws/{}/missing", ns.fleet.gateway_url()?, ns.name);
        let before = secrets
            .get("camofleet-tokens")
            .await?
            .data
            .unwrap_or_default()
            .remove("admin")
            .context("the Secret has no admin tokens")?;
        let write = async |tokens: &[u8]| -> Result<()> {
            let data = json!({ "data": { "admin": BASE64_STANDARD.encode(tokens) } });
            secrets.patch("camofleet-tokens", &PatchParams::default(), &Patch::Merge(data)).await?;
            Ok(())
        };
        // 20 equal responses in a row, because every replica must have read the tokens.
        let wait_for_status = async |token: &str, expected: u16| {
            poll(&format!("all gateways to respond {expected}"), async || {
                for _ in 0..20 {
                    let status = request_upgrade(&here, Some(token), COMPATIBLE_CLIENT).await?.status();
                    ensure!(status == expected, "one responded {status}");
                }
                Ok(())
            })
            .await
        };
        let mut with_second = before.0.trim_ascii_end().to_vec();
        with_second.extend(b"\ntemporary-token\n");
        write(&with_second).await?;
        // The session does not exist, and the gateway checks the token first: 404 means that it accepts the token.
        let accepted = wait_for_status("temporary-token", 404).await;
        write(&before.0).await?;
        accepted?;
        wait_for_status("temporary-token", 401).await?;
        wait_for_status(&ns.fleet.admin_token()?, 404).await
    });
}

async fn static_token(ns: &TestNamespace, role: &str) -> Result<String> {
    let tokens = ns.fleet.release::<Secret>().get("camofleet-tokens").await?.data.unwrap_or_default();
    let lines = tokens.get(role).with_context(|| format!("the Secret has no tokens of the role {role}"))?;
    Ok(String::from_utf8(lines.0.clone())?.lines().next().context("the list of tokens is empty")?.to_owned())
}

#[test]
fn runner_rejects_tokens_for_other_pods_sessions_and_scopes() {
    test("runner-auth", async |ns: TestNamespace| {
        let (session, other) = two_sessions(&ns).await?;
        let keys = Keys::load(&ns).await?;
        let (runner, others_runner) = (session.runner().await?, other.runner().await?);
        ensure!(runner.uid != others_runner.uid, "both sessions are on the same runner");
        let at = |rest: &str| format!("http://{}/v1/sessions{rest}", runner.address);
        let (playwright, vnc) = (at(&format!("/{}/playwright", session.uid)), at(&format!("/{}/vnc", session.uid)));
        let hop = |claims: Value| keys.gateway.sign(&claims);
        let valid = |exp: i64| json!({ "iss": "gateway", "aud": runner.uid, "exp": unix_time_in(exp), "sub": session.uid, "role": "connect" });
        let without = |claim: &str| {
            let mut claims = valid(30);
            claims.as_object_mut().expect("it is one").remove(claim);
            claims
        };

        let cases = [
            ("no token", None, 401),
            ("an admin token", Some(ns.fleet.admin_token()?), 401),
            ("a token of the role viewer", Some(static_token(&ns, "viewer").await?), 401),
            ("a token signed with an untrusted key", Some(Key::untrusted(Issuer::Gateway).sign(&valid(30))), 401),
            ("an expired token", Some(hop(valid(-60))), 401),
            ("a token without expiry", Some(hop(without("exp"))), 401),
            ("a token without an audience", Some(hop(without("aud"))), 401),
            ("a token for another pod", Some(keys.hop(&others_runner, &session, Scope::Connect)), 401),
            (
                "an operator token signed with the gateway's key",
                Some(hop(json!({ "iss": "operator", "aud": runner.uid, "exp": unix_time_in(30), "epoch": u64::MAX }))),
                401,
            ),
            ("a token without a subject", Some(hop(without("sub"))), 401),
            ("a hop token for another session", Some(keys.hop(&runner, &other, Scope::Connect)), 403),
            ("a hop token of scope view", Some(keys.hop(&runner, &session, Scope::View)), 403),
            ("a hop token of scope control", Some(keys.hop(&runner, &session, Scope::Control)), 403),
        ];
        for (credential, token, status) in cases {
            let response = request_upgrade(&playwright, token.as_deref(), COMPATIBLE_CLIENT).await?;
            ensure!(response.status() == status, "{credential}: got {}, expected {status}", response.status());
        }
        let client = keys.hop(&runner, &session, Scope::Connect);
        ensure!(
            request_upgrade(&vnc, Some(&client), COMPATIBLE_CLIENT).await?.status() == 403,
            "a hop token of scope connect must not open the display"
        );
        for (method, path) in [
            (Method::PUT, at(&format!("/{}", session.uid))),
            (Method::DELETE, at(&format!("/{}", session.uid))),
            (Method::GET, format!("http://{}/v1/events", runner.address)),
        ] {
            let status = status_of(method.clone(), &path, Some(&client)).await?;
            ensure!(status == 403, "{method} {path} with a hop token: got {status}, expected 403");
            let status = status_of(method.clone(), &path, None).await?;
            ensure!(status == 401, "{method} {path} without a token: got {status}, expected 401");
        }
        ensure!(status_of(Method::GET, &at(""), None).await? == 401, "listing sessions must require a token");
        ensure!(
            request_upgrade(&playwright, Some(&client), COMPATIBLE_CLIENT).await?.status() == 101,
            "the runner rejects a valid hop token"
        );

        // The leader's epoch is a resourceVersion of its lease, and later versions are higher.
        let lease = ns.fleet.release::<Lease>().get("camofleet-operator").await?;
        let now: u64 = lease.resource_version().context("no resourceVersion")?.parse()?;
        let former_leader = keys.operator.signer().operator_token(&runner.uid, 1, SystemTime::now());
        let status = status_of(Method::GET, &at(""), Some(&former_leader)).await?;
        ensure!(
            status == StatusCode::FORBIDDEN,
            "an operator of epoch 1: got {status}, expected 403; the current epoch is at most {now}"
        );
        session.wait_until_ready().await?;
        Ok(())
    });
}

#[test]
fn sessions_cannot_reach_each_other() {
    test("isolation", async |ns: TestNamespace| {
        let site = Site::start(&ns.fleet).await?;
        let (one, other) = two_sessions(&ns).await?;
        let mut here = NodeClient::connect_with_site(&ns, &one, &site.url).await?;
        let mut there = NodeClient::connect_with_site(&ns, &other, &site.url).await?;
        let set = "await page.goto(`${site}/form`); await page.evaluate(() => {
                document.cookie = 'secret=1; max-age=3600'; localStorage.secret = 1;
            }); return (await context.cookies()).length";
        ensure!(here.run(set).await? == 1, "the session that set the cookie does not have it");
        let read = "await page.goto(`${site}/form`);
            return [await context.cookies(), await page.evaluate(() => [document.cookie, localStorage.length])]";
        let seen = there.run(read).await?;
        ensure!(seen == json!([[], ["", 0]]), "the other session sees {seen}");

        // The Playwright server in the pod sends these requests, to its own runner and to the other one.
        let runner = other.runner().await?;
        let own_pod = one.runner().await?;
        for address in ["127.0.0.1:8070".to_owned(), own_pod.address.clone(), runner.address.clone()] {
            for path in [
                "/v1/sessions".to_owned(),
                format!("/v1/sessions/{}", other.uid),
                format!("/v1/sessions/{}/playwright", other.uid),
                format!("/v1/sessions/{}/vnc", other.uid),
            ] {
                let requests = format!(
                    "return [(await context.request.get('http://{address}{path}')).status(),
                             (await context.request.delete('http://{address}{path}', options)).status()]"
                );
                let statuses = here.run(&requests).await?;
                let rejected = statuses
                    .as_array()
                    .is_some_and(|statuses| statuses.iter().all(|status| *status == 401 || *status == 405));
                ensure!(rejected, "requests from inside the pod to {address}{path} got {statuses}");
            }
        }
        // Only the runner's API and its probes are reachable from outside the pods.
        for pod in [&own_pod.uid, &runner.uid] {
            let server =
                host::processes_of(pod).into_iter().find(host::is_playwright_server).context("no Playwright server")?;
            let ports = server.listening_ports()?;
            ensure!(ports == [8070, 8071], "pod {pod} listens on ports {ports:?}");
        }
        other.wait_until_ready().await?;
        Ok(())
    });
}
