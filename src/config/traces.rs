//! The section `traces`: which traces requests belong to, and who is told of them.

use schemars::JsonSchema;
use serde::Deserialize;

use super::otlp::{OtlpConfig, OtlpSettings};
use crate::{
    base::{
        files::Files,
        problem::{Problem, Problems, bounded},
        spanned::Spanned,
    },
    trace::{Parent, Tracing},
};

/// The section `traces`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TracesConfig {
    /// Whose traces are continued (`traceparent`). Default trusted_proxies.
    pub parent: Option<Spanned<TraceParent>>,
    /// Which part of the traces begun here is kept, from 0 to 1. Default 1.
    pub ratio: Option<Spanned<f64>>,
    /// Whether denied requests are kept whatever their trace says. Default true.
    pub denials: Option<bool>,
    /// To whom they are sent. Default nobody.
    pub otlp: Option<OtlpConfig>,
}

/// Whose traces are continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceParent {
    /// Those of trusted proxies.
    TrustedProxies,
    /// Everybody's: a client chooses what is kept of its requests, and where they appear.
    Always,
    /// Nobody's.
    Never,
}

impl TracesConfig {
    pub(super) fn compile(&self) -> Result<Tracing, Problem> {
        let parent = match self.parent.as_ref().map(|parent| parent.value) {
            None | Some(TraceParent::TrustedProxies) => Parent::TrustedProxies,
            Some(TraceParent::Always) => Parent::Always,
            Some(TraceParent::Never) => Parent::Never,
        };
        let ratio = bounded(self.ratio.as_ref(), "ratio", 1.0, 0.0..=1.0)?;
        let (denials, exported) = (self.denials.unwrap_or(true), self.otlp.is_some());
        Ok(Tracing { parent, kept_below: Tracing::bound(ratio), denials, exported })
    }

    pub(super) fn receiver(&self, files: &Files) -> Result<Option<OtlpSettings>, Problems> {
        self.otlp.as_ref().map(|otlp| otlp.compile(files)).transpose()
    }
}
