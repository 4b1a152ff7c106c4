//! How long to wait before a process is started again.

use std::time::Duration;

use crate::plan::Backoff;

/// Who stays up this long has its crashes forgiven.
pub(super) const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// The pause after so many crashes in a row: it doubles from `min` to `max`, and
/// gives up to a quarter of itself to chance, so that those who crashed
/// together don't come back together. No crash (an exit with 0) waits for `min`.
pub(super) fn pause(backoff: Backoff, crashes: u32, chance: &mut Chance) -> Duration {
    let doublings = crashes.saturating_sub(1).min(31);
    let full = backoff.min.saturating_mul(1 << doublings).min(backoff.max);
    let less = full / 4 * chance.next_percent() / 100;
    full.saturating_sub(less).max(backoff.min)
}

/// Numbers that look like chance, always the same for one seed (`SplitMix64`).
#[derive(Clone, Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next_percent(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) % 101).expect("at most 100")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_up_to_the_longest() {
        let backoff = Backoff::default();
        let bounds =
            [(0, 100), (1, 100), (2, 200), (3, 400), (9, 25_600), (10, 30_000), (99, 30_000)];
        for (crashes, full) in bounds {
            let full = Duration::from_millis(full);
            let pause = pause(backoff, crashes, &mut Chance(1));
            assert!(pause <= full && pause >= full * 3 / 4, "{crashes}: {pause:?}");
        }
    }

    proptest! {
        #[test]
        fn stays_within_bounds(min in 0u64..100_000, more in 0u64..100_000, crashes: u32, seed: u64) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + more));
            let backoff = Backoff { min, max, give_up_after: None };
            let pause = pause(backoff, crashes, &mut Chance(seed));
            prop_assert!(min <= pause && pause <= max);
        }
    }
}
