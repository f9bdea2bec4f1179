//! The section `log`: what is logged, and how it looks.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::base::levels::Levels;

/// The section `log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How much is logged: `off`, `error`, `warn`, `info`, `debug` or `trace`, and `module=level` for modules. Default info.
    pub level: Levels,
    /// How lines look. Default json.
    pub format: LogFormat,
}

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A JSON object each.
    #[default]
    Json,
    /// For people.
    Human,
}
