//! The clock that deadlines go by.
//!
//! It stands still while ganger itself does not run: suspended with Ctrl-Z, in a
//! frozen cgroup, or on a laptop with its lid closed. What was frozen with it, the
//! processes, then still has its whole grace period.

use std::time::{Duration, Instant};

/// While a deadline is pending, the clock is looked at this often.
const SLICE: Duration = Duration::from_millis(500);
/// A slice that took this much longer was interrupted by a pause; less may be a busy
/// machine.
const TOLERANCE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Clock {
    paused: Duration,
    /// When ganger was last seen to run; none while it waits without a deadline, however
    /// long that takes.
    last_seen: Option<Instant>,
}

impl Clock {
    /// The time that counts, at the time `real` of the system.
    pub(super) fn at(&self, real: Instant) -> Instant {
        real.checked_sub(self.paused).unwrap_or(real)
    }

    /// Until when, in the time of the system, to wait for this deadline; the clock may
    /// not have come to it then.
    pub(super) fn wait_for(&mut self, deadline: Option<Instant>, real: Instant) -> Option<Instant> {
        self.wake(real);
        self.last_seen = deadline.map(|_| real);
        deadline.map(|at| (at + self.paused).min(real + SLICE))
    }

    /// The same, where the deadline has come and something has to happen before it counts.
    pub(super) fn watch(&mut self, real: Instant) -> Instant {
        self.wake(real);
        self.last_seen = Some(real);
        real + SLICE
    }

    /// ganger runs: a wait has ended, or something that it does.
    pub(super) fn wake(&mut self, real: Instant) {
        if let Some(last_seen) = self.last_seen.replace(real) {
            let took = real.saturating_duration_since(last_seen);
            if took > SLICE + TOLERANCE {
                self.paused += took.saturating_sub(SLICE);
            }
        }
    }

    /// Adds a pause that has just ended.
    pub(super) fn add_pause(&mut self, pause: Duration) {
        self.paused += pause;
        self.last_seen = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_pause_during_a_wait_does_not_count() {
        let start = Instant::now();
        let mut clock = Clock::default();
        let deadline = Some(start + 5 * SECOND);
        assert_eq!(clock.wait_for(deadline, start), Some(start + SLICE));
        // Frozen for an hour.
        let thawed = start + 3600 * SECOND;
        clock.wake(thawed);
        assert_eq!(clock.at(thawed), start + SLICE);
        assert_eq!(clock.wait_for(deadline, thawed), Some(thawed + SLICE));
    }

    #[test]
    fn a_busy_machine_is_no_pause() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.wait_for(Some(start + 5 * SECOND), start);
        clock.wake(start + SLICE + TOLERANCE);
        assert_eq!(clock.at(start + SECOND), start + SECOND);
    }

    #[test]
    fn nothing_is_missed_where_nothing_was_waited_for() {
        let start = Instant::now();
        let mut clock = Clock::default();
        assert_eq!(clock.wait_for(None, start), None);
        let woken = start + 3600 * SECOND;
        clock.wake(woken);
        assert_eq!(clock.at(woken), woken);
    }

    #[test]
    fn a_pause_between_two_waits_does_not_count() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.wait_for(None, start);
        // A deadline is set now, and a pause begins before it is waited for.
        clock.wake(start);
        let thawed = start + 4 * SECOND;
        let deadline = Some(start + 3 * SECOND);
        assert_eq!(clock.wait_for(deadline, thawed), Some(thawed + SLICE));
        assert_eq!(clock.at(thawed), start + SLICE);
    }
}
