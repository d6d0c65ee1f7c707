//! The published public keys are deleted and altered while the operator runs.

use crate::fleet::{FLEET, POOL, assert_whole, claim, leader, on_a_fleet, until};
use anyhow::{Context, Result, ensure};
use camofleet_auth::{
    keystore::{self, PUBLIC_KEYS, keys_of_secret, public_key_secret},
    token::{Issuer, PublicKey, PublicKeys, Signer, new_private_key},
};
use camofleet_bench::{
    control_plane::User,
    harness::{Harness, lasting_pool},
    operator::NAMESPACE,
};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{ConfigMap, Pod, Secret},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ANNOTATION: &str = "camofleet.dev/public-keys";
/// The chart with its defaults.
const CHART: &str = include_str!("../../../charts/install.yaml");
const ISSUERS: [Issuer; 2] = [Issuer::Operator, Issuer::Gateway];

/// The gateway is its key store, as the gateway's process runs it.
#[test]
fn public_keys_that_are_deleted_or_altered_come_back_and_runners_keep_theirs() {
    on_a_fleet("keys", async |harness| {
        grant_what_the_chart_grants(harness).await?;
        // A gateway of the previous version: it publishes in the ConfigMap alone.
        let private = new_private_key();
        let key = public_half(&private)?;
        let secrets = harness.api::<Secret>(NAMESPACE);
        secrets.create(&PostParams::default(), &secret("camofleet-gateway-key", "private-key", &private)).await?;
        let config_map = json!({ "metadata": { "name": PUBLIC_KEYS }, "data": { "gateway": key.as_str() } });
        harness
            .api::<ConfigMap>(NAMESPACE)
            .create(&PostParams::default(), &serde_json::from_value(config_map)?)
            .await?;
        let mut operator = leader(harness, "a").await?;
        harness.hot_pool(FLEET, POOL, lasting_pool(2, 4)).await?;
        let trusted = trusted(harness).await?;
        let of_gateway = vec![key.clone()];
        ensure!(trusted.0[&Issuer::Gateway] == of_gateway && trusted.0[&Issuer::Operator].len() == 1, "{trusted:?}");
        // One of this version comes: it has the same key.
        let (_, publication) = keystore::signer(&harness.client, NAMESPACE, Issuer::Gateway).await?;
        let gateway = tokio::spawn(publication.run());
        published_while_runners_keep(harness, &trusted).await?;

        delete_all(harness).await?;
        published_while_runners_keep(harness, &trusted).await?;

        // A user with the right to write ConfigMaps, and no other, adds a key.
        let planted = public_half(&new_private_key())?;
        let lines = format!("{}\n{}", planted.as_str(), key.as_str());
        let patch = Patch::Merge(json!({ "data": { "gateway": lines, "operator": planted.as_str() } }));
        harness.api::<ConfigMap>(NAMESPACE).patch(PUBLIC_KEYS, &PatchParams::default(), &patch).await?;
        published_while_runners_keep(harness, &trusted).await?;

        // An emptied Secret does not take the runners' keys away.
        for (issuer, text) in [(Issuer::Gateway, ""), (Issuer::Operator, "no key")] {
            overwrite(harness, issuer, text).await?;
        }
        published_while_runners_keep(harness, &trusted).await?;

        // Another key in its place, and a line more.
        overwrite(harness, Issuer::Gateway, planted.as_str()).await?;
        let own = trusted.0[&Issuer::Operator][0].as_str();
        overwrite(harness, Issuer::Operator, &format!("{own}\n{}", planted.as_str())).await?;
        until("the keys are restored", async || is_published(harness, &trusted).await).await?;
        until("runners trust the right keys again", async || Ok(all_trust(harness, &trusted).await?.is_ok())).await?;

        // All is gone, and no gateway runs when the next operator starts.
        gateway.abort();
        delete_all(harness).await?;
        operator.stop().await?;
        operator.daemon.start_again()?;
        operator.wait_until_leading().await?;
        until("the operator's own key is published", async || {
            all_trust(harness, &trusted).await?.context("while no gateway runs")?;
            Ok(keys_in_secret(harness, Issuer::Operator).await? == trusted.0[&Issuer::Operator])
        })
        .await?;
        claim(harness, "claim", 4).await?;
        all_trust(harness, &trusted).await?.context("while no gateway runs")?;
        let (_, publication) = keystore::signer(&harness.client, NAMESPACE, Issuer::Gateway).await?;
        let _gateway = tokio::spawn(publication.run());
        published_while_runners_keep(harness, &trusted).await?;
        assert_whole(harness).await?;
        operator_cannot_reach_the_gateways_keys(harness).await
    });
}

