//! Operations on pools, which the REST API calls workers.

use crate::{
    auth::extract::{MayRead, Namespace},
    error::Problem,
    rest::{
        compat,
        documents::{FleetHealth, Health, Namespaces, Worker},
    },
    state::Gateway,
};
use axum::{Json, extract::State};
use std::sync::Arc;

/// Lists all pools.
#[utoipa::path(
    get, path = "/workers", tag = "workers", operation_id = "workers",
    responses(
        (status = 200, body = [Worker], description = "Sorted by name"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem),
    )
)]
pub async fn list(
    MayRead { target: Namespace(namespace), .. }: MayRead<Namespace>,
    State(gateway): State<Arc<Gateway>>,
) -> Json<Vec<Worker>> {
    Json(documents_in(&gateway, &namespace))
}

/// Returns the health of the pools.
#[utoipa::path(
    get, path = "/health", tag = "workers",
    responses(
        (status = 200, body = FleetHealth, description = "Health of the pools, including `degraded`"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem),
    )
)]
pub async fn health(
    MayRead { target: Namespace(namespace), .. }: MayRead<Namespace>,
    State(gateway): State<Arc<Gateway>>,
) -> Json<FleetHealth> {
    let workers = documents_in(&gateway, &namespace);
    let all_healthy = !workers.is_empty() && workers.iter().all(|worker| worker.healthy);
    let status = if all_healthy { Health::Ok } else { Health::Degraded };
    Json(FleetHealth { status, workers })
}

/// Lists the namespaces that have sessions or pools.
#[utoipa::path(
    get, path = "/namespaces", tag = "workers",
    responses(
        (status = 200, body = Namespaces),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem),
    )
)]
pub async fn namespaces(_: MayRead<Namespace>, State(gateway): State<Arc<Gateway>>) -> Json<Namespaces> {
    let own = gateway.namespace.clone();
    let mut namespaces = gateway.pools.namespaces();
    namespaces.extend(gateway.sessions.namespaces());
    namespaces.insert(own.clone());
    Json(Namespaces { own, namespaces })
}

/// The documents of all pools of a namespace, sorted by name.
pub(super) fn documents_in(gateway: &Gateway, namespace: &str) -> Vec<Worker> {
    gateway.pools.in_namespace(namespace).iter().map(|pool| compat::worker(pool)).collect()
}
