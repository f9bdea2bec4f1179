//! What is wrong with a configuration: message, place and fix, shown with a caret. Problems are collected,
//! so that an operator sees all of them at once.

use std::{
    fmt, io,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    sync::Arc,
};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report};
use serde_saphyr::Location;

use super::{secret::NO_SOURCE, spanned::Spanned, yaml};

/// A text that problems point into.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The name it is shown under, a path.
    pub name: String,
    /// The text itself.
    pub text: String,
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    message: String,
    fix: Option<String>,
    place: Option<Range<usize>>,
    source: Option<Arc<Source>>,
    /// Whether what stands at the place is not shown.
    covered: bool,
}

impl Problem {
    /// A problem with no place in a text.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), fix: None, place: None, source: None, covered: false }
    }

    /// A problem with a value of the configuration file.
    pub fn at<T>(value: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { place: place_of(value.referenced), ..Self::new(message) }
    }

    /// A problem with a place in `source`.
    pub fn in_source(message: impl Into<String>, place: Range<usize>, source: &Arc<Source>) -> Self {
        Self { place: Some(place), source: Some(source.clone()), ..Self::new(message) }
    }

    /// A file cannot be read; `fix` is for one that is not found.
    pub fn not_read(path: &Path, error: &io::Error, fix: &str) -> Self {
        let is_odd = error.kind() == io::ErrorKind::InvalidData;
        Self::new(format!("cannot read `{}`: {error}", path.display())).fix(if is_odd {
            "give a text in UTF-8, of at most 16 MiB"
        } else {
            fix
        })
    }

    /// A file that the configuration names cannot be read.
    pub fn unreadable(path: &Spanned<PathBuf>, error: &io::Error) -> Self {
        let problem = Self::not_read(&path.value, error, "the path is relative to the configuration file");
        Self { place: place_of(path.referenced), ..problem }
    }

    /// What serde-saphyr says about `source`.
    pub fn from_yaml(error: &serde_saphyr::Error, source: &Arc<Source>) -> Self {
        let place = error.location().map(|location| {
            place_of(location).unwrap_or_else(|| place_by_line(&source.text, location.line(), location.column()))
        });
        let (message, fix) = yaml::said(error);
        let problem = Self { place, source: Some(source.clone()), fix: fix.map(str::to_owned), ..Self::new(message) };
        if !problem.message.contains(NO_SOURCE) {
            return problem;
        }
        Self { message: NO_SOURCE.into(), ..problem }.fix("name the variable or the file that holds it").covered()
    }

    /// What Cedar says about `source`.
    pub fn from_cedar(error: &dyn Diagnostic, source: &Arc<Source>) -> Self {
        let place = error.labels().and_then(|mut labels| labels.next()).map(|label| {
            let start = label.offset();
            start..start.saturating_add(label.len())
        });
        let fix = error.help().map(|help| help.to_string());
        Self { fix, place, source: Some(source.clone()), ..Self::new(error.to_string()) }
    }

    /// The same, with what to do about it.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The same, and what stands there is not shown: it may be secret.
    #[must_use]
    pub const fn covered(mut self) -> Self {
        self.covered = true;
        self
    }

    /// The same, in `source` unless it has one already.
    pub fn within(mut self, source: &Arc<Source>) -> Self {
        self.source.get_or_insert_with(|| source.clone());
        self
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// File, line and column (both from 1), where they are known.
    pub fn position(&self) -> Option<(&str, usize, usize)> {
        let (source, place) = (self.source.as_ref()?, self.place.as_ref()?);
        let before = source.text.get(..place.start)?;
        let line = before.matches('\n').count().saturating_add(1);
        let column = before.rsplit('\n').next()?.chars().count().saturating_add(1);
        Some((&source.name, line, column))
    }

    fn report(&self) -> Report {
        let mut diagnostic = MietteDiagnostic::new(&self.message);
        diagnostic.help.clone_from(&self.fix);
        let Some(source) = &self.source else { return Report::new(diagnostic) };
        let shown = !self.covered && source.text.lines().all(|line| line.len() <= LINE_BYTES_SHOWN);
        if let (Some(place), true) = (&self.place, shown) {
            diagnostic.labels = Some(vec![LabeledSpan::underline(place.clone())]);
            let source = NamedSource::new(&source.name, source.text.clone());
            return Report::new(diagnostic).with_source_code(source);
        }
        let (line, column) = self.position().map_or((1, 1), |(_, line, column)| (line, column));
        diagnostic.message = match self.place {
            Some(_) => format!("{}:{line}:{column}: {}", source.name, self.message),
            None => format!("{}: {}", source.name, self.message),
        };
        Report::new(diagnostic)
    }
}

