//! Deletion and alteration of the published public keys while the operator runs.

use crate::fixture::{FLEET, POOL, assert_invariants, claim, start_leader, wait_until, with_fleet};
use anyhow::{Context, Result, ensure};
use camofleet_auth::{
    keystore::{self, PUBLIC_KEYS_CONFIG_MAP, keys_of_secret, public_keys_secret},
    token::{Issuer, PublicKey, PublicKeys, Signer, new_private_key},
};
use camofleet_bench::{
    control_plane::User,
    harness::{Harness, pool_of_reused_runners},
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
/// The chart with default values.
const CHART: &str = include_str!("../../../charts/install.yaml");
const ISSUERS: [Issuer; 2] = [Issuer::Operator, Issuer::Gateway];

/// Only the gateway's keystore runs, in the same way as in the gateway's process.
#[test]
fn deleted_or_altered_public_keys_are_restored_and_runners_keep_theirs() {
    with_fleet("keys", async |harness| {
        grant_chart_permissions(harness).await?;
        // A gateway of the previous version publishes only in the ConfigMap.
        let private = new_private_key();
        let key = public_half(&private)?;
        let secrets = harness.api::<Secret>(NAMESPACE);
        secrets.create(&PostParams::default(), &secret("camofleet-gateway-key", "private-key", &private)).await?;
        let config_map = json!({ "metadata": { "name": PUBLIC_KEYS_CONFIG_MAP }, "data": { "gateway": key.as_str() } });
        harness
            .api::<ConfigMap>(NAMESPACE)
            .create(&PostParams::default(), &serde_json::from_value(config_map)?)
            .await?;
        let mut operator = start_leader(harness, "a").await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(2, 4)).await?;
        let trusted = trusted(harness).await?;
        let of_gateway = vec![key.clone()];
        ensure!(trusted.0[&Issuer::Gateway] == of_gateway && trusted.0[&Issuer::Operator].len() == 1, "{trusted:?}");
        // A gateway of the current version starts with the same key.
        let (_, publication) = keystore::signer(&harness.client, NAMESPACE, Issuer::Gateway).await?;
        let gateway = tokio::spawn(publication.run());
        assert_published_and_trusted(harness, &trusted).await?;

        delete_all(harness).await?;
        assert_published_and_trusted(harness, &trusted).await?;

        // A user who may only write ConfigMaps adds a key.
        let planted = public_half(&new_private_key())?;
        let lines = format!("{}\n{}", planted.as_str(), key.as_str());
        let patch = Patch::Merge(json!({ "data": { "gateway": lines, "operator": planted.as_str() } }));
        harness.api::<ConfigMap>(NAMESPACE).patch(PUBLIC_KEYS_CONFIG_MAP, &PatchParams::default(), &patch).await?;
        assert_published_and_trusted(harness, &trusted).await?;

        // Runners keep their keys when a Secret is emptied.
        for (issuer, text) in [(Issuer::Gateway, ""), (Issuer::Operator, "no key")] {
            overwrite(harness, issuer, text).await?;
        }
        assert_published_and_trusted(harness, &trusted).await?;

        // A different key for the gateway, and an additional one for the operator.
        overwrite(harness, Issuer::Gateway, planted.as_str()).await?;
        let own = trusted.0[&Issuer::Operator][0].as_str();
        overwrite(harness, Issuer::Operator, &format!("{own}\n{}", planted.as_str())).await?;
        wait_until("the keys are restored", async || is_published(harness, &trusted).await).await?;
        wait_until("runners trust the right keys again", async || Ok(check_trusted(harness, &trusted).await?.is_ok()))
            .await?;

        // All keys are deleted, and no gateway runs when the next operator starts.
        gateway.abort();
        delete_all(harness).await?;
        operator.stop().await?;
        operator.daemon.start_again()?;
        operator.wait_until_leading().await?;
        wait_until("the operator's own key is published", async || {
            check_trusted(harness, &trusted).await?.context("while no gateway runs")?;
            Ok(keys_in_secret(harness, Issuer::Operator).await? == trusted.0[&Issuer::Operator])
        })
        .await?;
        claim(harness, "claim", 4).await?;
        check_trusted(harness, &trusted).await?.context("while no gateway runs")?;
        let (_, publication) = keystore::signer(&harness.client, NAMESPACE, Issuer::Gateway).await?;
        let _gateway = tokio::spawn(publication.run());
        assert_published_and_trusted(harness, &trusted).await?;
        assert_invariants(harness).await?;
        operator_cannot_reach_the_gateways_keys(harness).await
    });
}

