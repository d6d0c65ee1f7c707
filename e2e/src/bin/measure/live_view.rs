//! Compares the resource usage of a live view with the usual stack: Node with a Playwright server, Xvfb, x11vnc and
//! websockify.
//!
//! - `relay_cpu`: CPU time in milliseconds for relaying one full picture of a display (1280 x 720, raw, 3.7 MB),
//!   alternately by
//!   gateway and runner, and by websockify at the same display's socket. websockify runs in a gateway's network namespace, because
//!   the kernel charges the processing of packets on their way to the viewer to the sender.
//! - `memory`: of a headful session with a client and a viewer, without the browser's processes (PSS, in MiB).
//!
//! Needs `apt-get install xvfb x11vnc websockify`.

use crate::report::report;
use anyhow::{Context, Result};
use camofleet_e2e::{
    Session, TestNamespace,
    clients::{FIREFOX, NodeClient},
    host::{self, Process, processes_of},
    rest::issue_session_token,
    rfb,
    wait::poll,
};
use camofleet_testkit::rfb::RfbClient;
use kube::ResourceExt;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{
        client::IntoClientRequest,
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
    },
};

const ROUNDS: usize = 10;
const PICTURES: u32 = 30;
/// The X display of the usual stack.
const DISPLAY: &str = ":97";

pub async fn measure(ns: TestNamespace) -> Result<()> {
    ns.pool("pool", json!({ "sessionDefaults": { "display": "LiveView" } })).await?;
    let session = ns.ready_session(json!({})).await?;
    relay_cpu(&ns, &session).await?;
    memory(&ns, &session).await
}

async fn relay_cpu(ns: &TestNamespace, session: &Session) -> Result<()> {
    let pod = session.runner().await?.uid;
    let runner = host::find_process(&pod, "the runner", |process| process.runs("camofleet-runner"))?;
    let mut gateways = Vec::new();
    let pods = ns.fleet.running_pods("gateway").await?;
    for gateway in &pods {
        let pod = gateway.uid().context("the pod has no UID")?;
        gateways.push(host::find_process(&pod, "the gateway", |process| process.runs("camofleet-gateway"))?);
    }
    let (gateway, gateway_pod) = gateways.first().zip(pods.first()).context("no gateway is running")?;
    let address = gateway_pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.as_ref())
        .context("the gateway has no IP address")?;
    let display = host::find_process(&pod, "the display", |process| process.runs("Xvnc"))?;
    let socket = display.command.iter().skip_while(|word| *word != "-rfbunixpath").nth(1).context("no RFB socket")?;
    let at = format!("{address}:{}", free_port()?);
    let socket = display.path(socket);
    let websockify = Program::start(
        Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", gateway.pid))
            .args(["websockify", &at])
            .arg(format!("--unix-target={}", socket.display())),
    )?;

    let view = issue_session_token(ns, &session.name, &json!({ "scope": "view" })).await?;
    let (mut ours, _) = rfb::connect_viewer(ns, session, &view).await?;
    let mut theirs = poll("websockify to listen", async || at_websockify(&at).await).await?;
    let (mut gateway_ms, mut runner_ms, mut websockify_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = (cpu_ms(&gateways)?, cpu_ms(std::slice::from_ref(&runner))?);
        for _ in 0..PICTURES {
            ours.picture().await?;
        }
        gateway_ms.push((cpu_ms(&gateways)? - before.0) / f64::from(PICTURES));
        runner_ms.push((cpu_ms(std::slice::from_ref(&runner))? - before.1) / f64::from(PICTURES));
        let before = cpu_ms(&websockify.processes()?)?;
        for _ in 0..PICTURES {
            theirs.picture().await?;
        }
        websockify_ms.push((cpu_ms(&websockify.processes()?)? - before) / f64::from(PICTURES));
    }
    report("CPU ms per picture", vec![("gateway", gateway_ms), ("runner", runner_ms), ("websockify", websockify_ms)]);
    Ok(())
}

