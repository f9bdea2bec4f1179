//! Decisions to look through while more come: which are kept, which one is chosen, and what of them a screen shows. It knows
//! neither keyboard nor terminal.

use std::collections::VecDeque;

/// Decisions that are kept, the latest.
const ROWS_MAX: usize = 10_000;

/// Bytes of their records.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What stands before the decision that is chosen, and before the others.
const MARKS: [&str; 2] = ["\u{25b6} ", "  "];

/// A decision.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The one line that tells it.
    pub(super) told: String,
    /// Its record.
    pub(super) record: Vec<u8>,
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Open,
    Back,
}

/// The decisions, and where somebody is among them.
#[derive(Debug, Default)]
pub(super) struct Browser {
    rows: VecDeque<Row>,
    bytes: usize,
    chosen: usize,
    /// The first that is on the screen.
    top: usize,
    opened: Option<Opened>,
    /// Lines of the screen above the last one, which says what keys there are.
    height: usize,
}

/// A decision that is shown whole.
#[derive(Debug)]
struct Opened {
    record: Vec<u8>,
    lines: Vec<String>,
    top: usize,
}

impl Browser {
    /// Takes one more. Whoever is at the last one stays at the last one; others stay where they are.
    pub(super) fn take(&mut self, row: Row) {
        let follows = self.is_at_the_end();
        self.bytes = self.bytes.saturating_add(row.record.len());
        self.rows.push_back(row);
        while self.rows.len() > ROWS_MAX || (self.bytes > BYTES_MAX && self.rows.len() > 1) {
            let gone = self.rows.pop_front().map_or(0, |row| row.record.len());
            self.bytes = self.bytes.saturating_sub(gone);
            (self.chosen, self.top) = (self.chosen.saturating_sub(1), self.top.saturating_sub(1));
        }
        if follows {
            self.chosen = self.last();
        }
        self.settle();
    }

    /// Fits what is shown to a screen of so many lines; `tell` tells a record anew.
    pub(super) fn fit(&mut self, lines: usize, tell: impl FnOnce(&[u8]) -> String) {
        self.height = lines.saturating_sub(1).max(1);
        if let Some(opened) = &mut self.opened {
            opened.lines = tell(&opened.record).lines().map(str::to_owned).collect();
            opened.top = opened.top.min(opened.lines.len().saturating_sub(self.height));
        }
        self.settle();
    }

    /// Does what is wished, where `tell` tells a record; says whether anybody still looks.
    pub(super) fn wish(&mut self, wish: Wish, tell: impl FnOnce(&[u8]) -> String) -> bool {
        let height = self.height;
        match (&mut self.opened, wish) {
            (None, Wish::Back) => return false,
            (Some(_), Wish::Back) => self.opened = None,
            (None, Wish::Open) => {
                self.opened = self.rows.get(self.chosen).map(|row| {
                    let lines = tell(&row.record).lines().map(str::to_owned).collect();
                    Opened { record: row.record.clone(), lines, top: 0 }
                });
            }
            (Some(_), Wish::Open) => {}
            (None, wish) => self.chosen = moved(self.chosen, wish, height, self.last()),
            (Some(opened), wish) => {
                opened.top = moved(opened.top, wish, height, opened.lines.len().saturating_sub(height));
            }
        }
        self.settle();
        true
    }

    /// The lines of the screen.
    pub(super) fn frame(&self) -> Vec<String> {
        let (mut lines, last): (Vec<_>, _) = match &self.opened {
            Some(Opened { lines, top, .. }) => {
                let shown = lines.iter().skip(*top).take(self.height).cloned();
                let below = lines.len().saturating_sub(top.saturating_add(self.height));
                (shown.collect(), format!("{below} lines below   \u{2191}\u{2193} move   q back"))
            }
            None => {
                let shown = self.rows.iter().enumerate().skip(self.top).take(self.height);
                let shown = shown.map(|(number, row)| {
                    let [this, other] = MARKS;
                    format!("{}{}", if number == self.chosen { this } else { other }, row.told)
                });
                let follows = if self.is_at_the_end() { ", following" } else { "" };
                let (number, all) = (self.chosen.saturating_add(1).min(self.rows.len()), self.rows.len());
                (
                    shown.collect(),
                    format!("{number} of {all}{follows}   \u{2191}\u{2193} choose   Enter all of it   q leave"),
                )
            }
        };
        lines.resize(self.height, String::new());
        lines.push(last);
        lines
    }

    fn last(&self) -> usize {
        self.rows.len().saturating_sub(1)
    }

    fn is_at_the_end(&self) -> bool {
        self.chosen == self.last()
    }

    /// Keeps what is chosen on the screen, and the screen full.
    fn settle(&mut self) {
        let height = self.height.max(1);
        let lowest = self.chosen.saturating_add(1).saturating_sub(height);
        self.top = self.top.clamp(lowest, self.chosen).min(self.rows.len().saturating_sub(height));
    }
}

