//! Stores the issuers' signing keys in Secrets of the release's namespace: the private key in a Secret that is created
//! on first use, the public keys in a second Secret that the issuer keeps published. The chart does not create keys,
//! because each render would generate new ones.

use crate::token::{Issuer, PublicKey, PublicKeys, Signer, new_private_key};
use k8s_openapi::{
    ByteString, NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Debug, time::Duration};

/// ConfigMap in which the previous version published the public keys of all issuers: the data key is the issuer, and
/// the value has one key per line, the current one first. It is still written for a rollback, and read for issuers that
/// have no Secret yet.
pub const PUBLIC_KEYS_CONFIG_MAP: &str = "camofleet-public-keys";
const PRIVATE_KEY_DATA_KEY: &str = "private-key";
/// Data key of a Secret with public keys. Its value has one key per line, the current one first.
const PUBLIC_KEYS_DATA_KEY: &str = "public-keys";
/// Maximum number of published and trusted keys per issuer: the current one, and previous ones that running processes
/// can still sign with.
const MAX_KEYS: usize = 3;
/// Maximum number of lines to parse. It bounds the warnings about lines that are not keys.
const MAX_LINES: usize = 16;
/// Interval in which an issuer checks that its keys are published. The next check repeats a failed one.
const CHECK_INTERVAL: Duration = Duration::from_secs(20);
/// Attempts per check, because replicas can write at the same time.
const MAX_ATTEMPTS: u32 = 5;

/// Name of the Secret in which an issuer publishes its public keys.
pub fn public_keys_secret(issuer: Issuer) -> String {
    format!("camofleet-{}-public-key", issuer.as_str())
}

/// Why a signing key could not be loaded, or its public key not be published.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// A request to the API server failed.
    #[error("cannot read or write {what}: {source}")]
    Kube {
        /// Kind and name of the object.
        what: String,
        /// Error of the request.
        source: Box<kube::Error>,
    },
    /// The Secret exists but does not contain a key.
    #[error(
        "Secret {secret} has no Ed25519 key in PKCS#8 under `{PRIVATE_KEY_DATA_KEY}`: delete the Secret to have a new key generated"
    )]
    NoKey {
        /// Name of the Secret.
        secret: String,
    },
}

/// Loads the issuer's private key from the Secret `camofleet-<issuer>-key`, creates it if it does not exist, and
/// publishes the public key. Run [`Publication::run`] while the signer is in use.
pub async fn signer(client: &Client, namespace: &str, issuer: Issuer) -> Result<(Signer, Publication), KeyStoreError> {
    let (secret, der) = (private_key_secret(issuer), private_key(client, namespace, issuer).await?);
    let signer = Signer::from_pkcs8(issuer, &der).map_err(|_| KeyStoreError::NoKey { secret })?;
    let mut publication = Publication {
        secrets: Api::namespaced(client.clone(), namespace),
        config_maps: Api::namespaced(client.clone(), namespace),
        issuer,
        own: signer.public_key().clone(),
        known: Vec::new(),
    };
    publication.known = publication.published().await?;
    publication.restore().await?;
    Ok((signer, publication))
}

fn private_key_secret(issuer: Issuer) -> String {
    format!("camofleet-{}-key", issuer.as_str())
}

async fn private_key(client: &Client, namespace: &str, issuer: Issuer) -> Result<Vec<u8>, KeyStoreError> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let name = private_key_secret(issuer);
    let failed = |source| KeyStoreError::Kube { what: format!("Secret {namespace}/{name}"), source: Box::new(source) };
    let secret = match api.get_opt(&name).await.map_err(failed)? {
        Some(secret) => secret,
        None => {
            let secret = Secret {
                metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
                data: Some(BTreeMap::from([(PRIVATE_KEY_DATA_KEY.to_owned(), ByteString(new_private_key()))])),
                ..Secret::default()
            };
            match api.create(&PostParams::default(), &secret).await {
                Ok(secret) => secret,
                // Another replica created the key first. All replicas share one key.
                Err(kube::Error::Api(status)) if status.is_already_exists() => api.get(&name).await.map_err(failed)?,
                Err(error) => return Err(failed(error)),
            }
        }
    };
    let key = secret.data.and_then(|mut data| data.remove(PRIVATE_KEY_DATA_KEY));
    key.map(|bytes| bytes.0).ok_or(KeyStoreError::NoKey { secret: name })
}

