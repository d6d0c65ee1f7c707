//! The runner's settings, parsed from flags and environment variables and checked at startup.

use crate::core::{DisplayKind, RunnerConfig};
use camofleet_crds::v1alpha1::Engine;
use camofleet_runner_api::BrowserCounts;
use clap::{Parser, ValueEnum};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// Maximum length of the state directory's path, so that the paths of sockets below it fit into a Unix address (108
/// bytes, unix(7)).
const MAX_STATE_DIR: usize = 64;
/// Default directory of Camoufox.
const CAMOUFOX_INSTALL_DIR: &str = "/opt/camoufox";

/// Supervises the browsers of one pod.
#[derive(Clone, Debug, Parser)]
#[command(name = "camofleet-runner", version)]
pub struct Flags {
    /// Listen address of the HTTP API.
    #[arg(long, env = "RUNNER_LISTEN", default_value = "0.0.0.0:8070")]
    listen: SocketAddr,
    /// Listen address of /healthz and /readyz, for the kubelet.
    #[arg(long, env = "RUNNER_PROBE_LISTEN", default_value = "0.0.0.0:8071")]
    probe_listen: SocketAddr,
    /// UID of this pod. Tokens are valid only if it is their audience.
    #[arg(long, env = "POD_UID")]
    pod_uid: String,
    /// JSON file with the public keys of the operator and the gateway. Changes take effect without a restart.
    #[arg(long, env = "RUNNER_KEYS_FILE", default_value = "/etc/camofleet/public-keys")]
    keys_file: PathBuf,
    /// Maximum number of concurrent sessions.
    #[arg(long, env = "RUNNER_SLOTS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    slots: u32,
    /// Total number of sessions after which the runner accepts no more; 0 means no limit.
    #[arg(long, env = "RUNNER_SESSIONS", default_value_t = 0)]
    sessions: u32,
    /// Browser to run. The default, auto, selects Camoufox if it is installed, otherwise Firefox.
    #[arg(long, env = "RUNNER_ENGINE", default_value = "auto")]
    engine: EngineChoice,
    /// Size of the display and of the browser window, as WIDTHxHEIGHT in pixels.
    #[arg(long, env = "RUNNER_SCREEN", default_value = "1280x720")]
    screen: Screen,
    /// Number of headless browsers to keep ready for sessions.
    #[arg(long, env = "RUNNER_PREWARM_HEADLESS", default_value_t = 0)]
    prewarm_headless: u32,
    /// Number of headful browsers to keep ready for sessions.
    #[arg(long, env = "RUNNER_PREWARM_HEADFUL", default_value_t = 0)]
    prewarm_headful: u32,
    /// Kind of browser that has to pass a smoke test: the runner counts as warm only after such a browser has loaded a
    /// page. The operator sets it on canaries. No smoke test by default.
    #[arg(long = "prove", env = "RUNNER_PROVE")]
    smoke_test: Option<DisplayKind>,
    /// Seconds for which live sessions continue after SIGTERM.
    #[arg(long, env = "RUNNER_DRAIN_TIMEOUT_SECONDS", default_value_t = 600)]
    drain_timeout_seconds: u32,
    /// Directory for sockets, profiles and temporary files of sessions. The runner removes the leftovers of an
    /// earlier run from it.
    #[arg(long, env = "RUNNER_STATE_DIR", default_value = "/run/camofleet")]
    state_dir: PathBuf,
    /// Node.js executable.
    #[arg(long, env = "RUNNER_NODE", default_value = "node")]
    node: PathBuf,
    /// Launcher script that Node.js runs.
    #[arg(long, env = "RUNNER_LAUNCHER", default_value = "/opt/camofleet/launcher/main.js")]
    launcher: PathBuf,
    /// Directory with the profile templates in subdirectories `Firefox` and `Camoufox`, made by the launcher's
    /// `template.js`. Sessions of an engine without a template start with an empty profile and take longer to launch.
    #[arg(long, env = "RUNNER_TEMPLATES", default_value = "/opt/camofleet/templates")]
    templates: PathBuf,
    /// Firefox executable.
    #[arg(long, env = "RUNNER_FIREFOX", default_value = "/usr/bin/firefox-esr")]
    firefox: PathBuf,
    /// Camoufox executable. Defaults to `camoufox-bin` in `$CAMOUFOX_INSTALL_DIR`, or in /opt/camoufox without that
    /// variable.
    #[arg(long, env = "CAMOUFOX_EXECUTABLE_PATH")]
    camoufox: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineChoice {
    Auto,
    Camoufox,
    Firefox,
}

/// Size of a display in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Screen {
    pub(crate) width: u16,
    pub(crate) height: u16,
}

impl FromStr for Screen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sizes = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        match sizes {
            Some((width @ 320..=7680, height @ 240..=4320)) => Ok(Self { width, height }),
            Some(_) | None => Err("must be WIDTHxHEIGHT, from 320x240 to 7680x4320"),
        }
    }
}

/// Checked settings: the executables exist, and the numbers are consistent.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) probe_listen: SocketAddr,
    pub(crate) pod_uid: String,
    pub(crate) keys_file: PathBuf,
    pub(crate) runner: RunnerConfig,
    pub(crate) browser: BrowserSettings,
}

/// Settings that all browsers of this runner share.
#[derive(Clone, Debug)]
pub(crate) struct BrowserSettings {
    pub(crate) engine: Engine,
    pub(crate) executable: PathBuf,
    /// Directory that is copied into new profiles.
    pub(crate) template: Option<PathBuf>,
    pub(crate) screen: Screen,
    pub(crate) state_dir: PathBuf,
    pub(crate) node: PathBuf,
    pub(crate) launcher: PathBuf,
    /// Major and minor version of the launcher's Playwright.
    pub(crate) playwright_version: String,
}

