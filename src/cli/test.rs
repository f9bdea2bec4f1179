//! `portcullis test`: scenarios, and what they exercise.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use super::{
    EXIT_CONFIG, bad_config, fail,
    terminal::{Screen, Tone, show},
};
use crate::{
    authoring::{coverage::Coverage, markup, rehearsal::Stage, retold, scenario::Played, scenario::ScenarioFile},
    base::problem::{Problem, Problems, Source},
    config,
};

/// Gaps of coverage that are listed.
const GAPS_SHOWN: usize = 40;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The configuration file.
    #[arg(long, default_value = "config.yaml", env = "PORTCULLIS_CONFIG")]
    config: PathBuf,
    /// Files of scenarios. Default: `scenarios.yaml` and `scenarios/*.yaml` beside the configuration.
    files: Vec<PathBuf>,
    /// Write results as JUnit's XML to this file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write a page that shows the coverage to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Fail where less than this is exercised.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage_min: Option<u8>,
    /// Turn decision records (a file of JSON lines, `-` for standard input) into scenarios on standard output.
    #[arg(long, value_name = "LOG", conflicts_with_all = ["files", "junit", "html", "coverage_min"])]
    record: Option<PathBuf>,
}

pub(super) async fn run(options: Options) -> ExitCode {
    match &options.record {
        Some(log) => record(log),
        None => play(&options).await,
    }
}

async fn play(options: &Options) -> ExitCode {
    let stage = match config::load(&options.config).and_then(Stage::new) {
        Ok(stage) => stage,
        Err(problems) => return bad_config(&options.config, &problems),
    };
    let files = match scenario_files(options) {
        Ok(files) => files,
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let mut read = Vec::with_capacity(files.len());
    let mut problems = Problems::default();
    for path in &files {
        read.extend(problems.keep(read_scenarios(path)).map(|file| (path.display().to_string(), file)));
    }
    if !problems.0.is_empty() {
        fail(&problems.to_string());
        return ExitCode::from(EXIT_CONFIG);
    }
    let (screen, mut coverage, mut results) = (Screen::new(), Coverage::of(stage.blueprint()), Vec::new());
    for (name, file) in read {
        let played = file.play(&stage, &mut coverage).await;
        show(&told(&screen, &name, &played));
        results.push((name, played));
    }
    let failed = results.iter().flat_map(|(_, played)| played).filter(|it| !it.differences.is_empty()).count();
    let all = results.iter().map(|(_, played)| played.len()).sum();
    show(&summary(&screen, all, failed, &coverage));
    let pages = [(&options.junit, markup::junit(&results)), (&options.html, markup::page(&coverage))];
    for (path, text) in pages {
        if let Some(path) = path
            && let Err(error) = std::fs::write(path, text)
        {
            return fail(&format!("portcullis: cannot write `{}`: {error}\n", path.display()));
        }
    }
    let covered = coverage.whole().percent();
    if let Some(least) = options.coverage_min.filter(|least| covered < usize::from(*least)) {
        return fail(&format!("portcullis: {covered} % is exercised, and {least} % must be\n"));
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The files to run: those named, or those beside the configuration.
fn scenario_files(options: &Options) -> Result<Vec<PathBuf>, String> {
    if !options.files.is_empty() {
        return Ok(options.files.clone());
    }
    let folder = options.config.parent().unwrap_or(Path::new(""));
    let mut files = Vec::new();
    let one = folder.join("scenarios.yaml");
    if one.exists() {
        files.push(one);
    }
    if let Ok(entries) = std::fs::read_dir(folder.join("scenarios")) {
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        files.extend(paths.filter(|path| path.extension().is_some_and(|it| it == "yaml" || it == "yml")));
    }
    files.sort();
    if files.is_empty() {
        return Err(format!(
            "no scenarios: name files of them, or write `{}`",
            folder.join("scenarios.yaml").display()
        ));
    }
    Ok(files)
}

fn read_scenarios(path: &Path) -> Result<ScenarioFile, Problems> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| Problem::new(format!("cannot read `{name}`: {error}")))?;
    ScenarioFile::parse(&Arc::new(Source { name, text }))
}

fn told(screen: &Screen, file: &str, played: &[Played]) -> String {
    let mut text = format!("{}\n", screen.paint(Tone::Strong, file));
    for it in played {
        if it.differences.is_empty() {
            text += &screen.wrapped(&format!("  {} ", screen.paint(Tone::Good, "✓")), &it.name);
            continue;
        }
        text += &screen.wrapped(&format!("  {} ", screen.paint(Tone::Bad, "✗")), &it.name);
        for difference in &it.differences {
            text += &screen.wrapped("      ", difference);
        }
        for hint in &it.hints {
            text += &screen.wrapped(&format!("      {} ", screen.paint(Tone::Faint, "why:")), hint);
        }
    }
    text
}

fn summary(screen: &Screen, all: usize, failed: usize, coverage: &Coverage) -> String {
    let tone = if failed == 0 { Tone::Good } else { Tone::Bad };
    let noun = if all == 1 { "scenario" } else { "scenarios" };
    let mut text = format!("\n{}\n", screen.paint(tone, &format!("{all} {noun}, {failed} failed")));
    text += &format!(
        "coverage {} %: policies {}, routes {}, branches of conditions {}\n",
        coverage.whole().percent(),
        coverage.of_policies(),
        coverage.of_routes(),
        coverage.of_branches()
    );
    let gaps = coverage.gaps();
    for gap in gaps.iter().take(GAPS_SHOWN) {
        text += &screen.wrapped(&format!("  {} ", screen.paint(Tone::Warn, "-")), gap);
    }
    if let Some(more) = gaps.len().checked_sub(GAPS_SHOWN).filter(|more| *more > 0) {
        text += &format!("  … and {more} more; `--html` shows all\n");
    }
    text
}

fn record(log: &Path) -> ExitCode {
    let lines: Box<dyn BufRead> = if log == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        match std::fs::File::open(log) {
            Ok(file) => Box::new(BufReader::new(file)),
            Err(error) => return fail(&format!("portcullis: cannot read `{}`: {error}\n", log.display())),
        }
    };
    match retold::scenarios(lines, &mut std::io::stdout().lock()) {
        Ok(told) => {
            fail(&format!("portcullis: {told}\n"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("portcullis: {error}\n")),
    }
}
