//! One stack: a directory, a display when the browser has one, and the launcher with its browser. A task of its own starts
//! them one after the other, passes commands and events on, and takes all of it down at the end, however it ends.

use crate::{
    config::{BrowserSettings, Screen},
    core::{Event, Kind, StackId},
    supervisor::{
        display,
        lines::Lines,
        process::{Mark, Process, describe_exit, remove_directory, with_output},
    },
};
use camofleet_crds::v1alpha1::{EngineName, StartUrlWait};
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

/// Directories of stacks are named so: only those are removed when the runner starts.
const DIRECTORY_PREFIX: &str = "stack-";
/// The Playwright server's socket, in the session's directory.
const PLAYWRIGHT_SOCKET: &str = "pw.sock";
/// How long contexts of a client whose connection was lost wait for it.
const RECONNECT_GRACE: Duration = Duration::from_secs(60);
/// How long the launcher may take to kill its browser and to say farewell to clients, and Xvnc to clean up.
const LAUNCHER_STOP_TIMEOUT: Duration = Duration::from_secs(3);
const DISPLAY_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// A browser whose display died ends within this time, so its display is looked at before the browser is blamed.
const DISPLAY_EXIT_TIMEOUT: Duration = Duration::from_millis(300);
/// An event of the launcher in bytes; it cuts the words in them itself.
const MAX_EVENT_BYTES: usize = 64 << 10;
/// V8's young generation at its smallest saves a third of Node's memory; its ceiling is for messages, which may be 256 MB.
const NODE_FLAGS: [&str; 2] = ["--max-semi-space-size=1", "--max-old-space-size=1024"];

/// Where clients of a stack connect.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    pub(crate) playwright: PathBuf,
    /// The one path that the Playwright server serves, known to nobody else.
    pub(crate) ws_path: String,
    pub(crate) vnc: PathBuf,
    /// Cancelled when nothing of the stack is left.
    pub(crate) closed: CancellationToken,
}

/// What a stack can be told while it runs. The launcher reads it as it stands here.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "command", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Command {
    /// Open the start page.
    Open { url: String, wait_until: &'static str },
    /// Ask the browser whether it lives.
    Ping,
}

impl Command {
    /// The command that opens a start page. `None`: it is not to be navigated.
    pub(crate) fn open(url: String, wait: StartUrlWait) -> Option<Self> {
        let wait_until = match wait {
            StartUrlWait::None => return None,
            StartUrlWait::DomContentLoaded => "domcontentloaded",
            StartUrlWait::Load => "load",
        };
        Some(Self::Open { url, wait_until })
    }
}

/// A stack that was launched, as its driver holds it.
pub(crate) struct Stack {
    pub(crate) endpoints: Endpoints,
    /// Ids of the tokens that were good for one connection, and have had it. A stack serves one session.
    pub(crate) used_tokens: HashSet<String>,
    commands: UnboundedSender<Command>,
    stop: CancellationToken,
    mark: Mark,
    browser: Arc<OnceLock<i32>>,
}

impl Stack {
    /// Launches a browser. Reports `Launched` or `Failed`, what happens then, and at last `Removed`.
    pub(crate) fn launch(
        id: StackId,
        kind: Kind,
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
        let mark = Mark(format!("{boot_id}.{}", id.number()));
        let browser = Arc::new(OnceLock::new());
        let task = Task {
            id,
            kind,
            dir,
            mark: mark.clone(),
            browser: browser.clone(),
            settings: settings.clone(),
            endpoints: endpoints.clone(),
            events,
            resources: Resources::default(),
        };
        tokio::spawn(task.run(inbox, stop.clone()));
        Self { endpoints, used_tokens: HashSet::new(), commands, stop, mark, browser }
    }

    /// Tells it something. One that is ending does not hear it.
    pub(crate) fn send(&self, command: Command) {
        self.commands.send(command).ok();
    }

    /// Whether its browser was launched and is dead, as the kernel knows at once. The launcher hears of it later: it waits
    /// for the pipes that the browser's own children hold, some tenths of a second.
    pub(crate) fn has_exited(&self) -> bool {
        self.browser.get().is_some_and(|pid| !self.mark.is_alive(*pid))
    }

