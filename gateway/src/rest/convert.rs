//! Converts between the documents of the REST API and the custom resources. Pure.

use crate::{
    cache::{
        activity::Activity,
        session::{self, pool_name},
    },
    error::InvalidField,
    rest::{
        compat,
        documents::{CreateSession, PageEvent, Session, StartPage, StartPageState, Vnc},
    },
};
use camofleet_crds::{
    conditions::{self, READY, session as reasons},
    queue,
    v1alpha1::{
        BrowserSession, BrowserSessionSpec, DEFAULT_RECONNECT_GRACE_SECONDS, Display, Engine, PoolRef, SessionState,
        StartTier, StartUrlWait, WorkerPool,
    },
};
use camofleet_runner_api as runner;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1 as meta,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;
use std::{collections::BTreeMap, sync::Arc};

/// Annotation with the REST API's labels as JSON. They can contain text that is invalid in Kubernetes labels.
const LABELS: &str = "camofleet.dev/labels";
/// Limit of the labels, in bytes of JSON. The chart's admission policy allows 4096 bytes of annotations per object.
const MAX_LABELS: usize = 3072;
/// Queue timeout of sessions created by the REST API, in seconds. Shorter than the 60 s that the request waits.
pub const QUEUE_TIMEOUT_SECONDS: i32 = 45;

/// Converts a request to the `BrowserSession` to create.
///
/// # Errors
/// When the labels exceed `MAX_LABELS`.
pub fn browser_session(name: &str, namespace: &str, request: CreateSession) -> Result<BrowserSession, InvalidField> {
    let spec = BrowserSessionSpec {
        pool_ref: request.worker.map(|name| PoolRef { name, namespace: None }),
        display: compat::display(request.vnc, request.headless),
        idle_timeout_seconds: request.idle_ttl_seconds,
        max_lifetime_seconds: request.max_lifetime_seconds,
        queue_timeout_seconds: QUEUE_TIMEOUT_SECONDS,
        reconnect_grace_seconds: request.reconnect_grace_seconds.unwrap_or(DEFAULT_RECONNECT_GRACE_SECONDS),
        start_url: request.start_url.as_deref().and_then(start_url),
        start_url_wait: request.start_url_wait.map_or_else(StartUrlWait::default, StartUrlWait::from),
        ..BrowserSessionSpec::default()
    };
    let mut session = BrowserSession::new(name, spec);
    session.metadata.namespace = Some(namespace.to_owned());
    if let Some(labels) = request.labels.filter(|labels| !labels.is_empty()) {
        let json = serde_json::to_string(&labels).expect("text serializes");
        if json.len() > MAX_LABELS {
            return Err(InvalidField {
                loc: vec!["body".to_owned(), "labels".to_owned()],
                msg: format!(
                    "the labels take {} bytes as JSON, and the limit is {MAX_LABELS}: shorten or remove some of them",
                    json.len()
                ),
                type_: "too_long".to_owned(),
            });
        }
        session.metadata.annotations = Some([(LABELS.to_owned(), json)].into());
    }
    Ok(session)
}

/// Normalizes a start URL that a person typed: adds `https://` to a bare host. None when the text is blank.
pub fn start_url(typed: &str) -> Option<String> {
    let typed = typed.trim();
    if typed.is_empty() {
        return None;
    }
    if let Some(rest) = typed.strip_prefix("//") {
        return Some(format!("https://{rest}"));
    }
    Some(if has_scheme(typed) { typed.to_owned() } else { format!("https://{typed}") })
}

