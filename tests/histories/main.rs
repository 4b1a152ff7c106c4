//! Runs the supervisor and the real keeper through random histories of exits, kills and new plans,
//! without the rest of ganger. After each step, it compares the supervisor's state with `/proc`.
//!
//! `histories SEED HISTORIES STEPS`
#![allow(clippy::unwrap_used, reason = "a failed step fails the history")]

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
    let mut totals = Totals::default();
    for history in 0..histories {
        // Names the seed if the history fails.
        eprintln!("history {}", seed + history);
        runtime().block_on(History::new(seed + history).run(steps, &mut totals));
    }
    let Totals { plans, kills, comparisons } = totals;
    println!("{histories} histories: {plans} plans, {kills} kills, {comparisons} comparisons");
}

/// How many operations all histories have run.
#[derive(Default)]
struct Totals {
    plans: u64,
    kills: u64,
    comparisons: u64,
}

/// The restart policies: `a` is always restarted, `b` after a failure, `c` never, and `c` has a
/// descendant that outlives it. An exit of `d` stops all.
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

/// A plan with these instance counts. The commands differ between editions.
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

struct History {
    random: Random,
    plan: Plan,
    supervisor: Supervisor,
    started: Option<start::StartedKeeper>,
    pid: Pid,
    /// Whether a shutdown has begun.
    shutting_down: bool,
}

impl History {
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
            shutting_down: false,
        }
    }

    async fn run(mut self, steps: u64, totals: &mut Totals) {
        let mut keeper = Keeper::new(self.started.take().unwrap()).unwrap();
        self.handle(&mut keeper, Event::Tick);
        for _ in 0..steps {
            self.wait_until_settled(&mut keeper).await;
            if self.shutting_down {
                break;
            }
            self.compare_with_proc();
            totals.comparisons += 1;
            self.step(&mut keeper, totals);
        }
        self.handle(&mut keeper, Event::StopSignal(Signal::SIGTERM));
        while self.supervisor.outcome().is_none() {
            self.handle_next(&mut keeper).await;
        }
        assert_eq!(system::list_children(self.pid), Vec::<i32>::new());
        keeper.shut_down();
    }

    fn step(&mut self, keeper: &mut Keeper, totals: &mut Totals) {
        let up: Vec<i32> = self.supervisor.status().filter_map(|status| status.pid()).collect();
        match self.random.below(10) {
            0..=4 if !up.is_empty() => {
                let signals = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGSEGV];
                let signal = signals[usize::try_from(self.random.below(3)).unwrap()];
                let count = u64::try_from(up.len()).unwrap();
                let target = up[usize::try_from(self.random.below(count)).unwrap()];
                // Rarely `d`: its exit ends the history.
                let is_d = self.name_of(target).starts_with('d');
                if !is_d || self.random.below(20) == 0 {
                    kill(Pid::from_raw(target), signal).unwrap();
                    totals.kills += 1;
                    // Until it is dead, `/proc` and the supervisor agree that it is up.
                    let is_dead = || !system::read_stat(target).is_some_and(|stat| stat.alive);
                    wait_until(is_dead, || format!("{target} does not die"));
                }
            }
            _ => {
                let mut random = |bound| self.random.below(bound);
                let (counts, edition) = ([random(5), random(3), random(3), 1], random(3));
                self.plan = plan(counts, edition);
                totals.plans += 1;
                let mode = if random(2) == 0 { RestartMode::AtOnce } else { RestartMode::Rolling };
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
                        terminal: false,
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
                    self.shutting_down = true;
                    Request::StopOrphans
                }
                Action::Sweep => Request::Sweep,
                Action::Notify(_) => continue,
            };
            keeper.send_request(request, Vec::new());
        }
    }

    /// Waits for the next report of the keeper or deadline, and handles it.
    async fn handle_next(&mut self, keeper: &mut Keeper) {
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

    /// Waits until the actual state is the desired state, or a shutdown has begun.
    async fn wait_until_settled(&mut self, keeper: &mut Keeper) {
        loop {
            let settled = self.supervisor.status().all(|Status { state, .. }| match state {
                // A process can be dead before the keeper reports its exit.
                State::Up { pid, .. } => system::read_stat(pid).is_some_and(|stat| stat.alive),
                State::Down => true,
                State::Backoff { .. }
                | State::Waiting { .. }
                | State::Starting { .. }
                | State::Stopping { .. }
                | State::Killed { .. }
                | State::Stuck { .. } => false,
            });
            if settled || self.shutting_down {
                return;
            }
            self.handle_next(keeper).await;
        }
    }

    /// Compares the supervisor's state with `/proc`.
    fn compare_with_proc(&self) {
        let planned: Vec<&str> = self.plan.processes.iter().map(|p| p.name.as_str()).collect();
        let status: Vec<_> = self.supervisor.status().collect();
        let known: Vec<&str> = status.iter().map(|status| status.plan.name.as_str()).collect();
        assert_eq!(known, planned, "the processes differ from the plan");
        let mut expected = Vec::new();
        for (process, Status { plan, state, .. }) in self.plan.processes.iter().zip(&status) {
            let name = plan.name.as_str();
            let State::Up { pid, .. } = state else { continue };
            let stat = system::read_stat(*pid).unwrap();
            assert!(stat.alive && stat.parent == self.pid.as_raw(), "{name}");
            assert_eq!((stat.session, stat.group), (*pid, *pid), "{name}");
            // The shell may not have executed the command yet.
            let last = process.command.rsplit(' ').next().unwrap();
            let is_executed = || {
                system::read_arguments(*pid).last().is_some_and(|arg| arg.ends_with(last))
                    && system::read_variable(*pid, "PS").as_deref() == Some(name)
            };
            wait_until(is_executed, || {
                format!("{name} is {:?}, not {last}", system::read_arguments(*pid))
            });
            expected.push(*pid);
        }
        let mut real = system::list_children(self.pid);
        expected.sort_unstable();
        real.sort_unstable();
        // The descendants of `c` are not children of the keeper while their `c` is up.
        assert_eq!(real, expected, "the keeper's children differ from the processes that are up");
    }
}

/// Waits until the condition holds: during an exec, the arguments and variables of a process can't
/// be read completely.
fn wait_until(condition: impl Fn() -> bool, problem: impl Fn() -> String) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", problem());
        std::thread::yield_now();
    }
}