/// Replaces the operator's permissions by those of the chart.
async fn grant_chart_permissions(harness: &Harness) -> Result<()> {
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
    let public = public_keys_secret(Issuer::Gateway);
    ensure!(secrets.list(&named(&public)).await?.items.len() == 1, "the operator cannot list the gateway's public key");
    let patch = Patch::Merge(json!({ "data": {} }));
    let rejected = [
        ("read the private key", secrets.get("camofleet-gateway-key").await.map(drop)),
        ("list the private key", secrets.list(&named("camofleet-gateway-key")).await.map(drop)),
        ("list all Secrets", secrets.list(&ListParams::default()).await.map(drop)),
        ("change the public key", secrets.patch(&public, &PatchParams::default(), &patch).await.map(drop)),
        ("delete the public key", secrets.delete(&public, &DeleteParams::default()).await.map(drop)),
    ];
    for (what, answer) in rejected {
        let is_forbidden = matches!(&answer, Err(kube::Error::Api(status)) if status.code == 403);
        ensure!(is_forbidden, "the operator can {what} of the gateway: {answer:?}");
    }
    Ok(())
}

/// Replicas with the former and the new key run side by side during a key change.
#[test]
fn replicas_with_different_keys_do_not_overwrite_each_others_publication() {
    with_fleet("two-keys", async |harness| {
        let secrets = harness.api::<Secret>(NAMESPACE);
        let (former, of_former) = keystore::signer(&harness.client, NAMESPACE, Issuer::Gateway).await?;
        secrets.delete("camofleet-gateway-key", &DeleteParams::default()).await?;
        let (latter, of_latter) = keystore::signer(&harness.client, NAMESPACE, Issuer::Gateway).await?;
        let both = vec![latter.public_key().clone(), former.public_key().clone()];
        ensure!(
            keys_in_secret(harness, Issuer::Gateway).await? == both,
            "the former key is no longer published although it is still in use"
        );
        let replicas = [tokio::spawn(of_former.run()), tokio::spawn(of_latter.run())];
        let name = public_keys_secret(Issuer::Gateway);
        // Either replica may restore the keys first. The other one then changes nothing.
        for _ in 0..2 {
            overwrite(harness, Issuer::Gateway, "").await?;
            let emptied = version(harness, &name).await?;
            wait_until("the keys are restored", async || Ok(keys_in_secret(harness, Issuer::Gateway).await? == both))
                .await?;
            ensure!(version(harness, &name).await? > emptied, "the Secret was not written");
        }
        // Each replica checks the Secret before it restores the ConfigMap. A replica that overwrote the other's keys
        // would change the version of the Secret.
        let (before, config_maps) = (version(harness, &name).await?, harness.api::<ConfigMap>(NAMESPACE));
        for _ in 0..2 {
            config_maps.delete(PUBLIC_KEYS_CONFIG_MAP, &DeleteParams::default()).await?;
            wait_until("the ConfigMap is back", async || {
                Ok(config_maps.get_opt(PUBLIC_KEYS_CONFIG_MAP).await?.is_some())
            })
            .await?;
        }
        ensure!(version(harness, &name).await? == before, "replicas overwrite each other's publication");
        for replica in replicas {
            replica.abort();
        }
        Ok(())
    });
}

