//! The terminal: three threads that wait (keys, signals, looks), one that applies what comes and draws.
//!
//! Invariant: the terminal is given back however this ends: by a key, a signal, an error, a panic of any thread. A
//! daemon that does not answer never keeps a key waiting. Rejected: an async event loop: there are three sources, and
//! each has a call that blocks.

use super::board::{After, Board};
use super::cells::Paint;
use super::draw;
use super::look::Look;
use crate::api::client::{CallError, Client};
use anyhow::Context;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What can happen.
#[derive(Debug)]
enum Input {
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    Looked(Box<Result<Look, CallError>>),
    /// A signal, or a thread that is no more.
    Ended,
}

/// Says that its thread has ended, also by a panic.
struct Ends(Sender<Input>);

impl Drop for Ends {
    fn drop(&mut self) {
        // Nobody listens when the board has ended first.
        let _ = self.0.send(Input::Ended);
    }
}

/// The terminal in raw mode, on its other screen, until it is dropped. ratatui's panic hook does it before a message.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        ratatui::try_init()
            .map(Self)
            .context("the terminal cannot be used; `vmpath top --once` prints plain text")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = self.0.show_cursor();
        let _ = ratatui::try_restore();
    }
}

pub(super) fn run(client: Client, interval: Duration) -> anyhow::Result<ExitCode> {
    let (sender, inputs) = mpsc::channel();
    let mut screen = Screen::open()?;
    spawn(&sender, keys);
    spawn(&sender, signals);
    spawn(&sender, move |sender| looks(&client, interval, sender));
    watch(&mut screen.0, &inputs)?;
    Ok(ExitCode::SUCCESS)
}

/// They end with the process: a blocked read of keys cannot be called off.
fn spawn(sender: &Sender<Input>, work: impl FnOnce(&Sender<Input>) + Send + 'static) {
    let ends = Ends(sender.clone());
    thread::spawn(move || work(&ends.0));
}

fn watch(terminal: &mut DefaultTerminal, inputs: &Receiver<Input>) -> anyhow::Result<()> {
    let (mut board, paint) = (Board::default(), Paint::of_environment());
    loop {
        terminal
            .draw(|frame| draw::live(&mut board, paint, frame.area(), frame.buffer_mut()))
            .context("cannot write to the terminal")?;
        let Ok(first) = inputs.recv() else { return Ok(()) };
        // Everything that has come, then one frame: a key held down draws no backlog.
        for input in std::iter::once(first).chain(inputs.try_iter()) {
            match input {
                Input::Key(key) if board.key(key) == After::Quit => return Ok(()),
                Input::Key(_) | Input::Resized => {}
                Input::Looked(look) => board.looked(*look),
                Input::Ended => return Ok(()),
            }
        }
    }
}

fn keys(sender: &Sender<Input>) {
    while let Ok(event) = event::read() {
        let input = match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => Input::Key(key),
            Event::Resize(..) => Input::Resized,
            Event::Key(_) | Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_) => {
                continue;
            }
        };
        if sender.send(input).is_err() {
            return;
        }
    }
}

fn looks(client: &Client, interval: Duration, sender: &Sender<Input>) {
    while sender.send(Input::Looked(Box::new(Look::take(client)))).is_ok() {
        thread::sleep(interval);
    }
}

/// Returns when the process is told to end. (Ctrl-C is a key here.)
fn signals(_: &Sender<Input>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let told = |kind| async move {
            match signal(kind) {
                Ok(mut signal) => drop(signal.recv().await),
                // The others still work.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = told(SignalKind::terminate()) => {}
            () = told(SignalKind::hangup()) => {}
            () = told(SignalKind::interrupt()) => {}
        }
    });
}