/// Keeps the public keys of an issuer published in its Secret, and for one version also in the ConfigMap. The *current*
/// key is that of the stored private key, and a process's *own* key the one that it loaded at its start. Every replica
/// of the issuer publishes. They agree on the content because each adds only its own key and the current one.
#[derive(Debug)]
pub struct Publication {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    issuer: Issuer,
    /// Public key of this process.
    own: PublicKey,
    /// Keys that were published when this process started, or have been current since. All others are removed.
    known: Vec<PublicKey>,
}

impl Publication {
    /// Restores deleted or changed keys until the future is dropped.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if let Err(error) = self.restore().await {
                let issuer = self.issuer.as_str();
                tracing::error!(issuer, %error, "could not check the published public keys, retrying in 20 s");
            }
        }
    }

    /// Publishes the desired keys where the published ones differ.
    async fn restore(&mut self) -> Result<(), KeyStoreError> {
        let current = self.current().await?;
        if !self.known.contains(&current) {
            self.known.push(current.clone());
        }
        let (own, known) = (&self.own, &self.known);
        let desired =
            |published: &str| to_text(&desired_keys(&current, own, known, &parse_keys(published, self.issuer)));
        let (secret, issuer) = (public_keys_secret(self.issuer), self.issuer);
        if ensure(&self.secrets, &secret, issuer, desired).await? {
            tracing::info!(secret, "published the public keys, which were missing or changed");
        }
        if ensure(&self.config_maps, PUBLIC_KEYS_CONFIG_MAP, issuer, desired).await? {
            tracing::info!(
                config_map = PUBLIC_KEYS_CONFIG_MAP,
                data_key = issuer.as_str(),
                "published the public keys for the previous version"
            );
        }
        Ok(())
    }

    /// Public key of the stored private key. It differs from `own` once the private key was replaced after this process
    /// started.
    async fn current(&self) -> Result<PublicKey, KeyStoreError> {
        let name = private_key_secret(self.issuer);
        let stored = self.secrets.get_opt(&name).await;
        let stored =
            stored.map_err(|error| KeyStoreError::Kube { what: format!("Secret {name}"), source: Box::new(error) })?;
        let der = stored.and_then(|secret| secret.data).and_then(|mut data| data.remove(PRIVATE_KEY_DATA_KEY));
        let signer = der.and_then(|der| Signer::from_pkcs8(self.issuer, &der.0).ok());
        // If the stored key is missing or unreadable, the key of this process stays current until another process
        // creates a new one.
        Ok(signer.map_or_else(|| self.own.clone(), |signer| signer.public_key().clone()))
    }

    async fn published(&self) -> Result<Vec<PublicKey>, KeyStoreError> {
        let name = public_keys_secret(self.issuer);
        let failed = |source| KeyStoreError::Kube { what: format!("Secret {name}"), source: Box::new(source) };
        let secret = self.secrets.get_opt(&name).await.map_err(failed)?;
        Ok(secret.map(|secret| keys_of_secret(&secret, self.issuer)).unwrap_or_default())
    }
}

/// An object in which an issuer can publish its keys.
trait KeyObject:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug
{
    /// An object with this name that contains only these keys.
    fn with_keys(name: &str, issuer: Issuer, keys: &str) -> Self;

    /// The issuer's keys, one per line.
    fn keys(&self, issuer: Issuer) -> String;
}

impl KeyObject for Secret {
    fn with_keys(name: &str, _: Issuer, keys: &str) -> Self {
        Self {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([(PUBLIC_KEYS_DATA_KEY.to_owned(), ByteString(keys.as_bytes().to_vec()))])),
            ..Self::default()
        }
    }

    fn keys(&self, _: Issuer) -> String {
        let bytes = self.data.as_ref().and_then(|data| data.get(PUBLIC_KEYS_DATA_KEY));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    }
}

impl KeyObject for ConfigMap {
    fn with_keys(name: &str, issuer: Issuer, keys: &str) -> Self {
        Self {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([(issuer.as_str().to_owned(), keys.to_owned())])),
            ..Self::default()
        }
    }

    fn keys(&self, issuer: Issuer) -> String {
        self.data.as_ref().and_then(|data| data.get(issuer.as_str())).cloned().unwrap_or_default()
    }
}

