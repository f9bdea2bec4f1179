//! What the program logs, on stderr: the levels, which can change at run time, and how lines look. What others chose gives no
//! terminal orders, and tells no line of its own.

use std::{
    fmt,
    io::{self, Write},
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing::{Level, field::Field};
use tracing_subscriber::{
    Layer, Registry,
    field::MakeExt,
    filter::{Targets, filter_fn},
    fmt::{
        format::{Writer, debug_fn},
        layer,
    },
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::{
    base::{
        levels::Levels,
        shown::{escaped, spelt},
    },
    config::log::{LogConfig, LogFormat},
};

/// Who says how much is logged. The later goes before the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The configuration.
    Configuration,
    /// The environment, by `RUST_LOG`.
    Environment,
    /// An operator, while the program runs.
    Operator,
}

impl Chosen {
    /// As operators are told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Environment => "environment",
            Self::Operator => "operator",
        }
    }
}

/// What is logged.
#[derive(Debug)]
pub struct Logs {
    handle: reload::Handle<Targets, Registry>,
    said: Mutex<Said>,
}

/// What each says of it.
#[derive(Debug)]
struct Said {
    configured: Levels,
    environment: Option<Levels>,
    operator: Option<Levels>,
}

/// A process has one.
static INSTALLED: OnceLock<Logs> = OnceLock::new();

/// What is logged by this process, if it logs.
pub fn installed() -> Option<&'static Logs> {
    INSTALLED.get()
}

/// Logs from here on as `config` says, and `environment` before it. For the first time alone.
pub fn install(config: &LogConfig, environment: Option<Levels>) {
    let said = Said { configured: config.level.clone(), environment, operator: None };
    let (chosen, handle) = reload::Layer::new(targets(said.in_force().0));
    // What libraries log below warnings may hold header fields, and so tokens: no setting lets it through. What pingora
    // says of requests, our records say without the query.
    let ours = filter_fn(|event| {
        let target = event.target();
        target.starts_with("portcullis") || (*event.level() <= Level::WARN && !target.starts_with("pingora_proxy"))
    });
    let lines = lines(config.format, io::stderr);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(chosen).with_filter(ours));
    if subscriber.try_init().is_ok() {
        // Libraries that log another way are not even heard below that: pingora tells of each request in dozens of lines.
        log::set_max_level(log::LevelFilter::Warn);
        let _ = INSTALLED.set(Logs { handle, said: Mutex::new(said) });
    }
}

impl Logs {
    /// What the configuration says from here on.
    pub fn configure(&self, levels: Levels) {
        self.change(|said| said.configured = levels);
    }

    /// What an operator says from here on; none: nothing.
    pub fn choose(&self, levels: Option<Levels>) {
        self.change(|said| said.operator = levels);
    }

    /// The levels in force, and whose they are.
    pub fn in_force(&self) -> (Levels, Chosen) {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (levels, chosen) = said.in_force();
        (levels.clone(), chosen)
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let before = said.in_force().0.clone();
        change(&mut said);
        let (levels, chosen) = said.in_force();
        if *levels != before {
            // What is logged is there as long as the process is.
            let _ = self.handle.reload(targets(levels));
            tracing::info!(%levels, by = chosen.name(), "other levels are logged");
        }
    }
}

impl Said {
    const fn in_force(&self) -> (&Levels, Chosen) {
        match (&self.operator, &self.environment) {
            (Some(levels), _) => (levels, Chosen::Operator),
            (None, Some(levels)) => (levels, Chosen::Environment),
            (None, None) => (&self.configured, Chosen::Configuration),
        }
    }
}

fn lines<W: Write + 'static>(
    format: LogFormat,
    out: impl Fn() -> W + Send + Sync + 'static,
) -> Box<dyn Layer<Registry> + Send + Sync> {
    match format {
        LogFormat::Json => Box::new(layer().json().with_writer(move || Escaping(out()))),
        LogFormat::Human => {
            Box::new(layer().with_ansi(false).fmt_fields(debug_fn(field).delimited(" ")).with_writer(out))
        }
    }
}

fn targets(levels: &Levels) -> Targets {
    Targets::new().with_default(levels.all()).with_targets(levels.modules())
}

/// One field of a line for people. Messages may have several lines; the further ones are indented, so that none looks like
/// another message.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = format!("{value:?}");
    match field.name() {
        "message" => text.lines().enumerate().try_for_each(|(number, line)| {
            writer.write_str(if number > 0 { "\n    " } else { "" })?;
            writer.write_str(&spelt(line))
        }),
        // What the log of libraries that do not know `tracing` says of itself.
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, "{name}={}", spelt(&text)),
    }
}

/// JSON that shows nothing else than it says.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(escaped(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let out = Shared::default();
        let writer = out.clone();
        let subscriber = tracing_subscriber::registry().with(lines(format, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = out.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const EVIL: &str =
        "a\n2026-01-01T00:00:00Z INFO portcullis: all is well\r\u{1b}[2J\u{9b}2J\u{85}\u{2028}\u{202e}\u{7f}z";

    fn log_evil() {
        let error = io::Error::other(EVIL);
        tracing::info!(text = EVIL, shown = %EVIL, told = ?EVIL, %error, "said: {EVIL}");
    }

    fn is_calm(text: &str) -> bool {
        text.lines().all(|line| spelt(line) == line)
    }

    #[test]
    fn nothing_in_a_line_for_people_gives_orders_or_passes_for_another_line() {
        let text = logged(LogFormat::Human, log_evil);
        assert!(is_calm(&text), "{text:?}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "the message alone has two: {text}");
        assert!(lines[1].starts_with("    2026"), "{text}");
        assert!(text.contains(r"error=a\n2026-01-01T00:00:00Z INFO portcullis: all is well\r\u{1b}[2J"), "{text}");
    }

    #[test]
    fn nothing_in_a_line_of_json_gives_orders_and_all_is_there() {
        let text = logged(LogFormat::Json, log_evil);
        assert!(is_calm(&text) && text.lines().count() == 1, "{text:?}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["fields"]["text"], &line["fields"]["error"]), (&EVIL.into(), &EVIL.into()));
    }
}