/// An error with its causes: the outermost alone does not say what happened.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn place_of(location: Location) -> Option<Range<usize>> {
    let start = usize::try_from(location.span().byte_offset()?).ok()?;
    let length = usize::try_from(location.span().byte_len()?).ok()?;
    Some(start..start.checked_add(length)?)
}

/// The place of one character, where only its line and column (from 1) are known.
fn place_by_line(text: &str, line: u64, column: u64) -> Range<usize> {
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
    let before: usize = text.split_inclusive('\n').take(index(line)).map(str::len).sum();
    let inside = text.get(before..).unwrap_or_default().chars().take(index(column)).map(char::len_utf8).sum();
    let start = before.saturating_add(inside).min(text.len());
    start..start
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
            .with_links(false)
            .with_width(110)
            .render_report(f, self.report().as_ref())
    }
}

/// A text with longer lines is not shown, in bytes: the renderer cannot set a caret that far out.
const LINE_BYTES_SHOWN: usize = 4096;

/// Every problem of a configuration; never empty where it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// The value, or what was wrong with it noted and nothing.
    pub fn keep<T>(&mut self, result: Result<T, impl Into<Self>>) -> Option<T> {
        result.map_err(|problems| self.0.extend(problems.into().0)).ok()
    }

    /// The same, in `source` as far as they have none.
    #[must_use]
    pub fn within(self, source: &Arc<Source>) -> Self {
        Self(self.0.into_iter().map(|problem| problem.within(source)).collect())
    }

    /// `value` if nothing is wrong.
    ///
    /// # Errors
    /// These problems, if there are any.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Where one is covered, the lines around another may hold the same.
        let covered = self.0.iter().any(|problem| problem.covered);
        self.0.iter().try_for_each(|problem| match covered {
            true => write!(f, "{}", problem.clone().covered()),
            false => write!(f, "{problem}"),
        })
    }
}

impl std::error::Error for Problems {}

/// `value` if it lies in `range`, `default` if there is none.
///
/// # Errors
/// A [`Problem`] that names the range.
pub fn bounded<T: Copy + PartialOrd + fmt::Display>(
    value: Option<&Spanned<T>>,
    name: &str,
    default: T,
    range: RangeInclusive<T>,
) -> Result<T, Problem> {
    match value {
        None => Ok(default),
        Some(value) if range.contains(&value.value) => Ok(value.value),
        Some(value) => Err(Problem::at(value, format!("`{name}` is out of range")).fix(format!(
            "choose from {} to {}",
            range.start(),
            range.end()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        port: Spanned<u16>,
    }

    #[test]
    fn a_problem_shows_file_line_column_text_and_fix() {
        let source = Arc::new(Source { name: "config.yaml".into(), text: "# é\nport: 80\n".into() });
        let example: Example = serde_saphyr::from_str(&source.text).unwrap();
        assert_eq!(example.port.value, 80);
        let problem = Problem::at(&example.port, "port is taken").fix("choose another").within(&source);
        assert_eq!(problem.position(), Some(("config.yaml", 2, 7)));
        let shown = problem.to_string();
        for part in ["port is taken", "config.yaml:2:7", "port: 80", "help: choose another"] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn yaml_errors_keep_their_place() {
        let source = Arc::new(Source { name: "config.yaml".into(), text: "port: 80\nprot: 81\n".into() });
        let error = serde_saphyr::from_str::<Example>(&source.text).unwrap_err();
        let problem = Problem::from_yaml(&error, &source);
        assert_eq!(problem.position(), Some(("config.yaml", 2, 1)));
        assert!(problem.message().starts_with("unknown field `prot`"), "{}", problem.message());
    }
}