/// Whether the text begins with a URL scheme (RFC 3986 section 3.1) and not with a host and port, as in `host:8080`.
fn has_scheme(typed: &str) -> bool {
    let Some((scheme, rest)) = typed.split_once(':') else { return false };
    let is_word = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
    let port = rest.split(['/', '?', '#']).next().unwrap_or_default();
    is_word && (port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The sources of a session's document.
pub struct SessionSources<'a> {
    /// The session.
    pub session: &'a session::Session,
    /// The activity that the session's runner last reported.
    pub activity: Option<&'a Activity>,
    /// The pool that serves the session, or the pool in its spec.
    pub pool: Option<&'a WorkerPool>,
    /// A session token with the view scope, for the live view's URLs.
    pub view_token: Option<&'a str>,
    /// Result of [`sessions_ahead`]. None when the session does not wait, or the number was not computed.
    pub sessions_ahead: Option<u32>,
    /// The gateway's namespace, which paths omit.
    pub own_namespace: &'a str,
}

/// Computes how many of the sessions that name the pool it will serve before this session. Sessions that name no pool
/// are not counted, because any pool can serve them, so the result can be too low. `all`: the sessions of all
/// namespaces. None when the session does not name the pool or does not wait.
pub fn sessions_ahead(pool: &WorkerPool, session: &BrowserSession, all: &[Arc<BrowserSession>]) -> Option<u32> {
    let (name, namespace) = (pool.name_any(), pool.namespace().unwrap_or_default());
    let requests_pool = |session: &BrowserSession| {
        let named = session.spec.pool_ref.as_ref();
        named.is_some_and(|named| named.name == name) && session.pool_namespace() == namespace
    };
    // A session that the pool rejects is not in its queue.
    let is_accepted = |session: &BrowserSession| {
        let ready = session.status.as_ref().and_then(|status| conditions::get(&status.conditions, READY));
        ready.is_none_or(|it| !matches!(it.reason.as_str(), reasons::NOT_ALLOWED | reasons::NO_MATCHING_POOL))
    };
    let mut running = BTreeMap::<String, u32>::new();
    let mut waiting = Vec::new();
    for other in all {
        match other.state() {
            SessionState::Starting | SessionState::Ready
                if pool_name(other) == name && other.pool_namespace() == namespace =>
            {
                *running.entry(other.tenant().to_owned()).or_default() += 1;
            }
            SessionState::Pending | SessionState::Queued if requests_pool(other) && is_accepted(other) => {
                waiting.push(other.as_ref());
            }
            _ => {}
        }
    }
    let order = queue::order(pool, &running, waiting);
    let at = order.iter().position(|other| other.metadata.uid == session.metadata.uid)?;
    u32::try_from(at).ok()
}

impl SessionSources<'_> {
    /// Builds the document.
    pub fn document(&self) -> Session {
        let object = &*self.session.object;
        let status = object.status.clone().unwrap_or_default();
        let pool = pool_name(object);
        let (namespace, id) = (object.namespace().unwrap_or_default(), object.name_any());
        let created_at = object.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let ready_at = at(status.ready_time.as_ref());
        let idle_ttl_seconds =
            object.spec.idle_timeout_seconds.or_else(|| self.pool.map(|pool| object.idle_timeout_for(pool)));
        let display =
            object.spec.display.or_else(|| self.pool.map(|pool| object.display_for(pool))).unwrap_or_default();
        let is_live = status.state != SessionState::Finished;
        let last_seen_at = self.activity.map(|activity| activity.last_active).or(ready_at).unwrap_or(created_at);
        let idle_after = idle_ttl_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
        let idle_at = ready_at.filter(|_| is_live).and(idle_after).and_then(|ttl| last_seen_at.checked_add(ttl).ok());
        let condition = conditions::get(&status.conditions, READY);
        Session {
            ws_endpoint: compat::ws_endpoint(&namespace, self.own_namespace, pool, &id),
            worker: pool.to_owned(),
            status: compat::status(object),
            state: status.state.as_str().to_owned(),
            reason: condition.map(|condition| condition.reason.clone()),
            message: condition.map(|condition| condition.message.clone()).filter(|message| !message.is_empty()),
            queue_position: self.sessions_ahead,
            created_at,
            ready_at,
            finished_at: at(status.finished_time.as_ref()),
            last_seen_at,
            idle_at,
            deadline_at: at(status.deadline_time.as_ref()).filter(|_| is_live),
            idle_ttl_seconds,
            reconnect_grace_seconds: object.spec.reconnect_grace_seconds,
            hot_start: status.start_tier.map(|tier| tier == StartTier::Hot),
            browser: status.engine.map(|engine| engine_name(engine).to_owned()),
            browser_version: status.browser_version,
            playwright_version: status.playwright_version,
            runner: status.runner.map(|runner| runner.name),
            headless: display == Display::Headless,
            labels: labels(object),
            ws_url: status.ws_endpoint.filter(|_| is_live),
            vnc_enabled: display == Display::LiveView,
            vnc: status.vnc.filter(|_| is_live).zip(self.view_token).map(|(vnc, token)| Vnc {
                ws: format!("{}?token={token}", vnc.ws_endpoint),
                http: format!("{}#token={token}", vnc.url),
                password_protected: false,
            }),
            start_url: object.spec.start_url.clone(),
            start_url_wait: object.spec.start_url_wait.into(),
            start_page: self.activity.map(|activity| StartPage::from(&activity.start_page)),
            clients: self.activity.filter(|_| is_live).map(|activity| activity.clients),
            namespace,
            id,
        }
    }
}

fn at(time: Option<&meta::MicroTime>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Camoufox => "camoufox",
        Engine::Firefox => "firefox",
    }
}

