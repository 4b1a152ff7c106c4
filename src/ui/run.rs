//! Runs the full-screen interface: passes events to the model, and carries out its effects.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossterm::event::{Event as TerminalEvent, EventStream, MouseEventKind};
use futures_core::Stream;
use hyper::Method;
use hyper::body::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::IgnoredAny;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};

use super::attach::{ClientSignals, Session, SessionEvent, Typed, attach_uri};
use super::model::{Effect, Event, Model, Settings};
use super::process_list::Selection;
use super::screen::{self, Screen};
use super::user_terminal::UserTerminal;
use crate::control::api::{About, FormationChange, ProcessStatus};
use crate::control::client::{Client, Error, percent_encode};
use crate::keys::detach::DetachKeys;
use crate::keys::filter::KeyFilter;
use crate::logs::format::OWN_NAME;
use crate::plan::formation::ALL;
use crate::plan::scale::{Change, Target};

/// How often the screen is drawn at most, except after a key.
const FRAME_TIME: Duration = Duration::from_millis(50);
/// How much output is read for one frame. What a flood writes beyond that is counted by ganger,
/// and not kept for this client.
const MAX_FRAME_BYTES: usize = 64 << 10;
/// How often the processes are described.
const POLL_TIME: Duration = Duration::from_secs(1);
/// How many pieces of output wait until they are read.
const QUEUED_PIECES: usize = 2;
/// How many of ganger's last messages are printed after its end.
const LAST_MESSAGES: usize = 20;

/// How the screen is shown.
#[derive(Clone, Debug)]
pub struct Options {
    /// The keys that detach from a process.
    pub detach_keys: DetachKeys,
    /// Whether it has colours.
    pub color: bool,
    /// Whether the app ends with the screen.
    pub is_owner: bool,
}

/// Why the screen was left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// The user left it, or the terminal is gone.
    Left,
    /// ganger has ended. Holds its last messages, a line each.
    GangerEnded(String),
}

/// Output that is read as it comes, on a task of its own.
struct LogStream {
    /// The output, or why there is none.
    pieces: mpsc::Receiver<Result<Bytes, Error>>,
    task: JoinHandle<()>,
}

impl LogStream {
    fn start(client: &Arc<Client>, uri: String) -> Self {
        let client = Arc::clone(client);
        let (send, pieces) = mpsc::channel(QUEUED_PIECES);
        let task = tokio::spawn(async move {
            let mut answer = match client.send(Method::GET, &uri, Vec::new()).await {
                Ok(answer) => answer,
                Err(error) => {
                    // The receiver may have left.
                    let _ = send.send(Err(error)).await;
                    return;
                }
            };
            while let Ok(Some(bytes)) = answer.next().await {
                if send.send(Ok(bytes)).await.is_err() {
                    return;
                }
            }
        });
        Self { pieces, task }
    }

    /// The output of a selection: of all, as `start` prints it on a terminal (of unknown width),
    /// with ganger's own messages.
    fn output(client: &Arc<Client>, selection: &Selection, color: bool) -> Self {
        let uri = match selection {
            Selection::All => {
                format!("/logs?follow=true&color={color}&columns=0&names={ALL},{OWN_NAME}")
            }
            Selection::One(name) => {
                format!("/logs?follow=true&format=raw&names={}", percent_encode(name))
            }
        };
        Self::start(client, uri)
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Shows the app on the terminal, until the user leaves or ganger ends.
pub async fn run(client: Client, options: Options) -> anyhow::Result<End> {
    let client = Arc::new(client);
    let about: About = client.ask(Method::GET, "/", Vec::new()).await?;
    let all: Vec<ProcessStatus> = client.ask(Method::GET, "/processes", Vec::new()).await?;
    let settings = Settings { root: about.root, color: options.color, is_owner: options.is_owner };
    let mut signals = Signals::listen()?;
    let mut ui = Ui::new(client, settings, about.pid)?;
    let _ = ui.handle(Event::Processes(all))?;
    let mut poll = interval_at((Instant::now() + POLL_TIME).into(), POLL_TIME);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = ui.next_frame;
        let has_room = ui.room > 0 && ui.output.is_some();
        let event = tokio::select! {
            biased;
            event = next_key(&mut ui.keys) => match event {
                Some(Ok(event)) => ui.on_terminal_event(&event),
                Some(Err(_)) | None => return Ok(End::Left),
            },
            () = signals.next() => return Ok(End::Left),
            Some(event) = ui.answers.1.recv() => Some(event),
            piece = ui.messages.pieces.recv() => match piece {
                Some(Ok(bytes)) => Some(Event::Messages(bytes)),
                None | Some(Err(Error::NotRunning(_) | Error::HasEnded { .. } | Error::ShuttingDown)) => {
                    return Ok(ui.ganger_ended());
                }
                Some(Err(error)) => return Err(error.into()),
            },
            _ = poll.tick() => {
                ui.poll();
                None
            }
            () = sleep_until(frame.into()), if ui.is_changed => {
                ui.draw()?;
                None
            }
            piece = next_piece(&mut ui.output), if has_room => match piece {
                Some(Ok(bytes)) => {
                    ui.room = ui.room.saturating_sub(bytes.len());
                    Some(Event::Output(bytes))
                }
                Some(Err(error)) => Some(Event::Answer(error.to_string())),
                None => {
                    ui.output = None;
                    None
                }
            },
        };
        let Some(event) = event else { continue };
        match ui.handle(event)? {
            Next::Stay => {}
            Next::Leave => return Ok(End::Left),
            Next::Attach(name) => {
                if ui.attach(&name, &options.detach_keys).await? == Next::Leave {
                    return Ok(End::Left);
                }
            }
        }
    }
}

/// What follows an event.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Next {
    /// The screen stays.
    Stay,
    /// The user leaves.
    Leave,
    /// This process gets the terminal.
    Attach(String),
}

