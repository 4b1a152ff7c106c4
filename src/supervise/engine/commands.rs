//! What the engine is asked for, by signals and by others in this process.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use tokio::time::timeout;

use super::Engine;
use crate::keeper::client::KeeperError;
use crate::keeper::protocol::{Report, Request};
use crate::logs::format::assign_colors;
use crate::plan::Plan;
use crate::supervise::handle::{Command, Snapshot};
use crate::supervise::listeners::Listeners;
use crate::supervise::signals::SignalRequest;
use crate::supervise::supervisor::Event;

/// ganger waits for its processes to be suspended before it is suspended itself.
const SUSPEND_TIMEOUT: Duration = Duration::from_secs(2);

impl Engine {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Snapshot(answer) => {
                let since = Instant::now();
                let processes = self.supervisor.status().collect();
                let colors = self.plan.types().into_iter().map(str::to_owned);
                let colors = colors.zip(self.colors.iter().copied()).collect();
                let (now, ending) = (self.now(), self.supervisor.is_ending());
                // Whoever asked may be gone.
                let _ = answer.send(Snapshot::new(now, processes, ending, colors, since));
            }
            Command::Plan(plan, sockets, pace) => {
                let processes = plan.processes.clone();
                self.apply_plan(*plan, sockets);
                self.handle_event(Event::Plan(processes, pace));
            }
            Command::Restart(names, pace) => self.handle_event(Event::Restart(names, pace)),
            Command::Stop(names) => self.handle_event(Event::Stop(names)),
            Command::Signal(names, signal) => {
                self.signal(signal, |name| names.contains(name));
            }
            Command::Acknowledged(command, done) => {
                self.on_command(*command);
                // At once: this may have been the last thing that the engine does.
                let _ = done.send(());
            }
            Command::Detach(detached) => {
                self.detach_reply = Some(detached);
                self.logs.release_terminal();
            }
            Command::Say(notice) => self.logs.print_message(notice),
            Command::Quit => self.handle_event(Event::Quit),
        }
    }

    /// What is started from now on is shown by this plan.
    fn apply_plan(&mut self, plan: Plan, sockets: Listeners) {
        self.sockets = sockets;
        self.colors = assign_colors(&plan.types(), &self.show.palette);
        let names = plan.processes.iter().map(|process| process.name.as_str());
        // Those that run keep their width; none gets narrower.
        let width = self.show.style.fit_names(names).width.max(self.show.style.width);
        self.show.style.width = width;
        self.plan = plan;
        self.watch();
    }

    pub(super) fn on_signal(&mut self, asked: SignalRequest) {
        match asked {
            SignalRequest::Stop(signal) => self.handle_event(Event::StopSignal(signal)),
            SignalRequest::Forward(signal) => self.signal_all(signal),
            SignalRequest::Status => self.notify_status(),
            SignalRequest::Resume => self.keeper.send_request(Request::Resume, Vec::new()),
            // It takes a while, and is done by the loop itself.
            SignalRequest::Suspend => {}
            SignalRequest::Keeper => self.keeper.handle_sigchld(),
        }
    }

    /// Passes a signal on to all that run.
    fn signal_all(&mut self, signal: Signal) {
        self.signal(signal, |_| true);
    }

    /// Sends a signal to those that run and have such a name.
    fn signal(&mut self, signal: Signal, to: impl Fn(&str) -> bool) {
        for id in self.supervisor.running(to) {
            let request = Request::Signal { id: id.into(), signal: signal as i32 };
            self.keeper.send_request(request, Vec::new());
        }
    }

    /// Suspends all processes, and then ganger. They are in sessions of their own, where
    /// SIGTSTP has no effect.
    pub(super) async fn suspend(&mut self) -> Result<(), KeeperError> {
        self.keeper.send_request(Request::Suspend, Vec::new());
        let mut meanwhile = Vec::new();
        let suspended = timeout(SUSPEND_TIMEOUT, async {
            loop {
                match self.keeper.next_report().await? {
                    Report::Suspended => return Ok(()),
                    other => meanwhile.push(other),
                }
            }
        });
        // A keeper that takes longer does it while ganger is suspended.
        suspended.await.unwrap_or(Ok(()))?;
        let since = Instant::now();
        let _ = raise(Signal::SIGSTOP);
        self.clock.add_pause(since.elapsed());
        for report in meanwhile {
            self.on_reports(report)?;
        }
        Ok(())
    }
}
