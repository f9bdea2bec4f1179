//! `portcullis tail`: decisions as they are made, a line each.

use std::{
    collections::VecDeque,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{
    bad_config,
    browse::{Browser, Row},
    browsing::{self, Canvas, Pressed},
    explain::of_line,
    explained::told,
    fail,
    follow::Followed,
    terminal::{Screen, Tone, escaped, tame},
    whole::whole,
};
use crate::{
    authoring::recorded::{self, Line, RecordLine},
    config,
    snapshot::Blueprint,
};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Lines that are read before somebody who looks through them is heard again.
const LINES_AT_ONCE: usize = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The file of records, which is followed; `-` for standard input, which is read to its end.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Decisions of the past that are shown first, of a file.
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
    /// Only those of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Only those for this user.
    #[arg(long)]
    user: Option<String>,
    /// Only those of routes in whose methods and template this occurs.
    #[arg(long)]
    route: Option<String>,
    /// Only those that ended so.
    #[arg(long, value_parser = ["allow", "deny", "abandoned"])]
    outcome: Option<String>,
    /// Only those with this code.
    #[arg(long)]
    code: Option<String>,
    /// Show the records as they are.
    #[arg(long)]
    json: bool,
    /// Below each denial, and in what is shown whole, tell why, as `explain` does.
    #[arg(long, conflicts_with = "json")]
    explain: bool,
    /// The configuration file, for `--explain`.
    #[arg(long, default_value = "config.yaml", env = "PORTCULLIS_CONFIG")]
    config: PathBuf,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let compiled = options.explain.then(|| config::load(&options.config).and_then(|loaded| loaded.compile()));
    let blueprint = match compiled.transpose() {
        Ok(compiled) => compiled.map(|compiled| compiled.blueprint),
        Err(problems) => return bad_config(&options.config, &problems),
    };
    let mut tail = Tail { options, screen: Screen::new(), blueprint, out: io::stdout() };
    let shown = if options.file == Path::new("-") { tail.input() } else { tail.file() };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever looked has gone.
        Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Read(error)) => fail(&format!("portcullis: {}: {}\n", options.file.display(), tame(&error))),
    }
}

enum Failure {
    /// What is shown goes nowhere.
    Closed,
    /// Records cannot be read.
    Read(String),
}

fn unread(error: impl Into<Box<dyn std::error::Error>>) -> Failure {
    Failure::Read(error.into().to_string())
}

struct Tail<'a> {
    options: &'a Options,
    screen: Screen,
    blueprint: Option<Blueprint>,
    out: io::Stdout,
}