/// The labels in a session's annotation. Empty when another client wrote something else into the annotation.
fn labels(object: &BrowserSession) -> BTreeMap<String, String> {
    object.annotations().get(LABELS).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

impl From<PageEvent> for StartUrlWait {
    fn from(event: PageEvent) -> Self {
        match event {
            PageEvent::None => Self::None,
            PageEvent::DomContentLoaded => Self::DomContentLoaded,
            PageEvent::Load => Self::Load,
        }
    }
}

impl From<StartUrlWait> for PageEvent {
    fn from(wait: StartUrlWait) -> Self {
        match wait {
            StartUrlWait::None => Self::None,
            StartUrlWait::DomContentLoaded => Self::DomContentLoaded,
            StartUrlWait::Load => Self::Load,
        }
    }
}

impl From<&runner::StartPage> for StartPage {
    fn from(page: &runner::StartPage) -> Self {
        let (state, message) = match page {
            runner::StartPage::None => (StartPageState::None, None),
            runner::StartPage::Loading => (StartPageState::Loading, None),
            runner::StartPage::Loaded => (StartPageState::Loaded, None),
            runner::StartPage::Failed { message } => (StartPageState::Failed, Some(message.clone())),
        };
        Self { state, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::{
        conditions::ConditionStatus,
        v1alpha1::{BrowserSessionStatus, WorkerPoolSpec},
    };

    #[test]
    fn normalizes_the_start_url() {
        for (typed, url) in [
            ("example.org", Some("https://example.org")),
            (" example.org/path?q=1#x ", Some("https://example.org/path?q=1#x")),
            ("localhost:3000", Some("https://localhost:3000")),
            ("localhost:3000/a:b", Some("https://localhost:3000/a:b")),
            ("//example.org/a", Some("https://example.org/a")),
            ("http://example.org", Some("http://example.org")),
            ("HTTPS://example.org", Some("HTTPS://example.org")),
            ("data:text/html,x", Some("data:text/html,x")),
            ("about:blank", Some("about:blank")),
            // Not changed: the API server rejects them with a reason.
            ("javascript:alert(1)", Some("javascript:alert(1)")),
            ("file:///etc/passwd", Some("file:///etc/passwd")),
            ("", None),
            ("  ", None),
        ] {
            assert_eq!(start_url(typed).as_deref(), url, "{typed:?}");
        }
    }

    #[test]
    fn maps_headless_and_vnc_to_a_display() {
        let display = |vnc, headless| {
            let request = CreateSession { headless, vnc, ..CreateSession::default() };
            browser_session("s", "ns", request).unwrap().spec.display
        };
        assert_eq!(display(false, None), None, "the pool's default");
        assert_eq!(display(false, Some(true)), Some(Display::Headless));
        assert_eq!(display(false, Some(false)), Some(Display::Headful));
        for ignored in [None, Some(true), Some(false)] {
            assert_eq!(display(true, ignored), Some(Display::LiveView));
        }
    }

    #[test]
    fn counts_the_sessions_ahead_in_the_queue() {
        let session = |namespace: &str, uid: &str, state: SessionState| {
            let named = PoolRef { name: "pool".into(), namespace: Some("own".into()) };
            let spec = BrowserSessionSpec { pool_ref: Some(named), ..BrowserSessionSpec::default() };
            let mut session = BrowserSession::new(uid, spec);
            session.metadata.namespace = Some(namespace.to_owned());
            session.metadata.uid = Some(uid.to_owned());
            let mut status = BrowserSessionStatus { state, ..BrowserSessionStatus::default() };
            if state == SessionState::Ready {
                status.pool = Some("pool".into());
                status.pool_namespace = Some("own".into());
            }
            let reason = if uid.starts_with("rejected") { reasons::NOT_ALLOWED } else { reasons::NO_CAPACITY };
            conditions::set(
                &mut status.conditions,
                READY,
                ConditionStatus::False,
                reason,
                "",
                None,
                Timestamp::UNIX_EPOCH,
            );
            session.status = Some(status);
            Arc::new(session)
        };
        let mut pool = WorkerPool::new("pool", WorkerPoolSpec::default());
        pool.metadata.namespace = Some("own".into());
        let all = [
            session("busy", "running", SessionState::Ready),
            session("busy", "b1", SessionState::Queued),
            session("new", "n1", SessionState::Queued),
            session("new", "n2", SessionState::Queued),
            session("new", "rejected", SessionState::Queued),
        ];
        let ahead = |uid: &str| {
            let session = all.iter().find(|session| session.name_any() == uid)?;
            sessions_ahead(&pool, session, &all)
        };
        assert_eq!(
            ["n1", "b1", "n2"].map(ahead),
            [Some(0), Some(1), Some(2)],
            "the tenant without a running session is served first"
        );
        assert_eq!([ahead("running"), ahead("rejected")], [None, None]);
    }

    #[test]
    fn labels_round_trip() {
        let given: BTreeMap<String, String> =
            [("Any thing/at all", "ä\n{}"), ("", "")].map(|(k, v)| (k.into(), v.into())).into();
        let request = CreateSession { labels: Some(given.clone()), ..CreateSession::default() };
        assert_eq!(labels(&browser_session("s", "ns", request).unwrap()), given);
        let with =
            |labels| browser_session("s", "ns", CreateSession { labels: Some(labels), ..CreateSession::default() });
        let rejected = with([("a".to_owned(), "x".repeat(MAX_LABELS))].into()).unwrap_err();
        assert_eq!(rejected.loc, ["body", "labels"]);
        let none = with(BTreeMap::new()).unwrap();
        assert_eq!(none.metadata.annotations, None);
    }
}