    /// Takes it down.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Removes what an earlier run left, and makes the directory in which stacks have theirs.
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
    kind: Kind,
    dir: PathBuf,
    mark: Mark,
    /// The browser's process, once it was launched.
    browser: Arc<OnceLock<i32>>,
    settings: Arc<BrowserSettings>,
    endpoints: Endpoints,
    events: UnboundedSender<Event>,
    resources: Resources,
}

/// What was started, and so has to be ended.
#[derive(Default)]
struct Resources {
    display: Option<Process>,
    /// The display's.
    display_number: Option<display::DisplayNumber>,
    launcher: Option<Process>,
}

/// The launcher's first line: what to launch.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LaunchRequest<'a> {
    engine: EngineName,
    executable: &'a Path,
    dir: &'a Path,
    ws_path: &'a str,
    headless: bool,
    screen: Screen,
    grace_ms: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    camoufox_config: Option<serde_json::Value>,
}

/// What the launcher says, line by line.
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
    Exited {
        code: Option<i32>,
        signal: Option<String>,
        #[serde(rename = "lastWords")]
        output: Vec<String>,
    },
    StartPage {
        error: Option<String>,
    },
    Pong,
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

    /// The driver outlives its stacks but when the runner ends, and then nobody needs to know.
    fn send_event(&self, event: Event) {
        self.events.send(event).ok();
    }

    /// Starts everything and serves until something breaks: then it says what.
    async fn supervise(&mut self, mut inbox: UnboundedReceiver<Command>) -> Result<Infallible, String> {
        self.make_directory().map_err(|error| format!("cannot make {}: {error}", self.dir.display()))?;
        let display = self.start_display().await?;
        let launcher = self.resources.launcher.insert(self.start_launcher(display.as_deref())?);
        let mut stdin = launcher.take_stdin();
        let mut lines = Lines::new(launcher.take_stdout(), MAX_EVENT_BYTES);
        write_line(&mut stdin, &self.launch_request())
            .await
            .map_err(|error| format!("the launcher did not listen: {error}"))?;
        loop {
            let line = tokio::select! {
                biased;
                cause = exit_of(self.resources.display.as_mut()) => return Err(cause),
                line = lines.next() => line,
                Some(command) = inbox.recv() => {
                    // One that does not listen any more has ended, which is seen at its output.
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
            LauncherEvent::Pong => self.send_event(Event::PingAnswered { stack }),
            LauncherEvent::StartPage { error } => self.send_event(Event::PageFinished { stack, error }),
            LauncherEvent::Failed { message } => return Err(self.cause_of_exit(message).await),
            LauncherEvent::Exited { code, signal, output } => {
                let sentence = format!("the browser {}", describe_exit(code, signal.as_deref()));
                return Err(self.cause_of_exit(with_output(&sentence, output.iter().map(String::as_str))).await);
            }
        }
        Ok(())
    }

    /// What the browser's end is put down to: its display, when that has ended too.
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
            Kind::Headless => Ok(None),
            Kind::Headful => {
                let (xvnc, number) = display::start(&self.mark, &self.dir, self.settings.screen)?;
                let (xvnc, number) =
                    (self.resources.display.insert(xvnc), self.resources.display_number.insert(number));
                display::wait_until_ready(xvnc, number).await?;
                Ok(Some(number.to_string()))
            }
        }
    }

    fn start_launcher(&self, display: Option<&str>) -> Result<Process, String> {
        let mut command = self.mark.command(self.settings.node.as_os_str(), &self.dir);
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
        let camoufox_config = (self.settings.engine == EngineName::Camoufox).then(|| {
            // The screen that pages are told of is the one that the window is on.
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
            headless: self.kind == Kind::Headless,
            screen: self.settings.screen,
            grace_ms: RECONNECT_GRACE.as_millis(),
            template: self.settings.template.as_deref(),
            camoufox_config,
        }
    }

    /// Ends what was started, in the order in which one depends on the other, then what is left, and removes the files.
    async fn tear_down(&mut self) {
        if let Some(launcher) = &mut self.resources.launcher {
            launcher.stop(LAUNCHER_STOP_TIMEOUT).await;
        }
        if let Some(browser) = self.browser.get() {
            // The launcher did it, unless it was killed itself.
            self.mark.kill_group(*browser);
        }
        if let Some(display) = &mut self.resources.display {
            display.stop(DISPLAY_STOP_TIMEOUT).await;
        }
        self.mark.sweep().await;
        self.resources.display_number = None;
        remove_directory(&self.dir).await;
    }
}

/// Waits for the end of a process; for ever, when there is none.
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