/// Writes the desired keys, which depend on the published ones, unless they are published already. Returns whether it
/// wrote.
async fn ensure<K: KeyObject>(
    api: &Api<K>,
    name: &str,
    issuer: Issuer,
    desired: impl Fn(&str) -> String,
) -> Result<bool, KeyStoreError> {
    let failed = |source| {
        let what = format!("{} {name} (if it is immutable, delete it)", K::kind(&()));
        KeyStoreError::Kube { what, source: Box::new(source) }
    };
    let mut attempt = 1;
    loop {
        let found = api.get_opt(name).await.map_err(failed)?;
        let published = found.as_ref().map(|object| object.keys(issuer));
        let keys = desired(published.as_deref().unwrap_or_default());
        if published.as_ref() == Some(&keys) {
            return Ok(false);
        }
        let mut object = K::with_keys(name, issuer, &keys);
        let written = match found {
            None => api.create(&PostParams::default(), &object).await,
            Some(found) => {
                object.meta_mut().resource_version = found.resource_version();
                api.patch(name, &PatchParams::default(), &Patch::Merge(&object)).await
            }
        };
        match written {
            Ok(_) => return Ok(true),
            // Another replica wrote the object, or it was deleted meanwhile.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) && attempt < MAX_ATTEMPTS => attempt += 1,
            Err(error) => return Err(failed(error)),
        }
    }
}

/// The keys to publish in place of `published`, the current one first. During a key rotation, `own` differs from
/// `current` in replicas that started before it. Old and new replicas know both keys, so they agree on the result. A
/// key that was removed after a theft is not published again.
fn desired_keys(current: &PublicKey, own: &PublicKey, known: &[PublicKey], published: &[PublicKey]) -> Vec<PublicKey> {
    let older = published.iter().filter(|key| known.contains(key));
    let mut keys: Vec<PublicKey> = Vec::new();
    for key in [current, own].into_iter().chain(older) {
        if !keys.contains(key) && keys.len() < MAX_KEYS {
            keys.push(key.clone());
        }
    }
    keys
}

fn to_text(keys: &[PublicKey]) -> String {
    keys.iter().map(PublicKey::as_str).collect::<Vec<_>>().join("\n")
}

/// Parses keys from lines of text, at most three, the current one first. Logs a warning for each line that is not a
/// key.
fn parse_keys(text: &str, issuer: Issuer) -> Vec<PublicKey> {
    let lines = text.lines().take(MAX_LINES).enumerate();
    let keys = lines.filter_map(|(index, line)| match PublicKey::parse(line) {
        Ok(key) => Some(key),
        Err(_) => {
            tracing::warn!(
                issuer = issuer.as_str(),
                line = index + 1,
                "ignored a published line that is not a public key"
            );
            None
        }
    });
    keys.take(MAX_KEYS).collect()
}

/// Parses the public keys in an issuer's Secret.
pub fn keys_of_secret(secret: &Secret, issuer: Issuer) -> Vec<PublicKey> {
    parse_keys(&secret.keys(issuer), issuer)
}

/// Parses the public keys of both issuers in the ConfigMap of the previous version.
pub fn keys_of_config_map(config_map: &ConfigMap) -> PublicKeys {
    let issuers = [Issuer::Operator, Issuer::Gateway];
    PublicKeys(issuers.map(|issuer| (issuer, parse_keys(&config_map.keys(issuer), issuer))).into())
}

/// Selects the trusted keys from the published ones. Once an issuer has a Secret, its keys in the ConfigMap are
/// ignored, so keys that are added to the ConfigMap are trusted only for issuers of the previous version, which have no
/// Secret. When an object is deleted or has no keys, its previous keys stay trusted until it has keys again.
#[derive(Debug, Default)]
pub struct TrustedKeys {
    secrets: BTreeMap<Issuer, Vec<PublicKey>>,
    config_map: BTreeMap<Issuer, Vec<PublicKey>>,
}

impl TrustedKeys {
    /// Sets the keys from an issuer's Secret. An empty list has no effect.
    pub fn set_secret_keys(&mut self, issuer: Issuer, keys: Vec<PublicKey>) {
        if !keys.is_empty() {
            self.secrets.insert(issuer, keys);
        }
    }

    /// Sets the keys from the ConfigMap. Empty lists have no effect.
    pub fn set_config_map_keys(&mut self, keys: PublicKeys) {
        self.config_map.extend(keys.0.into_iter().filter(|(_, keys)| !keys.is_empty()));
    }

