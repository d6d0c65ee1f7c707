//! Runs one stack: its directory, its display if it is headful, and the launcher with its browser. A task starts them
//! in that order, forwards commands and events, and tears all of them down at the end, whatever its cause.

use crate::{
    config::{BrowserSettings, Screen},
    core::{DisplayKind, Event, StackId},
    supervisor::{
        display,
        lines::Lines,
        process::{Process, StackMarker, describe_exit, remove_directory, with_output},
    },
};
use camofleet_crds::v1alpha1::{Engine, StartUrlWait};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
    convert::Infallible,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Name prefix of the stacks' directories. Only directories with this prefix are removed at startup.
const DIRECTORY_PREFIX: &str = "stack-";
/// Name of the Playwright server's socket in the stack's directory.
const PLAYWRIGHT_SOCKET: &str = "pw.sock";
/// How long the launcher can take to kill its browser and send Close frames to its clients.
const LAUNCHER_STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long Xvnc can take to clean up.
const DISPLAY_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait for the exit of the display after the browser has exited. A display that crashes takes its
/// browser down, and the browser's exit may be reported first.
const DISPLAY_EXIT_TIMEOUT: Duration = Duration::from_millis(300);
/// Limit of an event of the launcher, in bytes. The launcher keeps the messages in its events shorter.
const MAX_EVENT_BYTES: usize = 64 << 10;
/// The smallest young generation saves a third of Node's memory. The heap limit leaves room for messages of up to 256
/// MiB.
const NODE_FLAGS: [&str; 2] = ["--max-semi-space-size=1", "--max-old-space-size=1024"];

/// The endpoints for the clients of a stack.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    pub(crate) playwright: PathBuf,
    /// The secret path that the Playwright server accepts connections on.
    pub(crate) ws_path: String,
    pub(crate) vnc: PathBuf,
    /// Cancelled once the stack has been torn down.
    pub(crate) closed: CancellationToken,
}

/// A command to a running stack, in the launcher's JSON format.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "command", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Command {
    /// Prepare for the clients of a session. `grace_ms`: how long the contexts of a lost client are kept.
    Bind { grace_ms: u64 },
    /// Open a page.
    Open { url: String, wait_until: &'static str },
    /// Check that the browser responds.
    Ping,
}