impl Tail<'_> {
    fn input(&mut self) -> Result<(), Failure> {
        let (mut input, mut line) = (io::stdin().lock(), Vec::new());
        loop {
            match recorded::next_line(&mut input, &mut line).map_err(unread)? {
                Line::End => return Ok(()),
                Line::TooLong => {}
                Line::Read => self.show(self.shown(&line))?,
            }
        }
    }

    fn file(&mut self) -> Result<(), Failure> {
        let mut file = Followed::open(self.options.file.clone()).map_err(unread)?;
        let mut past = VecDeque::new();
        while let Some(line) = file.next().map_err(unread)? {
            past.extend(self.matching(&line).map(|record| (line, record)));
            if past.len() > self.options.lines {
                past.pop_front();
            }
        }
        if !self.options.json && browsing::is_possible() {
            return self.browse(file, past);
        }
        for (line, record) in past {
            self.show(Some(self.told(&line, &record)))?;
        }
        loop {
            match file.next().map_err(unread)? {
                Some(line) => self.show(self.shown(&line))?,
                None => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Lets somebody at a terminal look through decisions while more come.
    fn browse(&mut self, mut file: Followed, past: VecDeque<(Vec<u8>, RecordLine)>) -> Result<(), Failure> {
        let closed = |_| Failure::Closed;
        let canvas = Canvas::take().map_err(closed)?;
        let (mut browser, mut size, mut drawn, mut failed) = (Browser::default(), (0, 0), Vec::new(), None);
        let row = |tail: &Self, record: Vec<u8>, read: &RecordLine| Row { told: tail.line(read), record };
        past.into_iter().for_each(|(line, record)| browser.take(row(&*self, line, &record)));
        canvas.listen();
        loop {
            let mut read = 0;
            while read < LINES_AT_ONCE && failed.is_none() {
                match file.next() {
                    Ok(Some(line)) => {
                        if let Some(record) = self.matching(&line) {
                            browser.take(row(&*self, line, &record));
                        }
                        read = read.saturating_add(1);
                    }
                    Ok(None) => break,
                    Err(error) => failed = Some(error),
                }
            }
            if canvas.size() != size {
                (size, self.screen, drawn) = (canvas.size(), Screen::new(), Vec::new());
                browser.fit(size.1, |record| self.whole(record));
            }
            let mut lines = browser.frame();
            if let (Some(error), Some(last)) = (&failed, lines.last_mut()) {
                *last = self.screen.paint(Tone::Bad, &format!("the file cannot be read: {error}"));
            }
            if lines != drawn {
                canvas.draw(&lines).map_err(closed)?;
                drawn = lines;
            }
            let patience = if read < LINES_AT_ONCE { LOOK_EVERY } else { Duration::ZERO };
            let goes_on = match canvas.pressed(patience).map_err(closed)? {
                None => continue,
                Some(Pressed::Leave) => false,
                Some(Pressed::Wish(wish)) => browser.wish(wish, |record| self.whole(record)),
                Some(Pressed::Other) => true,
            };
            if !goes_on {
                return failed.map_or(Ok(()), |error| Err(unread(error)));
            }
            canvas.listen();
        }
    }

    /// All that is known of a decision: its record, and why it was so, where that is asked for.
    fn whole(&self, line: &[u8]) -> String {
        let account = serde_json::from_slice(line).ok().and_then(|record| self.account(&record));
        whole(&self.screen, line) + &account.map(|account| format!("\n{account}")).unwrap_or_default()
    }

    fn show(&mut self, text: Option<String>) -> Result<(), Failure> {
        let Some(text) = text else { return Ok(()) };
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(|_| Failure::Closed)
    }

    fn shown(&self, line: &[u8]) -> Option<String> {
        self.matching(line).map(|record| self.told(line, &record))
    }

    /// The record in `line`, where that is to be shown. Lines of a chain are none.
    fn matching(&self, line: &[u8]) -> Option<RecordLine> {
        let record: RecordLine = serde_json::from_slice(line).ok()?;
        let Options { agent, user, route, outcome, code, .. } = self.options;
        let is =
            |wanted: &Option<String>, value: Option<&str>| wanted.as_deref().is_none_or(|wanted| value == Some(wanted));
        let is_of_route = |wanted: &String| record.route.as_ref().is_some_and(|route| route.contains(wanted.as_str()));
        let matches = is(agent, record.agent.as_deref())
            && is(user, record.user.as_deref())
            && is(outcome, Some(&record.decision))
            && is(code, Some(&record.code))
            && route.as_ref().is_none_or(is_of_route);
        matches.then_some(record)
    }

    fn told(&self, line: &[u8], record: &RecordLine) -> String {
        if self.options.json {
            return format!("{}\n", escaped(String::from_utf8_lossy(line).trim_end()));
        }
        let text = self.screen.cut(&self.line(record));
        let account =
            Some(record).filter(|it| it.decision == "deny").and_then(|it| self.account(it)).unwrap_or_default();
        let indented = account.lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n");
        format!("{text}\n{}", indented.collect::<String>())
    }

    /// Why it was decided so, where a configuration is there to tell.
    fn account(&self, record: &RecordLine) -> Option<String> {
        self.blueprint.as_ref().map(|blueprint| match of_line(blueprint, record) {
            Ok(account) => told(&self.screen, &account),
            Err(why) => self.screen.wrapped("", &why),
        })
    }

    fn line(&self, record: &RecordLine) -> String {
        let tone = match record.decision.as_str() {
            "allow" => Tone::Good,
            "deny" => Tone::Bad,
            _ => Tone::Warn,
        };
        let time = record.time.split_once('T').map_or(&*record.time, |(_, time)| time).trim_end_matches('Z');
        let who = match (&record.agent, &record.user) {
            (Some(agent), Some(user)) => format!("{agent} for {user}"),
            (agent, user) => agent.iter().chain(user).cloned().collect(),
        };
        [
            self.screen.paint(Tone::Faint, &format!("{time} {}", record.decision_id)),
            self.screen.paint(tone, &format!("{:9} {:3} {}", record.decision, record.status, record.code)),
            self.screen.paint(Tone::Strong, &format!("{} {}", record.method, record.path)),
            self.screen.paint(Tone::Plain, &who),
            self.screen.paint(Tone::Faint, &record.policies.join(" ")),
        ]
        .join(" ")
        .trim_end()
        .to_owned()
    }
}
