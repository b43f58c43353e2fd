//! `make microbench`: frame scanning, plans that are cached, keys, the ring. Times only mean something beside others of the same
//! machine; instructions (`make callgrind`) repeat.

use criterion::{criterion_group, criterion_main, Criterion};
use ringway_tests::bench::operations::{Operation, Operations};

fn micro(criterion: &mut Criterion) {
    let operations = Operations::new().expect("what the operations work on");
    for operation in Operation::ALL {
        criterion.bench_function(operation.name(), |bencher| bencher.iter(|| operations.run(operation, 1)));
    }
}

criterion_group!(benches, micro);
criterion_main!(benches);