/// Where `wish` leads from `at`, between 0 and `last`.
fn moved(at: usize, wish: Wish, page: usize, last: usize) -> usize {
    let to = match wish {
        Wish::Up => at.saturating_sub(1),
        Wish::Down => at.saturating_add(1),
        Wish::PageUp => at.saturating_sub(page),
        Wish::PageDown => at.saturating_add(page),
        Wish::First => 0,
        Wish::Last => last,
        Wish::Open | Wish::Back => at,
    };
    to.min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: usize) -> Row {
        Row { told: format!("row {number}"), record: number.to_string().into_bytes() }
    }

    /// One with so many decisions, on a screen of four lines.
    fn browser(rows: usize) -> Browser {
        let mut browser = Browser::default();
        browser.fit(4, |_| unreachable!());
        (0..rows).for_each(|number| browser.take(row(number)));
        browser
    }

    /// Nine lines that tell a record.
    fn tell(record: &[u8]) -> String {
        (0..9).map(|line| format!("{} {line}\n", String::from_utf8_lossy(record))).collect()
    }

    fn wish(browser: &mut Browser, wishes: &[Wish]) {
        wishes.iter().for_each(|wish| assert!(browser.wish(*wish, tell)));
    }

    /// The numbers on the screen, and the one that is chosen.
    fn shown(browser: &Browser) -> (Vec<usize>, Option<usize>) {
        let frame = browser.frame();
        assert_eq!(frame.len(), 4);
        let rows = frame[..3].iter().filter(|line| !line.is_empty());
        let rows: Vec<_> = rows.map(|line| (line.starts_with(MARKS[0]), line.rsplit(' ').next().unwrap())).collect();
        let chosen = rows.iter().find(|(is_chosen, _)| *is_chosen).map(|(_, number)| number.parse().unwrap());
        (rows.iter().map(|(_, number)| number.parse().unwrap()).collect(), chosen)
    }

    #[test]
    fn whoever_is_at_the_end_follows_and_others_stay_where_they_are() {
        let mut browser = browser(5);
        assert_eq!(shown(&browser), (vec![2, 3, 4], Some(4)));
        browser.take(row(5));
        assert_eq!(shown(&browser), (vec![3, 4, 5], Some(5)));
        assert!(browser.frame()[3].contains("6 of 6, following"));
        wish(&mut browser, &[Wish::Up]);
        browser.take(row(6));
        assert_eq!(shown(&browser), (vec![3, 4, 5], Some(4)));
        assert!(browser.frame()[3].contains("5 of 7 "));
        wish(&mut browser, &[Wish::Down, Wish::Down, Wish::Down]);
        browser.take(row(7));
        assert_eq!(shown(&browser), (vec![5, 6, 7], Some(7)));
    }

    #[test]
    fn what_is_chosen_is_on_the_screen_and_nobody_leaves_the_list() {
        let mut browser = browser(9);
        for (wishes, rows, chosen) in [
            (&[Wish::First][..], [0, 1, 2], 0),
            (&[Wish::Up, Wish::PageUp], [0, 1, 2], 0),
            (&[Wish::PageDown], [1, 2, 3], 3),
            (&[Wish::Up, Wish::Up], [1, 2, 3], 1),
            (&[Wish::Up], [0, 1, 2], 0),
            (&[Wish::PageDown, Wish::PageDown, Wish::PageDown, Wish::PageDown], [6, 7, 8], 8),
            (&[Wish::PageUp], [5, 6, 7], 5),
            (&[Wish::Last, Wish::Down], [6, 7, 8], 8),
        ] {
            wish(&mut browser, wishes);
            assert_eq!(shown(&browser), (rows.to_vec(), Some(chosen)), "{wishes:?}");
        }
        browser.fit(3, tell);
        assert_eq!(browser.frame().len(), 3);
        assert!(browser.frame()[1].starts_with(MARKS[0]));
        browser.fit(0, tell);
        assert!(browser.frame()[0].ends_with("row 8"));
    }

    #[test]
    fn one_is_shown_whole_until_somebody_goes_back() {
        let mut browser = browser(3);
        wish(&mut browser, &[Wish::Up, Wish::Open]);
        assert_eq!(browser.frame()[..3], ["1 0", "1 1", "1 2"]);
        wish(&mut browser, &[Wish::Down, Wish::Open]);
        browser.take(row(3));
        assert_eq!(browser.frame()[..3], ["1 1", "1 2", "1 3"], "nothing that comes moves it");
        assert!(browser.frame()[3].starts_with("5 lines below"));
        wish(&mut browser, &[Wish::PageDown, Wish::PageDown, Wish::PageDown]);
        assert_eq!(browser.frame()[..3], ["1 6", "1 7", "1 8"]);
        browser.fit(4, |_| "short".into());
        assert_eq!(browser.frame()[..3], ["short", "", ""]);
        wish(&mut browser, &[Wish::Back]);
        assert_eq!(shown(&browser), (vec![0, 1, 2], Some(1)));
        assert!(!browser.wish(Wish::Back, tell));
    }

    #[test]
    fn with_nothing_there_is_nothing_to_open() {
        let mut early = Browser::default();
        (0..3).for_each(|number| early.take(row(number)));
        early.fit(4, tell);
        assert_eq!(shown(&early), (vec![0, 1, 2], Some(2)), "they may come before the screen is known");
        let mut browser = browser(0);
        wish(&mut browser, &[Wish::Down, Wish::Last, Wish::PageUp, Wish::Open]);
        assert_eq!(shown(&browser), (vec![], None));
        assert!(browser.frame()[3].contains("0 of 0"));
        assert!(!browser.wish(Wish::Back, tell), "nothing was opened");
    }

    #[test]
    fn the_oldest_make_room_and_the_choice_stays() {
        let mut browser = browser(ROWS_MAX);
        wish(&mut browser, &[Wish::Up]);
        (0..5).for_each(|number| browser.take(row(ROWS_MAX + number)));
        assert_eq!(browser.rows.len(), ROWS_MAX);
        assert_eq!(shown(&browser).1, Some(ROWS_MAX - 2));
        wish(&mut browser, &[Wish::First]);
        browser.take(row(0));
        assert_eq!(shown(&browser), (vec![6, 7, 8], Some(6)), "it is gone, and the next is the first");
        let large = Row { told: String::new(), record: vec![0; BYTES_MAX] };
        browser.take(large);
        assert_eq!((browser.rows.len(), browser.bytes), (1, BYTES_MAX));
    }
}
