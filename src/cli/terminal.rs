//! What is shown to people: colour on a terminal alone, lines no wider than it.

use console::{Style, Term};

pub(super) use crate::base::shown::{escaped, tame};

/// Columns of what goes elsewhere than to a terminal.
const COLUMNS: usize = 100;

/// The least that lines are wrapped to.
const COLUMNS_MIN: usize = 40;

/// Standard output, as people see it.
#[derive(Debug)]
pub(super) struct Screen {
    columns: usize,
    is_terminal: bool,
    colour: bool,
}

/// What a word means, to be coloured by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tone {
    Good,
    Bad,
    Warn,
    Faint,
    Strong,
    Plain,
}

impl Screen {
    /// That of this process. `NO_COLOR` and `CLICOLOR` are heeded.
    pub(super) fn new() -> Self {
        let term = Term::stdout();
        let columns = term.size_checked().map_or(COLUMNS, |(_, columns)| usize::from(columns)).max(COLUMNS_MIN);
        let colour = term.is_term() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        Self { columns, is_terminal: term.is_term(), colour: colour && console::colors_enabled() }
    }

    /// `text` in the colour of `tone`.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        let style = match tone {
            Tone::Good => Style::new().green(),
            Tone::Bad => Style::new().red().bold(),
            Tone::Warn => Style::new().yellow(),
            Tone::Faint => Style::new().dim(),
            Tone::Strong => Style::new().bold(),
            Tone::Plain => Style::new(),
        };
        let text = tame(text);
        if self.colour { style.force_styling(true).apply_to(text).to_string() } else { text }
    }

    /// A painted line, cut where the terminal would break it; whole where there is none.
    pub(super) fn cut(&self, line: &str) -> String {
        if self.is_terminal { console::truncate_str(line, self.columns, "…").into_owned() } else { line.to_owned() }
    }

    /// `text` behind `first`, and behind as many blanks on further lines.
    pub(super) fn wrapped(&self, first: &str, text: &str) -> String {
        let indent = " ".repeat(console::measure_text_width(first));
        let options = textwrap::Options::new(self.columns).initial_indent(first).subsequent_indent(&indent);
        textwrap::fill(&tame(text), options).trim_end().replace(NO_BREAK, " ") + "\n"
    }

    /// `items` beside each other behind `first`, each on one line where it fits.
    pub(super) fn wrapped_items(&self, first: &str, items: &[String]) -> String {
        let whole: Vec<_> = items.iter().map(|item| item.replace(' ', NO_BREAK)).collect();
        self.wrapped(first, &whole.join("   "))
    }
}

/// A blank at which no line is broken.
pub(super) const NO_BREAK: &str = "\u{a0}";

/// Writes to standard output.
pub(super) fn show(text: &str) {
    super::say(&mut std::io::stdout().lock(), text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_tells_a_line_of_its_own_or_turns_another_round() {
        let screen = Screen { columns: 100, is_terminal: false, colour: false };
        let evil = "/x\nallow\r\u{85}a\u{2028}b\u{2029}c\u{202e}d\u{2066}e\u{200f}f\u{61c}g\u{1b}[2Jh";
        for shown in
            [screen.paint(Tone::Good, evil), screen.wrapped("> ", evil), screen.wrapped_items("> ", &[evil.to_owned()])]
        {
            assert_eq!(shown.trim_end().lines().count(), 1, "{shown}");
            assert!(!shown.trim_end().chars().any(|c| tame(&c.to_string()) != c.to_string()), "{shown:?}");
        }
    }
}