/// The operator has the rights of the chart, and no others.
async fn grant_what_the_chart_grants(harness: &Harness) -> Result<()> {
    let (client, params) = (&harness.client, PostParams::default());
    let everything = Api::<ClusterRoleBinding>::all(client.clone());
    everything.delete("camofleet-operator", &DeleteParams::default()).await?;
    let documents = serde_yaml::Deserializer::from_str(CHART).map(Value::deserialize);
    for document in documents.collect::<Result<Vec<_>, _>>()? {
        if document["metadata"]["name"] != "camofleet-operator" {
            continue;
        }
        match document["kind"].as_str() {
            Some("ClusterRole") => {
                Api::<ClusterRole>::all(client.clone()).create(&params, &serde_json::from_value(document)?).await?;
            }
            Some("ClusterRoleBinding") => {
                everything.create(&params, &serde_json::from_value(document)?).await?;
            }
            Some("Role") => {
                harness.api::<Role>(NAMESPACE).create(&params, &serde_json::from_value(document)?).await?;
            }
            Some("RoleBinding") => {
                harness.api::<RoleBinding>(NAMESPACE).create(&params, &serde_json::from_value(document)?).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

async fn operator_cannot_reach_the_gateways_keys(harness: &Harness) -> Result<()> {
    let secrets = Api::<Secret>::namespaced(harness.control_plane.client(User::Operator).await?, NAMESPACE);
    let named = |name: &str| ListParams::default().fields(&format!("metadata.name={name}"));
    let public = public_key_secret(Issuer::Gateway);
    ensure!(secrets.list(&named(&public)).await?.items.len() == 1, "it does not see the gateway's public key");
    let patch = Patch::Merge(json!({ "data": {} }));
    let refused = [
        ("read the private key", secrets.get("camofleet-gateway-key").await.map(drop)),
        ("list the private key", secrets.list(&named("camofleet-gateway-key")).await.map(drop)),
        ("list all Secrets", secrets.list(&ListParams::default()).await.map(drop)),
        ("change the public key", secrets.patch(&public, &PatchParams::default(), &patch).await.map(drop)),
        ("delete the public key", secrets.delete(&public, &DeleteParams::default()).await.map(drop)),
    ];
    for (what, answer) in refused {
        let is_forbidden = matches!(&answer, Err(kube::Error::Api(status)) if status.code == 403);
        ensure!(is_forbidden, "the operator may {what} of the gateway: {answer:?}");
    }
    Ok(())
}

/// Replicas before and after a change of the key run side by side.
#[test]
fn replicas_with_two_keys_do_not_undo_each_others_publication() {
    on_a_fleet("two-keys", async |harness| {
        let secrets = harness.api::<Secret>(NAMESPACE);
        let (former, of_former) = keystore::signer(&harness.client, NAMESPACE, Issuer::Gateway).await?;
        secrets.delete("camofleet-gateway-key", &DeleteParams::default()).await?;
        let (latter, of_latter) = keystore::signer(&harness.client, NAMESPACE, Issuer::Gateway).await?;
        let both = vec![latter.public_key().clone(), former.public_key().clone()];
        ensure!(keys_in_secret(harness, Issuer::Gateway).await? == both, "the former key is still in use");
        let replicas = [tokio::spawn(of_former.run()), tokio::spawn(of_latter.run())];
        let name = public_key_secret(Issuer::Gateway);
        // Either replica may restore it first; the other one then leaves it as it is.
        for _ in 0..2 {
            overwrite(harness, Issuer::Gateway, "").await?;
            let emptied = version(harness, &name).await?;
            until("it is restored", async || Ok(keys_in_secret(harness, Issuer::Gateway).await? == both)).await?;
            ensure!(version(harness, &name).await? > emptied, "it was written once");
        }
        // Each checks again before it can restore this: if they undid each other, its version would have changed more often.
        let (before, config_maps) = (version(harness, &name).await?, harness.api::<ConfigMap>(NAMESPACE));
        for _ in 0..2 {
            config_maps.delete(PUBLIC_KEYS, &DeleteParams::default()).await?;
            until("the ConfigMap is back", async || Ok(config_maps.get_opt(PUBLIC_KEYS).await?.is_some())).await?;
        }
        ensure!(version(harness, &name).await? == before, "replicas undo each other's publication");
        for replica in replicas {
            replica.abort();
        }
        Ok(())
    });
}

fn public_half(private: &[u8]) -> Result<PublicKey> {
    Ok(Signer::from_pkcs8(Issuer::Gateway, private).context("it is a key")?.public_key().clone())
}

fn secret(name: &str, data_key: &str, value: &[u8]) -> Secret {
    let mut secret = Secret::default();
    secret.metadata.name = Some(name.to_owned());
    secret.data = Some(BTreeMap::from([(data_key.to_owned(), ByteString(value.to_vec()))]));
    secret
}

async fn version(harness: &Harness, name: &str) -> Result<u64> {
    let secret = harness.api::<Secret>(NAMESPACE).get(name).await?;
    Ok(secret.resource_version().context("it has a version")?.parse()?)
}

async fn delete_all(harness: &Harness) -> Result<()> {
    for issuer in ISSUERS {
        let api = harness.api::<Secret>(NAMESPACE);
        api.delete(&public_key_secret(issuer), &DeleteParams::default()).await?;
    }
    harness.api::<ConfigMap>(NAMESPACE).delete(PUBLIC_KEYS, &DeleteParams::default()).await?;
    Ok(())
}

async fn overwrite(harness: &Harness, issuer: Issuer, keys: &str) -> Result<()> {
    let name = public_key_secret(issuer);
    let patch = Patch::Merge(secret(&name, "public-keys", keys.as_bytes()));
    harness.api::<Secret>(NAMESPACE).patch(&name, &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn keys_in_secret(harness: &Harness, issuer: Issuer) -> Result<Vec<PublicKey>> {
    let secret = harness.api::<Secret>(NAMESPACE).get_opt(&public_key_secret(issuer)).await?;
    Ok(secret.map(|secret| keys_of_secret(&secret, issuer)).unwrap_or_default())
}

/// Whether exactly these keys are published, in the Secrets and for an operator of the previous version.
async fn is_published(harness: &Harness, keys: &PublicKeys) -> Result<bool> {
    let config_map = harness.api::<ConfigMap>(NAMESPACE).get_opt(PUBLIC_KEYS).await?;
    if !config_map.is_some_and(|config_map| keystore::keys_of_config_map(&config_map) == *keys) {
        return Ok(false);
    }
    for issuer in ISSUERS {
        if keys_in_secret(harness, issuer).await? != keys.0[&issuer] {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until these keys are published everywhere; no runner is without one of them meanwhile.
async fn published_while_runners_keep(harness: &Harness, keys: &PublicKeys) -> Result<()> {
    until("the keys are published in all places", async || {
        all_trust(harness, keys).await??;
        is_published(harness, keys).await
    })
    .await
}

/// Whether all runners trust exactly these keys.
async fn all_trust(harness: &Harness, keys: &PublicKeys) -> Result<Result<()>> {
    for found in annotations(harness).await? {
        if serde_json::from_value::<PublicKeys>(found.clone())? != *keys {
            return Ok(Err(anyhow::anyhow!("a runner trusts {found}, and should {keys:?}")));
        }
    }
    Ok(Ok(()))
}

/// What the runners trust, once they have keys of both issuers.
async fn trusted(harness: &Harness) -> Result<PublicKeys> {
    until("runners trust both issuers", async || {
        let found = annotations(harness).await?;
        let complete = |keys: &Value| keys["gateway"][0].is_string() && keys["operator"][0].is_string();
        Ok(!found.is_empty() && found.iter().all(complete))
    })
    .await?;
    let found = annotations(harness).await?.into_iter().next().context("there are runners")?;
    Ok(serde_json::from_value(found)?)
}

async fn annotations(harness: &Harness) -> Result<Vec<Value>> {
    let pods = harness.api::<Pod>(FLEET).list_metadata(&ListParams::default()).await?.items;
    let text = |pod: &kube::core::PartialObjectMeta<Pod>| pod.annotations().get(ANNOTATION).cloned();
    pods.iter().map(|pod| Ok(serde_json::from_str(&text(pod).context("a runner has keys")?)?)).collect()
}
