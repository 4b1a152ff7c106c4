//! Runs code whose panics cost no more than its result.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is caught, so that it needs no message.
pub(super) fn is_running() -> bool {
    IS_RUNNING.get()
}

/// Runs `code`. Returns none if it panics.
pub(super) fn run<T>(code: impl FnOnce() -> T) -> Option<T> {
    let before = IS_RUNNING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(code));
    IS_RUNNING.set(before);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_costs_only_the_result() {
        assert_eq!(run(|| 1), Some(1));
        assert_eq!(run(|| -> u8 { panic!("{}", is_running()) }), None);
        assert!(!is_running());
    }
}
