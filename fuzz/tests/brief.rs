//! A moment of hostile input for each target, always the same.

use kuberewind_fuzz::{Effort, TARGETS, run};

/// Slow ones get fewer inputs.
fn inputs(target: &str) -> u64 {
    match target {
        "open-segment" | "journal" | "filter" => 150,
        _ => 2_000,
    }
}

#[test]
fn whatever_comes_from_outside_is_answered_with_a_value_or_an_error() {
    for target in TARGETS {
        let done = run(&target, Effort::Inputs(inputs(target.name)), None);
        let done = done.unwrap_or_else(|found| {
            panic!("{} with {:?}: {}", target.name, found.crash, found.input.escape_ascii())
        });
        assert!(done.answers > 3, "{} is always answered alike: {done:?}", target.name);
        eprintln!("{:<14} {done:?}", target.name);
    }
}
