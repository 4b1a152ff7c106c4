//! What the supervisor's decisions are made with, and what they lead to.

use std::time::{Duration, Instant};

use super::action::Action;
use crate::notice::Notice;

/// One step of the supervisor: the time at which it happens, a source of random numbers, and
/// the actions that it has decided on so far.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    random: &'a mut fastrand::Rng,
    actions: Vec<Action>,
}

impl<'a> Context<'a> {
    pub(super) fn new(now: Instant, random: &'a mut fastrand::Rng) -> Self {
        Self { now, random, actions: Vec::new() }
    }

    /// Adds something to do.
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Adds a message to print.
    pub(super) fn notify(&mut self, notice: Notice) {
        self.actions.push(Action::Notify(notice));
    }

    /// Has the messages so far printed after everything else so far is done.
    pub(super) fn postpone_messages(&mut self) {
        self.actions.sort_by_key(|action| matches!(action, Action::Notify(_)));
    }

    /// A random part of `duration`, from none of it to all.
    pub(super) fn random_part_of(&mut self, duration: Duration) -> Duration {
        duration * self.random.u32(0..=100) / 100
    }

    /// What there is to do.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }
}
