//! Drives the supervisor and the real keeper through random histories of exits,
//! kills and new plans, without the rest of ganger, and compares what the
//! supervisor believes with `/proc` after each step.
//!
//! `histories SEED HISTORIES STEPS`
#![allow(clippy::unwrap_used, reason = "a history that can't go on fails")]

#[path = "../random.rs"]
mod random;
mod system;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::time::{Duration, Instant};

use ganger::exit::Exit;
use ganger::keeper;
use ganger::keeper::client::Keeper;
use ganger::keeper::protocol::{Report, Request, Scope, SpawnRequest, Stdin};
use ganger::keeper::start;
use ganger::plan::sources::{EnvFiles, SourceFile, Sources};
use ganger::plan::{Options, Plan, shell};
use ganger::supervise::supervisor::{Action, Event, RestartMode, State, Status, Supervisor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use random::Random;

fn main() {
    if keeper::is_keeper() {
        keeper::run().unwrap();
        return;
    }
    let numbers: Vec<u64> = std::env::args().skip(1).map(|arg| arg.parse().unwrap()).collect();
    let &[seed, histories, steps] = numbers.as_slice() else {
        panic!("expected `histories SEED HISTORIES STEPS`");
    };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut done = Done::default();
    for history in 0..histories {
        // Said if it fails.
        eprintln!("history {}", seed + history);
        runtime().block_on(World::new(seed + history).live(steps, &mut done));
    }
    let Done { plans, kills, compared } = done;
    println!("{histories} histories: {plans} plans, {kills} kills, {compared} comparisons");
}

/// What has been tried.
#[derive(Default)]
struct Done {
    plans: u64,
    kills: u64,
    compared: u64,
}

/// How all of them are kept: `a` comes back, `b` when it fails, `c` never, and has
/// a descendant that outlives it; `d` ends everything.
const CONFIG: &str = "
[process.a]
on_exit = 'restart'
backoff = { min = '1ms', max = '2ms' }
[process.b]
on_exit = 'restart-on-failure'
backoff = { min = '1ms', max = '2ms', give_up_after = 3 }
[process.c]
on_exit = 'ignore'
grace = '1s'
";

/// The plan for so many of each, of this edition of the Procfile.
fn plan(counts: [u64; 4], edition: u64) -> Plan {
    let text = |name: &str, text: String| SourceFile { name: name.into(), bytes: text.into() };
    let sleep = format!("sleep 1000.{edition}");
    let procfile = format!("a: {sleep}\nb: sleep 1000\nc: {sleep} & exec {sleep}\nd: sleep 1000\n");
    let sources = Sources {
        root: "/".into(),
        procfile: text("Procfile", procfile),
        config: Some(text("ganger.toml", CONFIG.into())),
        env: EnvFiles::Named(Vec::new()),
        procfile_is_default: true,
        unread_env: None,
        other_runner_files: Vec::new(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
    };
    let [a, b, c, d] = counts;
    let formation = format!("a={a},b={b},c={c},d={d}").parse().unwrap();
    Plan::new(&sources, &Options { formation: Some(formation), ..Options::default() }).unwrap()
}

struct World {
    random: Random,
    plan: Plan,
    supervisor: Supervisor,
    started: Option<start::StartedKeeper>,
    pid: Pid,
    /// Whether everything is coming to its end.
    ending: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let plan = plan([2, 1, 1, 1], 0);
        let started = start::start_keeper(false).unwrap();
        let supervisor = Supervisor::new(&plan, seed);
        Self {
            random: Random(seed),
            pid: started.pid(),
            started: Some(started),
            plan,
            supervisor,
            ending: false,
        }
    }

    async fn live(mut self, steps: u64, done: &mut Done) {
        let mut keeper = Keeper::new(self.started.take().unwrap()).unwrap();
        self.handle(&mut keeper, Event::Tick);
        for _ in 0..steps {
            self.settle(&mut keeper).await;
            if self.ending {
                break;
            }
            self.compare();
            done.compared += 1;
            self.step(&mut keeper, done);
        }
        self.handle(&mut keeper, Event::StopSignal(Signal::SIGTERM));
        while self.supervisor.outcome().is_none() {
            self.next(&mut keeper).await;
        }
        assert_eq!(system::children(self.pid), Vec::<i32>::new());
        keeper.shut_down();
    }

    fn step(&mut self, keeper: &mut Keeper, done: &mut Done) {
        let up: Vec<i32> = self.supervisor.status().filter_map(|status| status.pid()).collect();
        match self.random.below(10) {
            0..=4 if !up.is_empty() => {
                let signals = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGSEGV];
                let signal = signals[usize::try_from(self.random.below(3)).unwrap()];
                let among = u64::try_from(up.len()).unwrap();
                let whom = up[usize::try_from(self.random.below(among)).unwrap()];
                // Never `d`, most of the time: that would be the end.
                let is_d = self.name_of(whom).starts_with('d');
                if !is_d || self.random.below(20) == 0 {
                    kill(Pid::from_raw(whom), signal).unwrap();
                    done.kills += 1;
                    // Until then it would be found alive where it is believed to be.
                    let is_dead = || !system::look(whom).is_some_and(|seen| seen.alive);
                    await_that(is_dead, || format!("{whom} doesn't die"));
                }
            }
            _ => {
                let mut count = |most| self.random.below(most);
                let (counts, edition) = ([count(5), count(3), count(3), 1], count(3));
                self.plan = plan(counts, edition);
                done.plans += 1;
                let mode = if count(2) == 0 { RestartMode::AtOnce } else { RestartMode::Rolling };
                let (_, actions) = self.supervisor.apply_plan(Instant::now(), &self.plan, mode);
                self.carry_out(keeper, actions);
            }
        }
    }

    fn name_of(&self, pid: i32) -> String {
        let all: BTreeMap<_, _> = self
            .supervisor
            .status()
            .map(|status| (status.pid(), status.plan.name.clone()))
            .collect();
        all[&Some(pid)].clone()
    }

    fn handle(&mut self, keeper: &mut Keeper, event: Event) {
        let actions = self.supervisor.handle(Instant::now(), event);
        self.carry_out(keeper, actions);
    }

    fn carry_out(&mut self, keeper: &mut Keeper, actions: Vec<Action>) {
        for action in actions {
            let request = match action {
                Action::Spawn(id, process) => {
                    let pair = |(key, var): (OsString, ganger::plan::env::Variable)| {
                        [key.as_encoded_bytes(), b"=", var.value.as_encoded_bytes()].concat()
                    };
                    let argv = shell::argv(&self.plan.shell, &process.command);
                    let spawn = SpawnRequest {
                        id: id.into(),
                        argv: argv.into_iter().map(OsString::into_encoded_bytes).collect(),
                        env: process.environment().into_iter().map(pair).collect(),
                        dir: b"/".to_vec(),
                        stdin: Stdin::Null,
                        listener: None,
                    };
                    let null = File::options().write(true).open("/dev/null").unwrap();
                    keeper.send_request(Request::Spawn(spawn), vec![null.into()]);
                    continue;
                }
                Action::ProbeNeeds(..) | Action::Probe(..) | Action::CancelProbe(_) => continue,
                Action::Stop(id, signal) => {
                    let scope = Scope::Group;
                    Request::Stop { id: id.into(), signal: signal as i32, scope }
                }
                Action::StopDescendants(id, signal) => {
                    let scope = Scope::All;
                    Request::Stop { id: id.into(), signal: signal as i32, scope }
                }
                Action::StopOrphans => {
                    self.ending = true;
                    Request::StopOrphans
                }
                Action::Sweep => Request::Sweep,
                Action::Notify(_) => continue,
            };
            keeper.send_request(request, Vec::new());
        }
    }

    /// Waits for what happens next.
    async fn next(&mut self, keeper: &mut Keeper) {
        let deadline =
            self.supervisor.deadline().unwrap_or(Instant::now() + Duration::from_secs(20));
        let event = tokio::select! {
            report = keeper.next_report() => match report.unwrap() {
                Report::Spawned { id, pid } => Event::Spawned(id.into(), pid),
                Report::Exited { id, wait, left } => Event::Exited(id.into(), wait.into(), left),
                Report::GroupEmpty { id } => Event::GroupEmpty(id.into()),
                Report::Orphans { left } => Event::Orphans(left),
                Report::Swept { left } => Event::Swept(left),
                Report::Cancelled { id } => Event::Exited(id.into(), Exit::Cancelled, Vec::new()),
                Report::StartHangs { .. } => return,
                report @ (Report::SpawnFailed { .. }
                | Report::Suspended
                | Report::Progress { .. }
                | Report::Pong(_)
                | Report::Isolated(_)) => panic!("{report:?}"),
            },
            () = tokio::time::sleep_until(deadline.into()) => Event::Tick,
        };
        self.handle(keeper, event);
    }

    /// Waits until what is, is what is wanted, or everything has come to its end.
    async fn settle(&mut self, keeper: &mut Keeper) {
        loop {
            let settled = self.supervisor.status().all(|Status { state, .. }| match state {
                // The kernel knows of a death before the keeper tells.
                State::Up { pid, .. } => system::look(pid).is_some_and(|seen| seen.alive),
                State::Down => true,
                State::Backoff { .. }
                | State::Waiting { .. }
                | State::Starting { .. }
                | State::Stopping { .. }
                | State::Killed { .. }
                | State::Stuck { .. } => false,
            });
            if settled || self.ending {
                return;
            }
            self.next(keeper).await;
        }
    }

    /// Compares what the supervisor believes with what the system says.
    fn compare(&self) {
        let planned: Vec<&str> = self.plan.processes.iter().map(|p| p.name.as_str()).collect();
        let status: Vec<_> = self.supervisor.status().collect();
        let known: Vec<&str> = status.iter().map(|status| status.plan.name.as_str()).collect();
        assert_eq!(known, planned, "not those of the plan, in its order");
        let mut believed = Vec::new();
        for (process, Status { plan, state, .. }) in self.plan.processes.iter().zip(&status) {
            let name = plan.name.as_str();
            let State::Up { pid, .. } = state else { continue };
            let seen = system::look(*pid).unwrap();
            assert!(seen.alive && seen.parent == self.pid.as_raw(), "{name}");
            assert_eq!((seen.session, seen.group), (*pid, *pid), "{name}");
            // A shell may still be on its way to the command.
            let last = process.command.rsplit(' ').next().unwrap();
            let is = || {
                system::arguments(*pid).last().is_some_and(|arg| arg.ends_with(last))
                    && system::variable(*pid, "PS").as_deref() == Some(name)
            };
            await_that(is, || format!("{name} is {:?}, not {last}", system::arguments(*pid)));
            believed.push(*pid);
        }
        let mut real = system::children(self.pid);
        believed.sort_unstable();
        real.sort_unstable();
        // Only the child of a `c` that is up may be left.
        assert_eq!(real, believed, "those below the keeper are not those believed up");
    }
}

/// Waits until it holds: while a program is executed, its arguments and variables
/// can't be read whole.
fn await_that(it: impl Fn() -> bool, what: impl Fn() -> String) {
    let since = Instant::now();
    while !it() {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", what());
        std::thread::yield_now();
    }
}