async fn memory(ns: &TestNamespace, session: &Session) -> Result<()> {
    let _client = NodeClient::connect(ns, session).await?;
    let view = issue_session_token(ns, &session.name, &json!({ "scope": "view" })).await?;
    let (mut viewer, _) = rfb::connect_viewer(ns, session, &view).await?;
    viewer.picture().await?;
    let ours = memory_mib(&processes_of(&session.runner().await?.uid))?;

    let (vnc, web) = (free_port()?, format!("127.0.0.1:{}", free_port()?));
    let xvfb = Program::start(Command::new("Xvfb").args([DISPLAY, "-screen", "0", "1280x720x24", "-nolisten", "tcp"]))?;
    poll("Xvfb to listen", async || Ok(fs::metadata("/tmp/.X11-unix/X97")?)).await?;
    // These do not connect to the session; they only provide Node processes with Playwright.
    let (mut server, mut client) = (NodeClient::start(ns, session).await?, NodeClient::start(ns, session).await?);
    let launch = format!(
        "globalThis.plain = await playwright.firefox.launchServer({{ channel: 'moz-firefox', executablePath: {FIREFOX:?},
           headless: false, env: {{ ...process.env, DISPLAY: '{DISPLAY}' }} }});
         return plain.wsEndpoint()"
    );
    let endpoint = server.run(&launch).await?;
    client
        .run(&format!("globalThis.browser = await playwright.firefox.connect({endpoint}); await browser.newPage()"))
        .await?;
    let x11vnc = Program::start(Command::new("x11vnc").args([
        "-display",
        DISPLAY,
        "-rfbport",
        &vnc.to_string(),
        "-localhost",
        "-nopw",
        "-forever",
        "-shared",
        "-quiet",
    ]))?;
    let websockify = Program::start(Command::new("websockify").args([&web, &format!("127.0.0.1:{vnc}")]))?;
    let mut viewer = poll("websockify to listen", async || at_websockify(&web).await).await?;
    viewer.picture().await?;
    let mut theirs = vec![server.process()?];
    for part in [&xvfb, &x11vnc, &websockify] {
        theirs.extend(part.processes()?);
    }
    let theirs = memory_mib(&theirs)?;
    client.run("await browser.close()").await?;
    server.run("await plain.close()").await?;
    report_memory("camofleet", &ours);
    report_memory("usual stack", &theirs);
    println!(
        "{}",
        json!({ "camofleet_mib": total(&ours), "usual_stack_mib": total(&theirs), "ratio": total(&ours) / total(&theirs) })
    );
    Ok(())
}

fn report_memory(what: &str, parts: &BTreeMap<String, f64>) {
    let listed: Vec<_> = parts.iter().map(|(name, mib)| format!("{name} {mib:.1}")).collect();
    println!("{what:<20} {:>10.1} MiB: {}", total(parts), listed.join(", "));
}

fn total(parts: &BTreeMap<String, f64>) -> f64 {
    parts.values().sum()
}

/// The memory (PSS) of each program in MiB, without the browser's.
fn memory_mib(processes: &[Process]) -> Result<BTreeMap<String, f64>> {
    let mut parts = BTreeMap::new();
    for process in processes {
        let name = fs::read_to_string(format!("/proc/{}/comm", process.pid))?.trim().to_owned();
        if process.command.first().is_some_and(|program| program.contains("firefox")) {
            continue;
        }
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid))?;
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("smaps_rollup has no Pss")?;
        let kib: f64 = pss.trim().trim_end_matches(" kB").parse()?;
        *parts.entry(name).or_default() += kib / 1024.0;
    }
    Ok(parts)
}

/// The CPU time of processes and of their children that have been waited for, in milliseconds (proc(5)).
fn cpu_ms(processes: &[Process]) -> Result<f64> {
    const MS_PER_TICK: f64 = 10.0;
    let mut ticks = 0.0;
    for process in processes {
        for field in &stat(process.pid)?[11..15] {
            ticks += field.parse::<f64>()?;
        }
    }
    Ok(ticks * MS_PER_TICK)
}

/// The fields of /proc/PID/stat from the third, the state. The second is a name that can contain spaces.
fn stat(pid: i32) -> Result<Vec<String>> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = line.rsplit_once(") ").context("/proc/PID/stat has no name")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

async fn at_websockify(address: &str) -> Result<RfbClient<impl AsyncRead + AsyncWrite + Unpin>> {
    let mut request = format!("ws://{address}/").into_client_request()?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("binary"));
    rfb::viewer_over(connect_async(request).await?.0).await
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A program of the usual stack in a process group of its own, which is killed on drop.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_owned();
        let child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {}: is it installed?", name.display()))?))
    }

    fn processes(&self) -> Result<Vec<Process>> {
        let group = self.0.id().to_string();
        let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // The third field is the process group.
        let group_pids = pids.filter(|pid| stat(*pid).is_ok_and(|fields| fields[2] == group));
        Ok(group_pids.map(|pid| Process { pid, command: Vec::new() }).collect())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.0.id()) {
            killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
        }
        self.0.wait().ok();
    }
}
