//! Catches panics of code that shows output, so that they cost no more than its result.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Leaves out the messages of panics that are caught.
pub fn silence_caught() {
    let hook = take_hook();
    set_hook(Box::new(move |info| {
        if !is_caught() {
            hook(info);
        }
    }));
}

/// Whether a panic of this thread is caught, so that it needs no message.
#[must_use]
pub fn is_caught() -> bool {
    IS_CAUGHT.get()
}

/// Runs `code`. Returns none if it panics.
pub fn catch<T>(code: impl FnOnce() -> T) -> Option<T> {
    let before = IS_CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(code));
    IS_CAUGHT.set(before);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_costs_only_the_result() {
        assert_eq!(catch(|| 1), Some(1));
        assert_eq!(catch(|| -> u8 { panic!("{}", is_caught()) }), None);
        assert!(!is_caught());
    }
}
