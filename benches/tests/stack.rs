//! No call takes much stack.

use kho_benches::calls;

/// The frames of unoptimised code are several times as large.
#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimised code")]
fn no_call_takes_more_than_a_page() {
    for (call, bytes) in calls::stack() {
        assert!(bytes <= 4096, "{call}: {bytes} bytes");
    }
}