    /// Trusted keys of both issuers. The list of an issuer without published keys is empty.
    pub fn keys(&self) -> PublicKeys {
        let of = |issuer| self.secrets.get(&issuer).or_else(|| self.config_map.get(&issuer)).cloned();
        let issuers = [Issuer::Operator, Issuer::Gateway];
        PublicKeys(issuers.map(|issuer| (issuer, of(issuer).unwrap_or_default())).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice;

    fn key() -> PublicKey {
        Signer::from_pkcs8(Issuer::Gateway, &new_private_key()).unwrap().public_key().clone()
    }

    #[test]
    fn restores_published_keys_and_removes_unknown_ones() {
        let (own, old, older, oldest, foreign) = (key(), key(), key(), key(), key());
        let known = [own.clone(), old.clone(), older.clone(), oldest.clone()];
        let desired = |published: &[&PublicKey]| {
            let published: Vec<_> = published.iter().map(|key| (*key).clone()).collect();
            desired_keys(&own, &own, &known, &published)
        };
        assert_eq!(desired(&[]), slice::from_ref(&own), "deleted or emptied");
        assert_eq!(desired(&[&foreign]), slice::from_ref(&own), "replaced");
        assert_eq!(desired(&[&own, &old]), [own.clone(), old.clone()], "unchanged");
        assert_eq!(desired(&[&old, &foreign]), [own.clone(), old.clone()]);
        assert_eq!(desired(&[&old, &older, &oldest]), [own.clone(), old.clone(), older.clone()], "at most three");
        assert_eq!(desired(&[&own]), slice::from_ref(&own), "a key that was removed after a theft stays removed");
    }

    #[test]
    fn replicas_agree_during_key_rotation() {
        // Old replicas read the new key from the private Secret, and new replicas found the old key published.
        let (old, new) = (key(), key());
        let known = [old.clone(), new.clone()];
        for published in [vec![], vec![old.clone()], vec![new.clone()], vec![new.clone(), old.clone()]] {
            let first = desired_keys(&new, &old, &known, &published);
            assert_eq!(first, [new.clone(), old.clone()]);
            assert_eq!(desired_keys(&new, &new, &known, &first), first, "the other replica changes nothing");
        }
    }

    #[test]
    fn a_secret_overrides_the_config_map_and_a_deletion_keeps_the_keys() {
        let (of_secret, planted, operators) = (key(), key(), key());
        let config_map = |gateway: &[&PublicKey]| {
            let text = gateway.iter().map(|key| key.as_str()).collect::<Vec<_>>().join("\n");
            let data = [("operator".to_owned(), operators.as_str().to_owned()), ("gateway".to_owned(), text)];
            keys_of_config_map(&ConfigMap { data: Some(data.into()), ..ConfigMap::default() })
        };
        let of = |trusted: &TrustedKeys| trusted.keys().0[&Issuer::Gateway].clone();
        let mut trusted = TrustedKeys::default();
        assert_eq!(of(&trusted), []);
        // A gateway of the previous version publishes in the ConfigMap alone.
        trusted.set_config_map_keys(config_map(&[&planted, &of_secret]));
        assert_eq!(of(&trusted), [planted.clone(), of_secret.clone()]);
        let secret = Secret::with_keys("s", Issuer::Gateway, of_secret.as_str());
        trusted.set_secret_keys(Issuer::Gateway, keys_of_secret(&secret, Issuer::Gateway));
        assert_eq!(of(&trusted), slice::from_ref(&of_secret));
        trusted.set_config_map_keys(config_map(&[&planted]));
        assert_eq!(of(&trusted), slice::from_ref(&of_secret), "the ConfigMap is ignored from now on");
        for emptied in [Secret::default(), Secret::with_keys("s", Issuer::Gateway, "no key\n")] {
            trusted.set_secret_keys(Issuer::Gateway, keys_of_secret(&emptied, Issuer::Gateway));
        }
        trusted.set_config_map_keys(config_map(&[]));
        assert_eq!(of(&trusted), [of_secret], "the previous keys stay trusted");
        assert_eq!(trusted.keys().0[&Issuer::Operator], [operators]);
    }

    #[test]
    fn trusts_at_most_three_keys_per_issuer() {
        let keys: Vec<PublicKey> = (0..5).map(|_| key()).collect();
        let text = format!("junk\n{}", to_text(&keys));
        assert_eq!(parse_keys(&text, Issuer::Gateway), keys[..3]);
        let late = format!("{}{}", "junk\n".repeat(MAX_LINES), keys[0].as_str());
        assert_eq!(parse_keys(&late, Issuer::Gateway), []);
    }
}
