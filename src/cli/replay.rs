//! `portcullis replay`: what would change of recorded decisions under other policies.

use std::{
    io::{BufRead, BufReader, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    bad_config, fail,
    terminal::{Screen, Tone, show},
};
use crate::{
    authoring::replay::{Change, Counts, Replay, Tally},
    base::spanned::Spanned,
    config,
    entities::hiding::Reading,
    policy::{shadow::ShadowConfig, stores::DEFAULT},
};

/// Policies, routes and agents that are listed.
const LISTED_MAX: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The configuration file.
    #[arg(long, default_value = "config.yaml", env = "PORTCULLIS_CONFIG")]
    config: PathBuf,
    /// A log of decision records that hold questions (`records: { questions: true }`); `-` for standard input.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The folder with the policies to decide by. The schema is that of the configuration.
    #[arg(long, value_name = "FOLDER")]
    policies: PathBuf,
    /// The store that they would take the place of.
    #[arg(long, default_value = DEFAULT)]
    store: String,
    /// Fail where anything that was denied would be allowed, and where it cannot be told.
    #[arg(long)]
    forbid_widening: bool,
    /// Tell it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let folder = match std::path::absolute(&options.policies) {
        Ok(folder) => folder,
        Err(error) => return fail(&format!("portcullis: `{}`: {error}\n", options.policies.display())),
    };
    let compiled = config::load(&options.config).and_then(|mut loaded| {
        loaded.config.shadow = Some(ShadowConfig {
            policies: Spanned::nowhere(folder),
            store: Some(Spanned::nowhere(options.store.clone())),
            decisions_per_second_max: None,
        });
        loaded.compile()
    });
    let compiled = compiled.and_then(|compiled| match compiled.candidate_problems.0.is_empty() {
        true => Ok(compiled.blueprint),
        false => Err(compiled.candidate_problems),
    });
    let blueprint = match compiled {
        Ok(blueprint) => blueprint,
        Err(problems) => return bad_config(&options.config, &problems),
    };
    let Some(candidate) = blueprint.candidate else { return fail("portcullis: no policies\n") };
    let pseudonyms = blueprint.records.recording.pseudonyms.as_ref();
    let literals = candidate.policies.literals();
    let reading = pseudonyms.map_or_else(Reading::default, |it| Reading::new(it, &literals));
    let replay = Replay::new(&candidate.policies, &options.store, reading);
    match decide_again(&replay, &options.log) {
        Ok(tally) => told(options, &tally),
        Err(error) => fail(&format!("portcullis: {error}\n")),
    }
}

fn decide_again(replay: &Replay<'_>, path: &Path) -> Result<Tally, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if path == Path::new("-") {
        return replay.run(std::io::stdin().lock(), threads, |_| {});
    }
    let failed = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(size) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {binary_bytes_per_sec}  {eta} left") {
        bar.set_style(style);
    }
    let log: Box<dyn BufRead> = Box::new(BufReader::with_capacity(1 << 20, file));
    let tally = replay.run(log, threads, |bytes| bar.inc(u64::try_from(bytes).unwrap_or_default()));
    bar.finish_and_clear();
    tally
}

fn told(options: &Options, tally: &Tally) -> ExitCode {
    let screen = Screen::new();
    if options.json {
        show(&format!("{}\n", serde_json::to_string_pretty(tally).unwrap_or_default()));
    } else {
        show(&text(&screen, tally));
    }
    if tally.records == 0 {
        return fail("portcullis: the log holds no record\n");
    }
    let unjudged = tally.unjudged();
    match (options.forbid_widening, tally.of(Change::Wider)) {
        (false, _) => ExitCode::SUCCESS,
        (true, wider @ 1..) => fail(&format!("portcullis: {wider} decisions would be wider\n")),
        (true, 0) if unjudged > 0 => fail(&format!("portcullis: of {unjudged} decisions nobody can tell\n")),
        (true, 0) if tally.replayed == 0 => fail("portcullis: no decision was made again, so nothing is shown\n"),
        (true, 0) => ExitCode::SUCCESS,
    }
}

fn text(screen: &Screen, tally: &Tally) -> String {
    let mut text = format!(
        "{} records: {} decided again, {} refused before the policies were asked, {} of other stores\n",
        tally.records, tally.replayed, tally.before_policies, tally.other_stores
    );
    text += &format!("  {:>8}  the same\n", tally.same);
    for (change, tone, said) in [
        (Change::Wider, Tone::Bad, "denied, would be allowed"),
        (Change::Narrower, Tone::Warn, "allowed, would be denied"),
        (Change::Policies, Tone::Faint, "the same, by other policies"),
    ] {
        let count = tally.of(change);
        let line = format!("{count:>8}  {said}");
        text += &format!("  {}\n", if count == 0 { line } else { screen.paint(tone, &line) });
    }
    for (count, why) in [
        (tally.without_question, "hold no question: nobody can tell"),
        (tally.other_keys, "hold pseudonyms of a key that is not known here: nobody can tell"),
        (tally.unfaithful, "need what stands under a pseudonym: nobody can tell"),
        (tally.unreadable, "lines cannot be read: nobody can tell"),
        (tally.dropped, "could not be written when they were made: nobody can tell"),
    ] {
        if count > 0 {
            text += &format!("  {}\n", screen.paint(Tone::Warn, &format!("{count:>8}  {why}")));
        }
    }
    let needed = tally.needed.iter().map(|(place, times)| format!("{place}: {times}"));
    let unreadable = tally.first_unreadable.iter().map(|(number, why)| format!("line {number}: {why}"));
    text.extend(needed.chain(unreadable).map(|line| screen.wrapped("            ", &line)));
    for (title, counts) in [("policy", &tally.by_policy), ("route", &tally.by_route), ("agent", &tally.by_agent)] {
        text += &table(screen, title, counts);
    }
    if !tally.samples.is_empty() {
        text += &format!("\n{}\n", screen.paint(Tone::Strong, "Samples"));
    }
    for sample in &tally.samples {
        let who = sample.agent.as_deref().unwrap_or("nobody");
        let user = sample.user.as_ref().map_or_else(String::new, |user| format!(" for {user}"));
        let ids = |ids: &[String]| if ids.is_empty() { "nothing".to_owned() } else { ids.join(", ") };
        let line = format!(
            "{} {} by {who}{user}: {} → {}",
            sample.decision_id,
            sample.request,
            ids(&sample.before),
            ids(&sample.after)
        );
        text += &screen.wrapped(&format!("  {:<9} ", name(sample.change)), &line);
    }
    text
}

fn table(screen: &Screen, title: &str, counts: &Counts) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let mut rows: Vec<_> = counts.iter().collect();
    rows.sort_by_key(|(_, changes)| std::cmp::Reverse(changes.values().sum::<usize>()));
    let mut text = format!("\n{}\n", screen.paint(Tone::Strong, &format!("By {title}")));
    for (named, changes) in rows.iter().take(LISTED_MAX) {
        let changes: Vec<_> = changes.iter().map(|(change, times)| format!("{times} {}", name(*change))).collect();
        text += &screen.wrapped("  ", &format!("{named}: {}", changes.join(", ")));
    }
    if let Some(more) = rows.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        text += &format!("  … and {more} more; `--json` tells all\n");
    }
    text
}

const fn name(change: Change) -> &'static str {
    match change {
        Change::Wider => "wider",
        Change::Narrower => "narrower",
        Change::Policies => "policies",
    }
}
