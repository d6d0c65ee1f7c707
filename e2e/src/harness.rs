//! Runs each test in a namespace of its own, and keeps tests that disrupt shared components apart with file locks,
//! because the tests of several processes may use one cluster at the same time.

use crate::{Fleet, TestNamespace, namespace::remove_leftovers};
use anyhow::Result;
use std::{
    env,
    fs::File,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Once,
};
use tokio::runtime::Runtime;

/// Runs a test in a namespace of its own, possibly in parallel with others. Prints the state of the fleet if the test
/// fails. Always empties the namespace, and fails if a pod or process of it remains.
pub fn test<Body: Future<Output = Result<()>>>(name: &str, body: impl FnOnce(TestNamespace) -> Body) {
    run(name, || [lock_shared(OPERATOR), lock_shared(GATEWAY)], body);
}

/// Like [`test`], without any other test in parallel: for tests that change or count shared state.
pub fn test_alone<Body: Future<Output = Result<()>>>(name: &str, body: impl FnOnce(TestNamespace) -> Body) {
    run(name, || [lock_exclusive(OPERATOR), lock_exclusive(GATEWAY)], body);
}

/// Like [`test`], for a test that disrupts the operator and tolerates a disrupted gateway.
pub fn test_disrupting_operator<Body: Future<Output = Result<()>>>(
    name: &str,
    body: impl FnOnce(TestNamespace) -> Body,
) {
    run(name, || lock_exclusive(OPERATOR), body);
}

/// Like [`test`], for a test that disrupts the gateways and tolerates a disrupted operator.
pub fn test_disrupting_gateways<Body: Future<Output = Result<()>>>(
    name: &str,
    body: impl FnOnce(TestNamespace) -> Body,
) {
    run(name, || lock_exclusive(GATEWAY), body);
}

/// Lock files of the shared components. Tests take them in this order, so that they cannot deadlock.
const OPERATOR: &str = "camofleet-e2e-operator.lock";
const GATEWAY: &str = "camofleet-e2e-gateway.lock";

fn lock(name: &str, acquire: impl FnOnce(&File) -> std::io::Result<()>) -> File {
    let file = File::create(env::temp_dir().join(name)).expect("the temporary directory is writable");
    acquire(&file).expect("lock files can be locked");
    file
}

fn lock_shared(component: &str) -> File {
    lock(component, File::lock_shared)
}

fn lock_exclusive(component: &str) -> File {
    lock(component, File::lock)
}

/// Removes the namespaces of interrupted runs before the first test, while no other test runs.
fn remove_leftovers_once() {
    static REMOVED: Once = Once::new();
    REMOVED.call_once(|| {
        let _locks = [lock_exclusive(OPERATOR), lock_exclusive(GATEWAY)];
        let removal = async { remove_leftovers(&Fleet::find().await?).await };
        runtime().block_on(removal).unwrap_or_else(|error| panic!("{error:#}"));
    });
}

fn runtime() -> Runtime {
    Runtime::new().expect("the runtime's threads can be started")
}

/// Runs a test while holding the locks that `acquire` returns.
fn run<Locks, Body>(name: &str, acquire: impl FnOnce() -> Locks, body: impl FnOnce(TestNamespace) -> Body)
where
    Body: Future<Output = Result<()>>,
{
    remove_leftovers_once();
    let _locks = acquire();
    let runtime = runtime();
    let ns = runtime.block_on(TestNamespace::create(name)).unwrap_or_else(|error| panic!("{error:#}"));
    let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(body(ns.clone()))));
    let failed = !matches!(result, Ok(Ok(())));
    if failed {
        runtime.block_on(ns.dump_state());
    }
    let cleaned = runtime.block_on(ns.clean_up(failed));
    match result {
        Err(panic) => resume_unwind(panic),
        Ok(result) => result.and(cleaned).unwrap_or_else(|error| panic!("{error:#}")),
    }
}

/// Rounds of a failure test: `$CAMOFLEET_E2E_ROUNDS`, or 1 without it.
pub fn rounds() -> usize {
    env::var("CAMOFLEET_E2E_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}
