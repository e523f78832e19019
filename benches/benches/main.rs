//! What each job costs, beside what else could do it, in one run.
//!
//! Groups are named after jobs. `cargo xtask bench-report` makes `docs/performance.md` of them.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may panic")]

mod clock;
mod describe;
mod preserve;
mod take_over;
mod translate;

use std::time::Duration;

use clock::CpuTime;
use criterion::{Criterion, criterion_group, criterion_main};

fn config() -> Criterion<CpuTime> {
    Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000))
}

criterion_group! {
    name = benches;
    config = config();
    targets = preserve::all, take_over::all, describe::all, translate::all
}
criterion_main!(benches);