fn public_half(private: &[u8]) -> Result<PublicKey> {
    Ok(Signer::from_pkcs8(Issuer::Gateway, private).context("the key is invalid")?.public_key().clone())
}

fn secret(name: &str, data_key: &str, value: &[u8]) -> Secret {
    let mut secret = Secret::default();
    secret.metadata.name = Some(name.to_owned());
    secret.data = Some(BTreeMap::from([(data_key.to_owned(), ByteString(value.to_vec()))]));
    secret
}

async fn version(harness: &Harness, name: &str) -> Result<u64> {
    let secret = harness.api::<Secret>(NAMESPACE).get(name).await?;
    Ok(secret.resource_version().context("the Secret has no resource version")?.parse()?)
}

async fn delete_all(harness: &Harness) -> Result<()> {
    for issuer in ISSUERS {
        let api = harness.api::<Secret>(NAMESPACE);
        api.delete(&public_keys_secret(issuer), &DeleteParams::default()).await?;
    }
    harness.api::<ConfigMap>(NAMESPACE).delete(PUBLIC_KEYS_CONFIG_MAP, &DeleteParams::default()).await?;
    Ok(())
}

async fn overwrite(harness: &Harness, issuer: Issuer, keys: &str) -> Result<()> {
    let name = public_keys_secret(issuer);
    let patch = Patch::Merge(secret(&name, "public-keys", keys.as_bytes()));
    harness.api::<Secret>(NAMESPACE).patch(&name, &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn keys_in_secret(harness: &Harness, issuer: Issuer) -> Result<Vec<PublicKey>> {
    let secret = harness.api::<Secret>(NAMESPACE).get_opt(&public_keys_secret(issuer)).await?;
    Ok(secret.map(|secret| keys_of_secret(&secret, issuer)).unwrap_or_default())
}

/// Whether exactly these keys are published in the Secrets, and in the ConfigMap that operators of the previous version
/// read.
async fn is_published(harness: &Harness, keys: &PublicKeys) -> Result<bool> {
    let config_map = harness.api::<ConfigMap>(NAMESPACE).get_opt(PUBLIC_KEYS_CONFIG_MAP).await?;
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

/// Waits until these keys are published everywhere, and asserts that every runner trusts them throughout.
async fn assert_published_and_trusted(harness: &Harness, keys: &PublicKeys) -> Result<()> {
    wait_until("the keys are published in all places", async || {
        check_trusted(harness, keys).await??;
        is_published(harness, keys).await
    })
    .await
}

/// The inner error names a runner that does not trust exactly these keys.
async fn check_trusted(harness: &Harness, keys: &PublicKeys) -> Result<Result<()>> {
    for found in annotations(harness).await? {
        if serde_json::from_value::<PublicKeys>(found.clone())? != *keys {
            return Ok(Err(anyhow::anyhow!("a runner trusts {found} instead of {keys:?}")));
        }
    }
    Ok(Ok(()))
}

/// Waits until the runners trust keys of both issuers, and returns those keys.
async fn trusted(harness: &Harness) -> Result<PublicKeys> {
    wait_until("runners trust both issuers", async || {
        let found = annotations(harness).await?;
        let complete = |keys: &Value| keys["gateway"][0].is_string() && keys["operator"][0].is_string();
        Ok(!found.is_empty() && found.iter().all(complete))
    })
    .await?;
    let found = annotations(harness).await?.into_iter().next().context("there are no runners")?;
    Ok(serde_json::from_value(found)?)
}

async fn annotations(harness: &Harness) -> Result<Vec<Value>> {
    let pods = harness.api::<Pod>(FLEET).list_metadata(&ListParams::default()).await?.items;
    let text = |pod: &kube::core::PartialObjectMeta<Pod>| pod.annotations().get(ANNOTATION).cloned();
    pods.iter().map(|pod| Ok(serde_json::from_str(&text(pod).context("a runner has no keys")?)?)).collect()
}
