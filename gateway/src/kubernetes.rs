//! What the gateway asks of the API server: sessions by watch, one session by name, the Secret with the static tokens.
//! Thin: what it reads goes into [`Sessions`] and [`StaticTokens`], where the decisions are.

use crate::{
    auth::{Role, StaticTokens},
    refusal::Refusal,
    session::{Key, Session},
    sessions::Sessions,
};
use aws_lc_rs::rand;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use camofleet_crds::v1alpha1::BrowserSession;
use futures::{Stream, StreamExt};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, PostParams},
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use std::{collections::BTreeMap, pin::pin, time::Duration};
use tokio::{sync::watch, time::timeout};

/// The Secret with the static tokens, in the release's namespace.
pub const TOKENS: &str = "camofleet-tokens";
/// How long to wait before the Secret is made again after that failed.
const MAKE_AGAIN: Duration = Duration::from_secs(5);
/// How long the API server may take for one object.
const GET_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the cache of sessions up to date, for ever. `client` is to be used for nothing else: behind many requests on one
/// HTTP/2 connection, a watch was seen to starve.
pub async fn follow_sessions(client: Client, sessions: &Sessions) {
    // Guarded: one object that this version cannot read must not keep the others from being seen.
    let api = Api::<DeserializeGuard<BrowserSession>>::all(client);
    let mut events = pin!(events(api, watcher::Config::default()));
    while let Some(event) = events.next().await {
        match event {
            Event::Init => sessions.begin_list(),
            Event::InitApply(object) | Event::Apply(object) => {
                let key = key_of(&object);
                match object.0 {
                    Ok(object) => sessions.put(key, Session::of(&object)),
                    Err(error) => {
                        tracing::error!(session = %key, %error, "this gateway cannot read the session and leaves it out");
                        sessions.remove(&key);
                    }
                }
            }
            Event::InitDone => sessions.end_list(),
            Event::Delete(object) => sessions.remove(&key_of(&object)),
        }
    }
}

/// Asks the API server itself for the UID of the session that has this name now, if there is one.
pub async fn uid_of(client: &Client, key: &Key) -> Result<Option<String>, Refusal> {
    let api = Api::<DeserializeGuard<BrowserSession>>::namespaced(client.clone(), key.namespace());
    match timeout(GET_TIMEOUT, api.get_opt(key.name())).await {
        Ok(Ok(Some(DeserializeGuard(Ok(object))))) => Ok(Some(object.uid().unwrap_or_default())),
        Ok(Ok(Some(DeserializeGuard(Err(error))))) => Err(Refusal::Unreadable(key.clone(), error.error)),
        Ok(Ok(None)) => Ok(None),
        Ok(Err(error)) => Err(Refusal::ApiServer(Box::new(error))),
        Err(_) => Err(Refusal::ApiServerSilent),
    }
}

/// Keeps the static tokens as the Secret has them, for ever, and makes the Secret when it is not there.
pub async fn follow_tokens(client: Client, namespace: &str, tokens: &watch::Sender<Option<StaticTokens>>) {
    let api = Api::<Secret>::namespaced(client, namespace);
    let only_ours = watcher::Config::default().fields(&format!("metadata.name={TOKENS}"));
    let mut events = pin!(events(api.clone(), only_ours));
    let mut listed = None;
    while let Some(event) = events.next().await {
        match event {
            Event::Init => listed = None,
            Event::InitApply(secret) => listed = Some(secret),
            Event::InitDone => match listed.take() {
                Some(secret) => publish(tokens, &secret),
                None => make_tokens(&api, tokens).await,
            },
            Event::Apply(secret) => publish(tokens, &secret),
            // Whoever deletes it wants other tokens.
            Event::Delete(_) => make_tokens(&api, tokens).await,
        }
    }
}

fn publish(tokens: &watch::Sender<Option<StaticTokens>>, secret: &Secret) {
    let data = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    let read = StaticTokens::parse(data);
    if read.is_empty() {
        tracing::warn!("Secret {TOKENS} holds no token under `admin` or `viewer`: nobody can connect");
    } else {
        tracing::info!(tokens = ?read, "read Secret {TOKENS}");
    }
    tokens.send_replace(Some(read));
}

/// Makes the Secret with one new token for each role. The watch tells of it, and of another replica's that was faster.
async fn make_tokens(api: &Api<Secret>, tokens: &watch::Sender<Option<StaticTokens>>) {
    // What was good before the Secret went is good no more.
    tokens.send_if_modified(|known| known.as_mut().is_some_and(|known| !std::mem::take(known).is_empty()));
    let data = Role::ALL.map(|role| (role.as_str().to_owned(), ByteString(new_token().into_bytes())));
    let secret = Secret {
        metadata: ObjectMeta { name: Some(TOKENS.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from(data)),
        ..Secret::default()
    };
    loop {
        match api.create(&PostParams::default(), &secret).await {
            Ok(_) => return tracing::info!("made Secret {TOKENS} with one new token for each role"),
            Err(kube::Error::Api(status)) if status.is_already_exists() => return,
            Err(error) => tracing::error!(%error, "cannot make Secret {TOKENS}, trying again; you can make it by hand"),
        }
        tokio::time::sleep(MAKE_AGAIN).await;
    }
}

/// 256 random bits, fit for a URL.
fn new_token() -> String {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system's random source works, or nothing does");
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The events of a watch without its errors, which are logged; it begins again after each, by itself and not too fast.
fn events<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, config).default_backoff().filter_map(|event| async {
        event.inspect_err(|error| tracing::warn!(%error, kind = %K::kind(&()), "a watch broke and begins again")).ok()
    })
}

fn key_of(object: &impl ResourceExt) -> Key {
    Key::new(object.namespace().unwrap_or_default(), object.name_any()).expect("the API server checks names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_fit_for_a_url() {
        let token = new_token();
        assert_eq!(token.len(), 43);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_ne!(token, new_token());
    }
}
