//! Checks that a runner keeps nothing of a deleted session. The harness checks after every test that nothing of its
//! pods remains.

use anyhow::{Context, Result, ensure};
use camofleet_e2e::{
    TestNamespace,
    clients::NodeClient,
    host::{self, Process, is_browser},
    rounds,
    site::Site,
    test,
    wait::poll,
};
use kube::ResourceExt;
use nix::sys::signal::Signal;
use serde_json::json;
use std::{collections::BTreeMap, fs, path::Path};

/// Counts of processes by program, files in writable folders, and Unix sockets in a runner's pod. Digits are removed
/// from names, because numbers in them differ between browsers.
#[derive(Debug, PartialEq, Eq)]
struct Inventory {
    programs: BTreeMap<String, usize>,
    files: BTreeMap<String, usize>,
    sockets: BTreeMap<String, usize>,
}

impl Inventory {
    fn of(pod_uid: &str) -> Result<Self> {
        let processes = host::processes_of(pod_uid);
        let runner = processes
            .iter()
            .find(|process| process.runs("camofleet-runner"))
            .context("the pod has no runner process")?;
        let mut files = BTreeMap::new();
        for folder in ["/run/camofleet", "/tmp"] {
            count_files(runner, folder, &mut files)?;
        }
        let sockets = fs::read_to_string(format!("/proc/{}/net/unix", runner.pid))?;
        let sockets =
            sockets.lines().filter_map(|line| line.split_whitespace().nth(7)).filter(|path| !path.starts_with("/dev"));
        let permanent = processes.iter().filter(|process| !host::is_browser_child(process));
        Ok(Self {
            programs: counted(permanent.filter_map(|process| process.command.first()).map(String::as_str)),
            files,
            sockets: counted(sockets),
        })
    }
}

/// Counts files two levels deep, which excludes the contents of browser profiles.
fn count_files(process: &Process, folder: &str, files: &mut BTreeMap<String, usize>) -> Result<()> {
    let entries = |folder: &Path| -> Result<Vec<_>> { Ok(fs::read_dir(folder)?.flatten().collect()) };
    for entry in entries(&process.path(folder))? {
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        *files.entry(unnumbered(&path)).or_default() += 1;
        if entry.file_type()?.is_dir() {
            for inner in entries(&entry.path())? {
                *files.entry(unnumbered(&format!("{path}/{}", inner.file_name().to_string_lossy()))).or_default() += 1;
            }
        }
    }
    Ok(())
}

fn counted<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(unnumbered(name)).or_default() += 1;
    }
    counts
}

fn unnumbered(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

#[test]
fn a_runner_keeps_nothing_of_a_deleted_session() {
    test("cleanup", async |ns: TestNamespace| {
        let site = Site::start(&ns.fleet).await?;
        ns.pool("pool", json!({ "sessionsPerRunner": 0, "sessionDefaults": { "display": "LiveView" } })).await?;
        let runner = ns.runners().await?.remove(0).uid().context("the pod has no UID")?;
        let before = Inventory::of(&runner)?;
        for round in 0..rounds() {
            for crash in [false, true] {
                let session = ns.ready_session(json!({})).await?;
                ensure!(session.runner().await?.uid == runner, "the session is on another runner");
                let mut client = NodeClient::connect_with_site(&ns, &session, &site.url).await?;
                client
                    .run(
                        "await page.goto(`${site}/form`);
                         await Promise.all([page.waitForEvent('download'), page.click('#download')]);
                         for (let n = 0; n < 2; n++) await (await (await browser.newContext()).newPage()).goto(`${site}/form`)",
                    )
                    .await?;
                if crash {
                    host::find_process(&runner, "the browser", is_browser)?.signal(Signal::SIGKILL)?;
                    session.wait_until_finished().await?;
                }
                session.delete().await?;
                session.wait_until_gone().await?;
                ns.warm_pool("pool").await?;
                poll("the runner to return to its initial state", async || {
                    let now = Inventory::of(&runner)?;
                    ensure!(now == before, "round {round}, crash: {crash}: expected {before:#?}, found {now:#?}");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    });
}
