//! Tests of the supervisor, event by event. The tests move the clock.

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
        process_type: "p".into(),
        command: command.into(),
        dir: PathBuf::from("/"),
        port: None,
        shared: Arc::default(),
        env: Env::new(),
        listen: false,
        shown: true,
        policy,
        pty: false,
        stdin: Stdin::Pipe,
        ready: Ready::Started,
        fail: None,
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
        process_types: Vec::new(),
        processes: policies.iter().enumerate().map(process).collect(),
        shell: PathBuf::from("/bin/sh"),
        env: Arc::default(),
        env_conflicts: Vec::new(),
        files_win: false,
        unlisted: Vec::new(),
        base_port: None,
        auto_block: None,
        advice: Vec::new(),
    }
}

/// A supervisor and a clock that only the test moves.
struct Bench {
    supervisor: Supervisor,
    now: Instant,
}

/// An action that starts or stops something; probes and messages are left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Effect {
    Spawn(u32),
    Stop(u32, Signal),
    StopOrphans,
    Sweep,
}

impl Bench {
    fn new(policies: &[Policy]) -> Self {
        Self { supervisor: Supervisor::new(&plan(policies), 1), now: Instant::now() }
    }

    /// A bench whose processes are all up.
    fn up(policies: &[Policy]) -> Self {
        let mut bench = Self::new(policies);
        bench.on(Event::Tick);
        for index in 0..policies.len() {
            bench.spawned(u32::try_from(index).unwrap());
        }
        bench
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.supervisor.handle(self.now, event)
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        Self::effects(self.handle(event))
    }

    /// Applies a plan with these processes.
    fn apply_plan(
        &mut self,
        processes: Vec<Arc<plan::ProcessPlan>>,
        mode: RestartMode,
    ) -> (Changes, Vec<Action>) {
        let plan = Plan { processes, ..plan(&[]) };
        self.supervisor.apply_plan(self.now, &plan, mode)
    }

    fn plan(&mut self, processes: Vec<Arc<plan::ProcessPlan>>) -> Vec<Effect> {
        Self::effects(self.apply_plan(processes, RestartMode::AtOnce).1)
    }

    fn restart(&mut self, names: &[&str], mode: RestartMode) -> Vec<Effect> {
        let ids = self.ids(names);
        Self::effects(self.supervisor.restart(self.now, &ids, mode).1)
    }

    fn stop(&mut self, names: &[&str]) -> Vec<Effect> {
        let ids = self.ids(names);
        Self::effects(self.supervisor.stop(self.now, &ids).1)
    }

    fn ids(&self, names: &[&str]) -> Vec<ProcessId> {
        let all = self.supervisor.processes.iter();
        all.filter(|process| names.contains(&process.name())).map(Process::id).collect()
    }

    fn effects(actions: Vec<Action>) -> Vec<Effect> {
        let effect = |action| match action {
            Action::Spawn(id, _) => Some(Effect::Spawn(id.index)),
            Action::Stop(id, signal) => Some(Effect::Stop(id.index, signal)),
            Action::StopOrphans => Some(Effect::StopOrphans),
            Action::Sweep => Some(Effect::Sweep),
            Action::StopDescendants(..)
            | Action::ProbeNeeds(..)
            | Action::Probe(..)
            | Action::CancelProbe(_)
            | Action::Notify(_) => None,
        };
        actions.into_iter().filter_map(effect).collect()
    }

    fn id(&self, index: u32) -> ProcessId {
        self.supervisor.processes[index as usize].id()
    }

    fn spawned(&mut self, index: u32) -> Vec<Effect> {
        self.on(Event::Spawned(self.id(index), 100 + i32::try_from(index).unwrap()))
    }

    fn exited(&mut self, index: u32, exit: Exit) -> Vec<Effect> {
        self.on(Event::Exited(self.id(index), exit, Vec::new()))
    }

    fn exited_with_descendant(&mut self, index: u32, exit: Exit) -> Vec<Effect> {
        self.on(Event::Exited(self.id(index), exit, vec![member(7)]))
    }

    fn group_empty(&mut self, index: u32) -> Vec<Effect> {
        self.on(Event::GroupEmpty(self.id(index)))
    }

    /// Moves the clock to the next deadline that has an effect, and returns the effects.
    fn advance_to_next_effect(&mut self) -> Vec<Effect> {
        loop {
            self.now = self.supervisor.deadline().expect("a deadline");
            let effects = self.on(Event::Tick);
            if !effects.is_empty() {
                return effects;
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