/// Invalid settings, with which a runner cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BadSettings {
    /// The pod's UID is empty.
    #[error(
        "--pod-uid (POD_UID) is empty: set it to the pod's UID, which is the audience of the tokens for this runner"
    )]
    NoPodUid,
    /// The number of prewarmed browsers exceeds the number of slots.
    #[error(
        "{headless} headless and {headful} headful browsers do not fit into {slots} slots: lower --prewarm-headless or \
         --prewarm-headful, or raise --slots"
    )]
    TooManyPrewarmed {
        /// Value of `--prewarm-headless`.
        headless: u32,
        /// Value of `--prewarm-headful`.
        headful: u32,
        /// Value of `--slots`.
        slots: u32,
    },
    /// The state directory is relative, or too long for the addresses of the sockets in it.
    #[error(
        "--state-dir {0} must be an absolute path of at most {MAX_STATE_DIR} bytes, so that the paths of the sockets in it \
         fit into Unix addresses"
    )]
    StateDir(PathBuf),
    /// The browser's executable is missing.
    #[error("no {engine} executable at {path}: install it, or set its path with --{flag}")]
    NoBrowser {
        /// Name of the engine.
        engine: &'static str,
        /// Path where no executable was found.
        path: PathBuf,
        /// Flag that sets the path.
        flag: &'static str,
    },
    /// The launcher's Playwright package is missing.
    #[error(
        "no Playwright package next to {0}: run `npm ci` in that directory, or set the launcher's path with --launcher"
    )]
    NoPlaywright(PathBuf),
}

impl Flags {
    /// Checks the flags for consistency and against the file system.
    ///
    /// # Errors
    /// When flags contradict each other, or a file that they name is missing.
    pub fn check(self) -> Result<Settings, BadSettings> {
        if self.pod_uid.is_empty() {
            return Err(BadSettings::NoPodUid);
        }
        let (headless, headful, slots) = (self.prewarm_headless, self.prewarm_headful, self.slots);
        if headless.saturating_add(headful) > slots {
            return Err(BadSettings::TooManyPrewarmed { headless, headful, slots });
        }
        if !self.state_dir.is_absolute() || self.state_dir.as_os_str().len() > MAX_STATE_DIR {
            return Err(BadSettings::StateDir(self.state_dir));
        }
        let (engine, executable, template) = self.browser()?;
        let playwright_version = playwright_version(&self.launcher)?;
        // Launches are CPU-bound: more concurrent launches than CPUs only delay each other.
        let max_concurrent_launches =
            std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        let runner = RunnerConfig {
            slots,
            max_total_sessions: self.sessions,
            prewarm: BrowserCounts { headless, headful },
            smoke_test: self.smoke_test,
            max_concurrent_launches,
            drain_timeout: Duration::from_secs(self.drain_timeout_seconds.into()),
        };
        let browser = BrowserSettings {
            engine,
            executable,
            template,
            screen: self.screen,
            state_dir: self.state_dir,
            node: self.node,
            launcher: self.launcher,
            playwright_version,
        };
        Ok(Settings {
            listen: self.listen,
            probe_listen: self.probe_listen,
            pod_uid: self.pod_uid,
            keys_file: self.keys_file,
            runner,
            browser,
        })
    }

    fn browser(&self) -> Result<(Engine, PathBuf, Option<PathBuf>), BadSettings> {
        let camoufox = self.camoufox.clone().unwrap_or_else(|| {
            let install_dir =
                std::env::var_os("CAMOUFOX_INSTALL_DIR").map_or(CAMOUFOX_INSTALL_DIR.into(), PathBuf::from);
            install_dir.join("camoufox-bin")
        });
        let engine = match self.engine {
            EngineChoice::Auto if is_executable(&camoufox) => Engine::Camoufox,
            EngineChoice::Auto | EngineChoice::Firefox => Engine::Firefox,
            EngineChoice::Camoufox => Engine::Camoufox,
        };
        let (engine_name, path, flag) = match engine {
            Engine::Camoufox => ("Camoufox", camoufox, "camoufox"),
            Engine::Firefox => ("Firefox", self.firefox.clone(), "firefox"),
        };
        if is_executable(&path) {
            let template = Some(self.templates.join(engine_name)).filter(|template| template.is_dir());
            Ok((engine, path, template))
        } else {
            Err(BadSettings::NoBrowser { engine: engine_name, path, flag })
        }
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

/// Reads the major and minor version of the Playwright package that the launcher loads. Clients need the same version.
fn playwright_version(launcher: &Path) -> Result<String, BadSettings> {
    #[derive(Deserialize)]
    struct Package {
        version: String,
    }
    let manifest = launcher.with_file_name("node_modules").join("playwright-core").join("package.json");
    let version =
        fs::read(manifest).ok().and_then(|text| serde_json::from_slice::<Package>(&text).ok()).and_then(|package| {
            let mut numbers = package.version.splitn(3, '.');
            Some(format!("{}.{}", numbers.next()?, numbers.next()?))
        });
    version.ok_or_else(|| BadSettings::NoPlaywright(launcher.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_screen_size_within_bounds() {
        assert_eq!("1280x720".parse(), Ok(Screen { width: 1280, height: 720 }));
        for bad in ["", "1280", "1280x", "1280x720x24", "100x100", "-1x720", "99999x720", "1280x239"] {
            assert!(bad.parse::<Screen>().is_err(), "{bad}");
        }
    }
}
