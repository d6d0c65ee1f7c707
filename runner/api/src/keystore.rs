//! Where signing keys live: the private half in a Secret of the release's namespace, made by whoever needs it first, the
//! public halves of all issuers in one ConfigMap. No key is made by the chart, which would make it anew at each render.

use crate::token::{Issuer, PublicKey, PublicKeys, Signer, new_private_key};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use std::collections::BTreeMap;

/// The ConfigMap with the public keys of every issuer: data key = issuer, value = one key a line, current first.
pub const PUBLIC_KEYS: &str = "camofleet-public-keys";
const PRIVATE_KEY: &str = "private-key";
/// How many keys of an issuer stay published: the current one and those that running processes may still sign with.
const KEYS_KEPT: usize = 3;

/// Why the signing key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// The API server refused or failed.
    #[error("cannot read or write {what}: {source}")]
    Kube {
        /// Which object.
        what: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// The Secret is there but holds no key.
    #[error("Secret {secret} holds no Ed25519 key in PKCS#8 under `{PRIVATE_KEY}`: delete it, and a new one is made")]
    NoKey {
        /// Name of the Secret.
        secret: String,
    },
}

/// The issuer's signer, from the Secret `camofleet-<issuer>-key`. A key is made when there is none, and its public half is
/// published.
pub async fn signer(client: &Client, namespace: &str, issuer: Issuer) -> Result<Signer, KeyStoreError> {
    let secret = format!("camofleet-{}-key", issuer.as_str());
    let der = private_key(client, namespace, &secret).await?;
    let signer = Signer::from_pkcs8(issuer, &der).map_err(|_| KeyStoreError::NoKey { secret })?;
    publish(client, namespace, issuer, signer.public_key()).await?;
    Ok(signer)
}

/// The published keys, as runners are to trust them. Lines that are no keys are left out, with a warning.
pub fn public_keys(published: &ConfigMap) -> PublicKeys {
    let mut keys = PublicKeys::default();
    for issuer in [Issuer::Operator, Issuer::Gateway] {
        let lines = published.data.as_ref().and_then(|data| data.get(issuer.as_str())).map_or("", String::as_str);
        let parsed = lines.lines().filter_map(|line| {
            PublicKey::parse(line)
                .inspect_err(|error| tracing::warn!(%error, "ConfigMap {PUBLIC_KEYS} holds a bad line"))
                .ok()
        });
        keys.0.insert(issuer, parsed.collect());
    }
    keys
}

async fn private_key(client: &Client, namespace: &str, name: &str) -> Result<Vec<u8>, KeyStoreError> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let failed = |source| KeyStoreError::Kube { what: format!("Secret {namespace}/{name}"), source: Box::new(source) };
    let secret = match api.get_opt(name).await.map_err(failed)? {
        Some(secret) => secret,
        None => {
            let made = Secret {
                metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
                data: Some(BTreeMap::from([(PRIVATE_KEY.to_owned(), ByteString(new_private_key()))])),
                ..Secret::default()
            };
            match api.create(&PostParams::default(), &made).await {
                Ok(secret) => secret,
                // Another replica was faster: its key is ours too.
                Err(kube::Error::Api(status)) if status.is_already_exists() => api.get(name).await.map_err(failed)?,
                Err(error) => return Err(failed(error)),
            }
        }
    };
    let key = secret.data.and_then(|mut data| data.remove(PRIVATE_KEY));
    key.map(|bytes| bytes.0).ok_or_else(|| KeyStoreError::NoKey { secret: name.to_owned() })
}

async fn publish(client: &Client, namespace: &str, issuer: Issuer, key: &PublicKey) -> Result<(), KeyStoreError> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let failed =
        |source| KeyStoreError::Kube { what: format!("ConfigMap {namespace}/{PUBLIC_KEYS}"), source: Box::new(source) };
    let empty = ConfigMap {
        metadata: ObjectMeta { name: Some(PUBLIC_KEYS.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    };
    let current = match api.get_opt(PUBLIC_KEYS).await.map_err(failed)? {
        Some(current) => current,
        None => match api.create(&PostParams::default(), &empty).await {
            Ok(created) => created,
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                api.get(PUBLIC_KEYS).await.map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        },
    };
    let published = current.data.as_ref().and_then(|data| data.get(issuer.as_str())).map_or("", String::as_str);
    if published.lines().next() == Some(key.as_str()) {
        return Ok(());
    }
    // Each issuer writes its own data key only, and its replicas hold the same key: no two writers disagree.
    let older = published.lines().filter(|line| *line != key.as_str());
    let lines: Vec<&str> = std::iter::once(key.as_str()).chain(older).take(KEYS_KEPT).collect();
    let patch = serde_json::json!({ "data": { issuer.as_str(): lines.join("\n") } });
    api.patch(PUBLIC_KEYS, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(failed)?;
    Ok(())
}
