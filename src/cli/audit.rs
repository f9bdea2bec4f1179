//! `portcullis audit verify`: whether recorded decisions are those that were recorded.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;

use super::{fail, say};
use crate::{audit::chain::Reader, base::signing::PublicKey};

/// What is to be done with records.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Find any line that was changed, dropped, added or moved in files of records that are linked (`records.file.chain`).
    Verify(Options),
}

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The public key that goes with `records.file.signing_key`, in PEM. Without it signatures say nothing, and whoever could
    /// write the files could have made all of them anew.
    #[arg(long)]
    key: Option<PathBuf>,
    /// The files, the oldest first.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Something is not as it was recorded.
const EXIT_TAMPERED: u8 = 1;

pub(super) fn run(command: &Command) -> ExitCode {
    let Command::Verify(options) = command;
    let verifier = match options.key.as_ref().map(|path| verifier(path)).transpose() {
        Ok(verifier) => verifier,
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let mut reader = Reader::new(verifier.as_ref());
    for path in &options.files {
        match read(path, &mut reader) {
            Ok(None) => {}
            Ok(Some(fault)) => {
                say(&mut io::stdout(), &format!("{}{fault}\n", path.display()));
                return ExitCode::from(EXIT_TAMPERED);
            }
            Err(error) => return fail(&format!("portcullis: {}: {error}\n", path.display())),
        }
    }
    if let Err(fault) = reader.end() {
        say(&mut io::stdout(), &format!("the last line: {fault}\n"));
        return ExitCode::from(EXIT_TAMPERED);
    }
    let (account, chain) = (reader.account(), reader.chain());
    let Some(chain) = chain else { return fail("portcullis: the files hold nothing\n") };
    let unsigned = match (&verifier, account.signatures) {
        (None, _) => "; signatures were not looked at".to_owned(),
        (Some(_), 0) => "; none of it is signed".to_owned(),
        (Some(_), _) => {
            format!("; {} lines since the last of {} signatures", account.since_signature, account.signatures)
        }
    };
    let dropped = if account.dropped > 0 { format!(", {} more were dropped", account.dropped) } else { String::new() };
    let told = format!("whole: {} records up to line {} of the chain{dropped}{unsigned}\n", account.records, chain.seq);
    say(&mut io::stdout(), &told);
    ExitCode::SUCCESS
}

fn verifier(path: &Path) -> Result<PublicKey, String> {
    let pem = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    PublicKey::of(&pem).ok_or_else(|| format!("{}: not a public key of Ed25519 or P-256 in PEM", path.display()))
}

/// What is wrong with a file, and where.
fn read(path: &Path, reader: &mut Reader<'_>) -> io::Result<Option<String>> {
    if let Err(fault) = reader.begin_file() {
        return Ok(Some(format!(": the file before it: {fault}")));
    }
    let (mut file, mut line) = (BufReader::new(File::open(path)?), Vec::new());
    for number in 1_u64.. {
        line.clear();
        let read = file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if let Err(fault) = reader.line(&line) {
            return Ok(Some(format!(":{number}: {fault}")));
        }
    }
    Ok(None)
}