impl Command {
    /// Returns the command that prepares for the clients of a session.
    pub(crate) fn bind(reconnect_grace: Duration) -> Self {
        Self::Bind { grace_ms: u64::try_from(reconnect_grace.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Returns the command that opens a page, or `None` if `wait` says not to open it.
    pub(crate) fn open(url: String, wait: StartUrlWait) -> Option<Self> {
        let wait_until = match wait {
            StartUrlWait::None => return None,
            StartUrlWait::DomContentLoaded => "domcontentloaded",
            StartUrlWait::Load => "load",
        };
        Some(Self::Open { url, wait_until })
    }
}

/// The driver's handle to a stack.
pub(crate) struct Stack {
    pub(crate) endpoints: Endpoints,
    /// Ids of the single-use tokens that have been used. A stack serves one session, so they can be dropped with it.
    pub(crate) used_tokens: HashSet<String>,
    commands: UnboundedSender<Command>,
    stop: CancellationToken,
    marker: StackMarker,
    browser: Arc<OnceLock<i32>>,
}

impl Stack {
    /// Launches a browser. Sends `Launched` or `Failed`, then further events, and finally `Removed`.
    pub(crate) fn launch(
        id: StackId,
        kind: DisplayKind,
        boot_id: &str,
        settings: &Arc<BrowserSettings>,
        events: UnboundedSender<Event>,
    ) -> Self {
        let dir = settings.state_dir.join(format!("{DIRECTORY_PREFIX}{}", id.number()));
        let endpoints = Endpoints {
            playwright: dir.join(PLAYWRIGHT_SOCKET),
            ws_path: format!("/{}", uuid::Uuid::new_v4().simple()),
            vnc: dir.join(display::VNC_SOCKET),
            closed: CancellationToken::new(),
        };
        let (commands, inbox) = unbounded_channel();
        let stop = CancellationToken::new();
        let marker = StackMarker(format!("{boot_id}.{}", id.number()));
        let browser = Arc::new(OnceLock::new());
        let task = Task {
            id,
            kind,
            dir,
            marker: marker.clone(),
            browser: browser.clone(),
            settings: settings.clone(),
            endpoints: endpoints.clone(),
            events,
            resources: Resources::default(),
        };
        tokio::spawn(task.run(inbox, stop.clone()));
        Self { endpoints, used_tokens: HashSet::new(), commands, stop, marker, browser }
    }

    /// Sends a command. A stack that is stopping ignores it.
    pub(crate) fn send(&self, command: Command) {
        self.commands.send(command).ok();
    }

    /// Whether its browser was launched and has exited. The kernel knows at once; the launcher reports it some tenths
    /// of a second later, because it waits for pipes that the browser's child processes keep open.
    pub(crate) fn has_exited(&self) -> bool {
        self.browser.get().is_some_and(|pid| !self.marker.is_alive(*pid))
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Creates the state directory, and removes the stacks' directories of an earlier run from it.
pub(crate) fn prepare(state_dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    for entry in std::fs::read_dir(state_dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(DIRECTORY_PREFIX)) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

struct Task {
    id: StackId,
    kind: DisplayKind,
    dir: PathBuf,
    marker: StackMarker,
    /// Process id of the browser, once launched.
    browser: Arc<OnceLock<i32>>,
    settings: Arc<BrowserSettings>,
    endpoints: Endpoints,
    events: UnboundedSender<Event>,
    resources: Resources,
}

/// What has been started and has to be torn down.
#[derive(Default)]
struct Resources {
    display: Option<Process>,
    display_number: Option<display::DisplayNumber>,
    launcher: Option<Process>,
}

/// The first line of the launcher's input.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LaunchRequest<'a> {
    engine: Engine,
    executable: &'a Path,
    dir: &'a Path,
    ws_path: &'a str,
    headless: bool,
    screen: Screen,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    camoufox_config: Option<serde_json::Value>,
}

/// A line of the launcher's output.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum LauncherEvent {
    Ready {
        version: String,
        browser_pid: i32,
    },
    Failed {
        message: String,
    },
    /// `lost`: the launcher killed the browser because Playwright had lost its connection to it.
    Exited {
        code: Option<i32>,
        signal: Option<String>,
        lost: bool,
        output: Vec<String>,
    },
    PageFinished {
        error: Option<String>,
    },
    Pong,
    /// A client waits for a response or an event, or a download grows.
    Active,
}

impl Task {
    async fn run(mut self, inbox: UnboundedReceiver<Command>, stop: CancellationToken) {
        let failure = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            Err(message) = self.supervise(inbox) => Some(message),
        };
        if let Some(message) = failure {
            tracing::warn!(stack = self.id.number(), cause = message, "browser failed");
            self.send_event(Event::Failed { stack: self.id, message });
        }
        self.tear_down().await;
        self.endpoints.closed.cancel();
        self.send_event(Event::Removed { stack: self.id });
    }

    fn send_event(&self, event: Event) {
        // The driver outlives its stacks, except when the runner ends. The event is irrelevant then.
        self.events.send(event).ok();
    }

    /// Starts the stack and runs it until a part of it fails. Returns the cause.
    async fn supervise(&mut self, mut inbox: UnboundedReceiver<Command>) -> Result<Infallible, String> {
        self.make_directory().map_err(|error| format!("cannot create {}: {error}", self.dir.display()))?;
        let display = self.start_display().await?;
        let launcher = self.resources.launcher.insert(self.start_launcher(display.as_deref())?);
        let mut stdin = launcher.take_stdin();
        let mut lines = Lines::new(launcher.take_stdout(), MAX_EVENT_BYTES);
        write_line(&mut stdin, &self.launch_request())
            .await
            .map_err(|error| format!("cannot write to the launcher: {error}"))?;
        loop {
            let line = tokio::select! {
                biased;
                cause = exit_of(self.resources.display.as_mut()) => return Err(cause),
                line = lines.next() => line,
                Some(command) = inbox.recv() => {
                    // A failed write means that the launcher has exited, which the end of its output reports.
                    write_line(&mut stdin, &command).await.ok();
                    continue;
                }
            };
            match line {
                Some(line) => match serde_json::from_str(&line) {
                    Ok(event) => self.handle_event(event).await?,
                    Err(_) => {
                        let stack = self.id.number();
                        tracing::warn!(stack, line, "ignored a launcher line that is not part of its protocol");
                    }
                },
                None => return Err(exit_of(self.resources.launcher.as_mut()).await),
            }
        }
    }

    async fn handle_event(&mut self, event: LauncherEvent) -> Result<(), String> {
        let stack = self.id;
        match event {
            LauncherEvent::Ready { version, browser_pid } => {
                self.browser.get_or_init(|| browser_pid);
                self.send_event(Event::Launched { stack, version });
            }
            LauncherEvent::Active => self.send_event(Event::ClientActive { stack }),
            LauncherEvent::Pong => self.send_event(Event::PingAnswered { stack }),
            LauncherEvent::PageFinished { error } => self.send_event(Event::PageFinished { stack, error }),
            LauncherEvent::Failed { message } => return Err(self.cause_of_exit(message).await),
            LauncherEvent::Exited { code, signal, lost, output } => {
                let sentence = if lost {
                    "Playwright lost its connection to the browser; a result larger than 256 MiB causes this".to_owned()
                } else {
                    format!("the browser {}", describe_exit(code, signal.as_deref()))
                };
                return Err(self.cause_of_exit(with_output(&sentence, output.iter().map(String::as_str))).await);
            }
        }
        Ok(())
    }

    /// Returns the cause of the browser's exit: the exit of its display, if that has exited too, otherwise `browser`.
    async fn cause_of_exit(&mut self, browser: String) -> String {
        timeout(DISPLAY_EXIT_TIMEOUT, exit_of(self.resources.display.as_mut())).await.unwrap_or(browser)
    }

    fn make_directory(&self) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).create(&self.dir)?;
        builder.create(self.dir.join("tmp"))
    }

    async fn start_display(&mut self) -> Result<Option<String>, String> {
        match self.kind {
            DisplayKind::Headless => Ok(None),
            DisplayKind::Headful => {
                let (xvnc, number) = display::start(&self.marker, &self.dir, self.settings.screen)?;
                let (xvnc, number) =
                    (self.resources.display.insert(xvnc), self.resources.display_number.insert(number));
                display::wait_until_ready(xvnc, number).await?;
                Ok(Some(number.to_string()))
            }
        }
    }

    fn start_launcher(&self, display: Option<&str>) -> Result<Process, String> {
        let mut command = self.marker.command(self.settings.node.as_os_str(), &self.dir);
        command.args(NODE_FLAGS).arg(&self.settings.launcher);
        match display {
            Some(display) => command.env("DISPLAY", display).env("XAUTHORITY", self.dir.join(display::XAUTHORITY)),
            None => command.env_remove("DISPLAY"),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::spawn("the Playwright server (node)", command)
    }

    fn launch_request(&self) -> LaunchRequest<'_> {
        let Screen { width, height } = self.settings.screen;
        let camoufox_config = (self.settings.engine == Engine::Camoufox).then(|| {
            // The fingerprint's screen size matches the real one.
            serde_json::json!({
                "screen.width": width, "screen.height": height, "screen.availWidth": width, "screen.availHeight": height,
                "window.outerWidth": width, "window.outerHeight": height,
            })
        });
        LaunchRequest {
            engine: self.settings.engine,
            executable: &self.settings.executable,
            dir: &self.dir,
            ws_path: &self.endpoints.ws_path,
            headless: self.kind == DisplayKind::Headless,
            screen: self.settings.screen,
            template: self.settings.template.as_deref(),
            camoufox_config,
        }
    }

    /// Stops the processes in the order of their dependencies, kills those that remain, and removes the files.
    async fn tear_down(&mut self) {
        if let Some(launcher) = &mut self.resources.launcher {
            launcher.stop(LAUNCHER_STOP_TIMEOUT).await;
        }
        if let Some(browser) = self.browser.get() {
            // The launcher has killed the browser, unless it was itself killed.
            self.marker.kill_group(*browser);
        }
        if let Some(display) = &mut self.resources.display {
            display.stop(DISPLAY_STOP_TIMEOUT).await;
        }
        self.marker.sweep().await;
        self.resources.display_number = None;
        remove_directory(&self.dir).await;
    }
}

/// Waits for the exit of a process; forever, if there is none.
async fn exit_of(process: Option<&mut Process>) -> String {
    match process {
        Some(process) => process.wait().await,
        None => std::future::pending().await,
    }
}

async fn write_line(pipe: &mut (impl AsyncWriteExt + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    pipe.write_all(&line).await
}