/// The signals that end this process.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn listen() -> io::Result<Self> {
        let kinds = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()];
        let [term, hangup, interrupt] = kinds.map(signal);
        Ok(Self([term?, hangup?, interrupt?]))
    }

    async fn next(&mut self) {
        let [term, hangup, interrupt] = &mut self.0;
        tokio::select! {
            _ = term.recv() => {}
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

async fn next_key(keys: &mut Option<EventStream>) -> Option<io::Result<TerminalEvent>> {
    let keys = keys.as_mut()?;
    poll_fn(|context| Pin::new(&mut *keys).poll_next(context)).await
}

async fn next_piece(output: &mut Option<LogStream>) -> Option<Result<Bytes, Error>> {
    match output {
        Some(output) => output.pieces.recv().await,
        None => None,
    }
}

/// The model, and all that it is connected to.
struct Ui {
    client: Arc<Client>,
    /// The process id of ganger.
    pid: u32,
    model: Model,
    screen: Screen,
    /// None while another part reads the keys.
    keys: Option<EventStream>,
    messages: LogStream,
    output: Option<LogStream>,
    answers: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    /// The description of the processes that is under way.
    description: Option<JoinHandle<()>>,
    /// Whether the screen shows an older state.
    is_changed: bool,
    next_frame: Instant,
    /// How much more output is read for this frame.
    room: usize,
}

impl Ui {
    fn new(client: Arc<Client>, settings: Settings, pid: u32) -> anyhow::Result<Self> {
        let messages = format!("/logs?follow=true&format=raw&n={LAST_MESSAGES}&names={OWN_NAME}");
        let mut ui = Self {
            messages: LogStream::start(&client, messages),
            output: Some(LogStream::output(&client, &Selection::All, settings.color)),
            client,
            pid,
            model: Model::new(settings),
            screen: Screen::enter()?,
            keys: Some(EventStream::new()),
            answers: mpsc::unbounded_channel(),
            description: None,
            is_changed: true,
            next_frame: Instant::now(),
            room: MAX_FRAME_BYTES,
        };
        let (columns, rows) = ui.screen.size()?;
        ui.model.update(Instant::now(), Event::Resize { columns, rows });
        Ok(ui)
    }

    fn on_terminal_event(&mut self, event: &TerminalEvent) -> Option<Event> {
        let event = match event {
            TerminalEvent::Key(key) => Event::Key(*key),
            TerminalEvent::Resize(columns, rows) => {
                Event::Resize { columns: *columns, rows: *rows }
            }
            TerminalEvent::Mouse(mouse) => match mouse.kind {
                MouseEventKind::ScrollUp => Event::Wheel { is_up: true },
                MouseEventKind::ScrollDown => Event::Wheel { is_up: false },
                _ => return None,
            },
            TerminalEvent::FocusGained | TerminalEvent::FocusLost | TerminalEvent::Paste(_) => {
                return None;
            }
        };
        // The effect of a key is shown at once.
        self.next_frame = Instant::now();
        Some(event)
    }

    /// Handles an event, and returns what follows.
    fn handle(&mut self, event: Event) -> io::Result<Next> {
        self.is_changed = true;
        for effect in self.model.update(Instant::now(), event) {
            match effect {
                Effect::Post(uri) => self.request(Method::POST, uri, Vec::new()),
                Effect::Scale { kind, is_up } => {
                    let to = if is_up { Target::More(1) } else { Target::Less(1) };
                    let change = FormationChange::new(&[Change { name: kind, to }]);
                    let body = serde_json::to_vec(&change).unwrap_or_default();
                    self.request(Method::PATCH, "/formation".to_owned(), body);
                }
                Effect::Follow(selection) => {
                    let color = self.model.settings.color;
                    self.output = Some(LogStream::output(&self.client, &selection, color));
                }
                Effect::Copy(text) => screen::copy(&text)?,
                Effect::SetMouse(is_on) => self.screen.set_mouse(is_on)?,
                Effect::Suspend => self.suspend()?,
                Effect::Leave => return Ok(Next::Leave),
                Effect::Attach(name) => return Ok(Next::Attach(name)),
                Effect::Quit => {
                    let client = Arc::clone(&self.client);
                    tokio::spawn(async move { drop(client.quit().await) });
                }
                Effect::Kill => {
                    let pid = i32::try_from(self.pid).unwrap_or_default();
                    let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
                }
            }
        }
        Ok(Next::Stay)
    }

    /// Gives the terminal to a process, until the user detaches or it is down for good.
    async fn attach(&mut self, name: &str, keys: &DetachKeys) -> io::Result<Next> {
        let client = Arc::clone(&self.client);
        let connection = match client.attach(&attach_uri(name, false, false)).await {
            Ok(connection) => connection,
            Err(error) => return self.handle(Event::Answer(error.to_string())),
        };
        self.keys = None;
        screen::restore();
        let terminal = UserTerminal::new().map_err(io::Error::other)?;
        let ended = {
            let (mut typed, mut signals) = (Typed::read()?, ClientSignals::listen()?);
            let filter = KeyFilter::new(keys.clone(), false);
            let mut session = Session::begin(&terminal, &client, connection, filter)?;
            session.announce(name, keys);
            loop {
                match session.next(&mut typed, &mut signals).await? {
                    // It would take the terminal from the shell.
                    SessionEvent::Signal(Signal::SIGTSTP) => {}
                    event => break event,
                }
            }
        };
        if matches!(ended, SessionEvent::Signal(_)) {
            return Ok(Next::Leave);
        }
        self.show_again()?;
        Ok(Next::Stay)
    }

    /// Takes the terminal again, which may have another size.
    fn show_again(&mut self) -> io::Result<()> {
        self.screen.resume()?;
        self.keys = Some(EventStream::new());
        let (columns, rows) = self.screen.size()?;
        self.model.update(Instant::now(), Event::Resize { columns, rows });
        self.is_changed = true;
        Ok(())
    }

    /// Sends a request, and shows the error if there is one.
    fn request(&mut self, method: Method, uri: String, body: Vec<u8>) {
        let (client, answers) = (Arc::clone(&self.client), self.answers.0.clone());
        let poll = self.poll_task();
        tokio::spawn(async move {
            let answer: Result<IgnoredAny, Error> = client.ask(method, &uri, body).await;
            if let Err(error) = answer {
                let _ = answers.send(Event::Answer(error.to_string()));
            }
            poll.await;
        });
    }

    /// Has the processes described, unless that is under way.
    fn poll(&mut self) {
        if self.description.as_ref().is_none_or(JoinHandle::is_finished) {
            self.description = Some(tokio::spawn(self.poll_task()));
        }
        if self.output.is_none() {
            let (selection, color) = (&self.model.list.selected, self.model.settings.color);
            self.output = Some(LogStream::output(&self.client, selection, color));
            self.model.clear_output();
        }
    }

    fn poll_task(&self) -> impl Future<Output = ()> + Send + use<> {
        let (client, answers) = (Arc::clone(&self.client), self.answers.0.clone());
        async move {
            let all: Result<Vec<ProcessStatus>, Error> =
                client.ask(Method::GET, "/processes", Vec::new()).await;
            let event = match all {
                Ok(all) => Event::Processes(all),
                // The end is seen elsewhere.
                Err(Error::NotRunning(_) | Error::ShuttingDown) => return,
                Err(error) => Event::Answer(error.to_string()),
            };
            let _ = answers.send(event);
        }
    }

    fn draw(&mut self) -> io::Result<()> {
        self.screen.draw(&self.model)?;
        self.is_changed = false;
        self.next_frame = Instant::now() + FRAME_TIME;
        self.room = MAX_FRAME_BYTES;
        Ok(())
    }

    /// Suspends this process and its guard, as the terminal would.
    fn suspend(&mut self) -> io::Result<()> {
        screen::restore();
        kill(Pid::from_raw(0), Signal::SIGTSTP)?;
        self.show_again()
    }

    /// ganger has ended: its last messages are read.
    fn ganger_ended(&self) -> End {
        let messages = self.model.messages();
        let skipped = messages.len().saturating_sub(LAST_MESSAGES);
        let lines = messages.skip(skipped).flat_map(|line| [line, "\n"]);
        End::GangerEnded(lines.collect())
    }
}
