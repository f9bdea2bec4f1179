//! How much is logged: a level, and others for modules.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;

/// Bytes of the text.
pub const TEXT_BYTES_MAX: usize = 4096;

/// `info`, or `info,portcullis::reload=debug`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", inline)]
pub struct Levels {
    /// That of what no module says anything of.
    all: LevelFilter,
    modules: Vec<(String, LevelFilter)>,
}

impl Levels {
    /// That of what no module says anything of.
    pub const fn all(&self) -> LevelFilter {
        self.all
    }

    /// Those of modules, and of what is below them.
    pub fn modules(&self) -> impl Iterator<Item = (&str, LevelFilter)> {
        self.modules.iter().map(|(module, level)| (module.as_str(), *level))
    }
}

impl Default for Levels {
    fn default() -> Self {
        Self { all: LevelFilter::INFO, modules: Vec::new() }
    }
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("levels of more than {TEXT_BYTES_MAX} bytes"));
        }
        let (mut all, mut modules) = (None, Vec::<(String, LevelFilter)>::new());
        for part in text.split(',').map(str::trim) {
            let is_new = match part.split_once('=') {
                None => all.replace(level(part)?).is_none(),
                Some((module, name)) => {
                    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                    if !module.split("::").all(|name| !name.is_empty() && is_name(name)) {
                        return Err(format!("`{module}` is no module: write `portcullis::reload=debug`"));
                    }
                    let is_new = modules.iter().all(|(other, _)| other != module);
                    modules.push((module.to_owned(), level(name)?));
                    is_new
                }
            };
            if !is_new {
                return Err(format!("`{part}` says again what was said before"));
            }
        }
        // A level for some modules alone takes nothing from the others.
        Ok(Self { all: all.unwrap_or(LevelFilter::INFO), modules })
    }
}

fn level(name: &str) -> Result<LevelFilter, String> {
    match name.to_ascii_lowercase().as_str() {
        "off" => Ok(LevelFilter::OFF),
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err(format!(
            "`{name}` is no level: write `off`, `error`, `warn`, `info`, `debug` or `trace`, and `module=level` for a module"
        )),
    }
}

impl TryFrom<String> for Levels {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.fmt(f)?;
        self.modules.iter().try_for_each(|(module, level)| write!(f, ",{module}={level}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_for_all_and_for_modules() {
        let levels: Levels = "portcullis::reload=debug, warn ,hyper=off".parse().unwrap();
        assert_eq!(levels.to_string(), "warn,portcullis::reload=debug,hyper=off");
        assert_eq!(levels.to_string().parse(), Ok(levels));
        assert_eq!("INFO".parse(), Ok(Levels::default()));
        assert_eq!("portcullis=trace".parse::<Levels>().unwrap().to_string(), "info,portcullis=trace");
    }

    #[test]
    fn what_is_no_level_is_refused_and_not_taken_for_a_module() {
        for text in [
            "",
            "inof",
            "portcullis",
            "info,",
            "info,warn",
            "a=info,a=warn",
            "a::=info",
            "=info",
            "a=",
            "a=b",
            "[span]=info",
            "a\u{1b}=info",
        ] {
            assert!(text.parse::<Levels>().is_err(), "{text}");
        }
        assert!(format!("info,{}=warn", "a".repeat(TEXT_BYTES_MAX)).parse::<Levels>().is_err());
    }
}
