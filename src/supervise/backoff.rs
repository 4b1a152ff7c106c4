//! The delay before a process is restarted.

use std::time::Duration;

use super::context::Context;
use crate::plan::Backoff;

/// A process that stays up this long starts with no crashes counted against it.
pub(super) const CRASHES_RESET_AFTER: Duration = Duration::from_secs(10);

/// The delay after `crashes` in a row: it doubles from `min` to `max`. Up to a quarter of it
/// is left out at random, so that processes which crashed together don't restart together.
/// No crash, which is an exit with 0, is followed by `min`.
pub(super) fn restart_delay(backoff: Backoff, crashes: u32, cx: &mut Context<'_>) -> Duration {
    let doublings = crashes.saturating_sub(1).min(31);
    let full = backoff.min.saturating_mul(1 << doublings).min(backoff.max);
    full.saturating_sub(cx.random_part_of(full / 4)).max(backoff.min)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    fn delay(backoff: Backoff, crashes: u32, seed: u64) -> Duration {
        let mut random = fastrand::Rng::with_seed(seed);
        restart_delay(backoff, crashes, &mut Context::new(Instant::now(), &mut random))
    }

    #[test]
    fn delay_doubles_up_to_the_maximum() {
        let backoff = Backoff::default();
        let bounds =
            [(0, 100), (1, 100), (2, 200), (3, 400), (9, 25_600), (10, 30_000), (99, 30_000)];
        for (crashes, full) in bounds {
            let full = Duration::from_millis(full);
            let delay = delay(backoff, crashes, 1);
            assert!(delay <= full && delay >= full * 3 / 4, "{crashes}: {delay:?}");
        }
    }

    proptest! {
        #[test]
        fn delay_stays_within_bounds(min in 0u64..100_000, more in 0u64..100_000, crashes: u32, seed: u64) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + more));
            let delay = delay(Backoff { min, max, give_up_after: None }, crashes, seed);
            prop_assert!(min <= delay && delay <= max);
        }
    }
}
