//! A `BrowserSession` that a test created, and the waits for its states.

use crate::wait::{wait_for, wait_for_object};
use anyhow::{Context, Result, anyhow, ensure};
use camofleet_crds::{
    conditions::{self, FINISHED},
    v1alpha1::{BrowserSession, RunnerRef, SessionState},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

/// A session that a test created.
#[derive(Clone)]
pub struct Session {
    api: Api<BrowserSession>,
    /// The object's name.
    pub name: String,
    /// The object's UID.
    pub uid: String,
}

impl Session {
    pub(crate) fn new(api: Api<BrowserSession>, name: String, uid: String) -> Self {
        Self { api, name, uid }
    }

    /// Reads the object.
    pub async fn object(&self) -> Result<BrowserSession> {
        Ok(self.api.get(&self.name).await?)
    }

    /// Waits until the session is Ready.
    ///
    /// # Errors
    /// If it is not Ready within [`DEADLINE`](crate::wait::DEADLINE), or finishes before it is.
    pub async fn wait_until_ready(&self) -> Result<BrowserSession> {
        let decided =
            |session: &BrowserSession| matches!(session.state(), SessionState::Ready | SessionState::Finished);
        let session = wait_for_object(&self.api, &self.name, "to be Ready", decided).await?;
        ensure!(
            session.state() == SessionState::Ready,
            "session {} is Finished: {:?}",
            self.name,
            finished_condition(&session)
        );
        Ok(session)
    }

    /// Waits until the session is Finished, and returns it with its `Finished` condition.
    pub async fn wait_until_finished(&self) -> Result<(BrowserSession, Condition)> {
        let is_finished = |session: &BrowserSession| session.state() == SessionState::Finished;
        let session = wait_for_object(&self.api, &self.name, "to be Finished", is_finished).await?;
        let condition = finished_condition(&session)
            .ok_or_else(|| anyhow!("the session is Finished without a Finished condition"))?;
        Ok((session, condition))
    }

    /// Waits until the session fulfils a condition, which `what` names.
    pub async fn wait_for(
        &self,
        what: &str,
        holds: impl Fn(&BrowserSession) -> bool + Send + Sync,
    ) -> Result<BrowserSession> {
        wait_for_object(&self.api, &self.name, what, holds).await
    }

    /// Waits until the object is deleted.
    pub async fn wait_until_gone(&self) -> Result<()> {
        let uid = self.uid.clone();
        let gone =
            move |session: Option<&BrowserSession>| session.is_none_or(|session| session.uid().as_ref() != Some(&uid));
        wait_for(&self.api, &self.name, "to be deleted", gone).await.map(|_| ())
    }

    /// Merges `spec` into the session's spec.
    pub async fn patch_spec(&self, spec: Value) -> Result<BrowserSession> {
        Ok(self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await?)
    }

    /// Deletes the object, without waiting until the session has ended.
    pub async fn delete(&self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// The runner that serves the session.
    ///
    /// # Errors
    /// If the status names no runner.
    pub async fn runner(&self) -> Result<RunnerRef> {
        let status = self.object().await?.status.unwrap_or_default();
        status.runner.with_context(|| format!("session {} has no runner", self.name))
    }

    /// The URL that clients connect to.
    ///
    /// # Errors
    /// If the status has no `wsEndpoint`.
    pub async fn ws_endpoint(&self) -> Result<String> {
        let status = self.object().await?.status.unwrap_or_default();
        status.ws_endpoint.with_context(|| format!("session {} has no wsEndpoint", self.name))
    }
}

fn finished_condition(session: &BrowserSession) -> Option<Condition> {
    conditions::get(&session.status.as_ref()?.conditions, FINISHED).cloned()
}
