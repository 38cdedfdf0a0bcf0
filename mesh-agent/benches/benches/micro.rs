//! Times the cases; `cargo xtask bench micro` runs it and reads what it leaves.

use std::time::Duration;

use criterion::Criterion;
use mesh_bench::{Case, Draws, cases};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .nresamples(10_000)
        .configure_from_args();
    cases().iter().for_each(|case| time(&mut criterion, case));
    criterion.final_summary();
}

fn time(criterion: &mut Criterion, case: &Case) {
    let (mut draws, mut prepared) = (Draws::default(), None);
    criterion.benchmark_group(case.group).bench_function(&case.name, |bencher| {
        // Only for a case that was asked for, and once, however often this is called.
        match prepared.get_or_insert_with(|| case.prepare()) {
            Ok(ask) => bencher.iter(|| ask(draws.number())),
            Err(error) => panic!("{error:#}"),
        }
    });
}
