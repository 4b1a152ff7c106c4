//! The supervisor, event by event, with a clock that moves only when told to.

mod dependencies;
mod histories;
mod plans;
mod rolling;
mod tables;
mod waiting;

use std::path::PathBuf;

use super::*;
use crate::plan::{Backoff, OnExit, Policy, Stdin, env::Env, ready::Ready};

fn policy(on_exit: OnExit) -> Policy {
    Policy { on_exit, ..Policy::default() }
}

fn process(index: usize, command: &str, policy: Policy) -> Arc<plan::ProcessPlan> {
    Arc::new(plan::ProcessPlan {
        name: format!("p.{index}"),
        kind: "p".into(),
        command: command.into(),
        dir: PathBuf::from("/"),
        port: None,
        shared: Arc::default(),
        env: Env::new(),
        listen: false,
        shown: true,
        policy,
        stdin: Stdin::Pipe,
        ready: Ready::Started,
        ready_timeout: Duration::from_mins(1),
        after: Vec::new(),
        needs: Vec::new(),
        watch: Vec::new(),
    })
}

fn plan(policies: &[Policy]) -> Plan {
    let process = |(index, policy): (usize, &Policy)| process(index, "run", *policy);
    Plan {
        root: PathBuf::from("/"),
        procfile: "Procfile".into(),
        entries: Vec::new(),
        processes: policies.iter().enumerate().map(process).collect(),
        shell: PathBuf::from("/bin/sh"),
        env: Arc::default(),
        env_conflicts: Vec::new(),
        files_win: false,
        unlisted: Vec::new(),
        base_port: None,
        advice: Vec::new(),
    }
}

/// A supervisor, and a clock that moves only when told to.
struct Bench {
    supervisor: Supervisor,
    now: Instant,
}

/// What is done, without what is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Done {
    Spawn(u32),
    Stop(u32, Signal),
    StopStrays,
    Sweep,
}

impl Bench {
    fn new(policies: &[Policy]) -> Self {
        Self { supervisor: Supervisor::new(&plan(policies), 1), now: Instant::now() }
    }

    /// The same, with everything up.
    fn up(policies: &[Policy]) -> Self {
        let mut bench = Self::new(policies);
        bench.on(Event::Tick);
        for index in 0..policies.len() {
            bench.spawned(u32::try_from(index).unwrap());
        }
        bench
    }

    fn all(&mut self, event: Event) -> Vec<Action> {
        self.supervisor.handle(self.now, event)
    }

    fn on(&mut self, event: Event) -> Vec<Done> {
        Self::done(self.all(event))
    }

    /// Follows a plan with these processes from now on.
    fn apply_plan(
        &mut self,
        processes: Vec<Arc<plan::ProcessPlan>>,
        mode: RestartMode,
    ) -> (Changes, Vec<Action>) {
        let plan = Plan { processes, ..plan(&[]) };
        self.supervisor.apply_plan(self.now, &plan, mode)
    }

    fn plan(&mut self, processes: Vec<Arc<plan::ProcessPlan>>) -> Vec<Done> {
        Self::done(self.apply_plan(processes, RestartMode::AtOnce).1)
    }

    fn restart(&mut self, names: &[&str], mode: RestartMode) -> Vec<Done> {
        let ids = self.ids(names);
        Self::done(self.supervisor.restart(self.now, &ids, mode).1)
    }

    fn stop(&mut self, names: &[&str]) -> Vec<Done> {
        let ids = self.ids(names);
        Self::done(self.supervisor.stop(self.now, &ids).1)
    }

    fn ids(&self, names: &[&str]) -> Vec<ProcessId> {
        let all = self.supervisor.processes.iter();
        all.filter(|process| names.contains(&process.name())).map(Process::id).collect()
    }

    fn done(actions: Vec<Action>) -> Vec<Done> {
        let done = |action| match action {
            Action::Spawn(id, _) => Some(Done::Spawn(id.index)),
            Action::Stop(id, signal) => Some(Done::Stop(id.index, signal)),
            Action::StopOrphans => Some(Done::StopStrays),
            Action::Sweep => Some(Done::Sweep),
            Action::StopDescendants(..)
            | Action::ProbeNeeds(..)
            | Action::Probe(..)
            | Action::CancelProbe(_)
            | Action::Notify(_) => None,
        };
        actions.into_iter().filter_map(done).collect()
    }

    fn id(&self, index: u32) -> ProcessId {
        self.supervisor.processes[index as usize].id()
    }

    fn spawned(&mut self, index: u32) -> Vec<Done> {
        self.on(Event::Spawned(self.id(index), 100 + i32::try_from(index).unwrap()))
    }

    fn exited(&mut self, index: u32, exit: Exit) -> Vec<Done> {
        self.on(Event::Exited(self.id(index), exit, Vec::new()))
    }

    fn leaving(&mut self, index: u32, exit: Exit) -> Vec<Done> {
        self.on(Event::Exited(self.id(index), exit, vec![member(7)]))
    }

    fn empty(&mut self, index: u32) -> Vec<Done> {
        self.on(Event::GroupEmpty(self.id(index)))
    }

    /// Lets the clock run to the next deadline at which something is done.
    fn wait(&mut self) -> Vec<Done> {
        loop {
            self.now = self.supervisor.deadline().expect("something to wait for");
            let done = self.on(Event::Tick);
            if !done.is_empty() {
                return done;
            }
        }
    }

    fn code(&self) -> Option<u8> {
        self.supervisor.outcome().as_ref().map(Outcome::code)
    }
}

fn member(pid: i32) -> Descendant {
    Descendant { pid, name: "x".into() }
}
