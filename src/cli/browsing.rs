//! A terminal with somebody in front of it: what is pressed, and what is drawn.

use std::{
    cell::Cell,
    env,
    io::{self, IsTerminal},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use console::{Key, Term};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use super::browse::Wish;

/// To a screen of its own without a cursor (xterm's control sequences).
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";

/// Back to what was there before.
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// To the first line.
const HOME: &str = "\u{1b}[H";

/// Without what stood on the line.
const ERASE: &str = "\u{1b}[2K";

/// How often it is looked whether the terminal has become raw, a millisecond apart.
const LOOKS_MAX: usize = 1000;

/// Whether there is somebody, and a terminal that can be drawn on.
pub(super) fn is_possible() -> bool {
    let can_draw = env::var("TERM").is_ok_and(|term| !matches!(&*term, "" | "dumb"));
    can_draw && io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The terminal, which is given back as it was.
#[derive(Debug)]
pub(super) struct Canvas {
    term: Term,
    /// How it was.
    before: Termios,
    heard: Receiver<Heard>,
    tell: Sender<Heard>,
    /// Whether a key is listened for.
    listening: Cell<bool>,
}

/// What is heard.
#[derive(Debug)]
enum Heard {
    /// From whoever is there.
    Key(io::Result<Key>),
    /// From whoever ends the program from elsewhere.
    End,
}

/// What somebody presses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressed {
    /// For this.
    Wish(Wish),
    /// To leave, wherever they are.
    Leave,
    /// What means nothing.
    Other,
}

impl Canvas {
    /// Takes the terminal.
    pub(super) fn take() -> io::Result<Self> {
        let (tell, heard) = channel();
        let canvas =
            Self { term: Term::stdout(), before: tcgetattr(io::stdin())?, heard, tell, listening: Cell::new(false) };
        canvas.heed_signals()?;
        canvas.term.write_str(ENTER)?;
        Ok(canvas)
    }

    /// Takes whoever ends the program from elsewhere for somebody who leaves.
    fn heed_signals(&self) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let entered = runtime.enter();
        let mut hangup = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        drop(entered);
        let tell = self.tell.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = hangup.recv() => {}, _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            });
            tell.send(Heard::End)
        });
        Ok(())
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        let (lines, columns) = self.term.size();
        (columns.into(), lines.into())
    }

    /// Shows these lines, each cut where the terminal would break it.
    pub(super) fn draw(&self, lines: &[String]) -> io::Result<()> {
        let (columns, height) = self.size();
        let lines = lines.iter().take(height);
        let lines: Vec<_> = lines.map(|line| format!("{ERASE}{}", console::truncate_str(line, columns, "…"))).collect();
        self.term.write_str(&format!("{HOME}{}", lines.join("\n")))
    }

    /// Listens for one key. Only then are keys not shown as they are pressed: whoever leaves listens no more.
    pub(super) fn listen(&self) {
        let tell = self.tell.clone();
        self.listening.set(true);
        thread::spawn(move || tell.send(Heard::Key(Term::stdout().read_key_raw())));
    }

    /// What is pressed within `patience`, if anything is.
    pub(super) fn pressed(&self, patience: Duration) -> io::Result<Option<Pressed>> {
        match self.heard.recv_timeout(patience) {
            Ok(Heard::Key(key)) => {
                self.listening.set(false);
                key.map(|key| Some(meaning(&key)))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Ok(Heard::End) | Err(RecvTimeoutError::Disconnected) => Ok(Some(Pressed::Leave)),
        }
    }
}

impl Drop for Canvas {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to give back.
        let _ = self.term.write_str(LEAVE);
        // Whoever listens makes it raw, if not yet, then in a moment: before that it would be given back in vain.
        let is_raw = || tcgetattr(io::stdin()).is_ok_and(|now| !now.local_flags.contains(LocalFlags::ICANON));
        for _ in 0..LOOKS_MAX {
            if !self.listening.get() || is_raw() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

const fn meaning(key: &Key) -> Pressed {
    Pressed::Wish(match key {
        Key::CtrlC => return Pressed::Leave,
        Key::ArrowUp | Key::Char('k') => Wish::Up,
        Key::ArrowDown | Key::Char('j') => Wish::Down,
        Key::PageUp | Key::Char('b') => Wish::PageUp,
        Key::PageDown | Key::Char(' ') => Wish::PageDown,
        Key::Home | Key::Char('g') => Wish::First,
        Key::End | Key::Char('G') => Wish::Last,
        Key::Enter => Wish::Open,
        Key::Escape | Key::Char('q') => Wish::Back,
        _ => return Pressed::Other,
    })
}
