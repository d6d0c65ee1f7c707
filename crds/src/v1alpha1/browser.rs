use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Browser engine of a pool.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineChoice {
    /// Camoufox if the runner image contains it, and Firefox otherwise.
    #[default]
    Auto,
    /// Anti-detect build of Firefox.
    Camoufox,
    /// Stock Firefox.
    Firefox,
}

/// A browser engine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Without a description here, optional fields of this type keep their own (kube-core's `OptionalEnum` would replace
// it).
#[schemars(description = "")]
pub enum Engine {
    /// Anti-detect build of Firefox, driven by Juggler.
    Camoufox,
    /// Stock Firefox, driven by WebDriver BiDi.
    Firefox,
}

impl Engine {
    /// Whether a pool with this engine setting can serve the engine.
    pub fn is_served_by(self, choice: EngineChoice) -> bool {
        match choice {
            // The first runner reports what Auto selected. Until then it can be either engine.
            EngineChoice::Auto => true,
            EngineChoice::Camoufox => self == Self::Camoufox,
            EngineChoice::Firefox => self == Self::Firefox,
        }
    }
}

/// Display of a browser.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
// Without a description here, optional fields of this type keep their own (kube-core's `OptionalEnum` would replace
// it).
#[schemars(description = "")]
pub enum Display {
    /// No display.
    #[default]
    Headless,
    /// A display that cannot be viewed.
    Headful,
    /// A display that can be viewed and controlled.
    LiveView,
}
