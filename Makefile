# Ringway. `make demo` and `make test` do everything on a fresh Debian or Ubuntu machine with Rust.

CARGO ?= cargo
DATA ?= data
LISTEN ?= 127.0.0.1:6432
GRPC ?= 127.0.0.1:7432
PREFIX ?= /usr/local

QUICK_SUITES = tidy corpus tokens grammar auth tls bad_input cli schema_changes computed_keys insert_select user_types cursors listen session pools multiplex
LONG_SUITES = differential split direct_writer stale_gateway sick_target faults engine_faults peers tpch
BIN = $(or $(CARGO_TARGET_DIR),target)/release
DIST = $(or $(CARGO_TARGET_DIR),target)/dist

FUZZ_SECONDS ?= 20
SOAK_SEED ?= 100000
SOAK_STATEMENTS ?= 100000

.PHONY: demo test test-drivers grammar up down bench microbench callgrind fuzz soak build gateway-dist postgresql install fmt lint

# The live split, with its audit.
demo: postgresql
	$(CARGO) build --release --locked
	$(BIN)/ringway-demo $(DEMO_ARGS)

# A local cluster for psql: make up, psql -h 127.0.0.1 -p 6432 -U postgres app, make down.
up: postgresql
	$(CARGO) build --release --locked
	$(BIN)/shardctl dev --shards 2 --data $(DATA) --listen $(LISTEN) --grpc $(GRPC) --detach

down:
	$(BIN)/shardctl dev stop --data $(DATA)

# Everything CI runs, quick suites first. Servers that tests start, they stop.
test: postgresql lint
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --no-fail-fast -p ringway-proto -p ringway-topology -p ringway-tls -p ringway-gateway -p shardctl
	$(CARGO) test --locked --no-fail-fast -p ringway-tests $(QUICK_SUITES:%=--test %)
	$(CARGO) test --locked --no-fail-fast -p ringway-tests --test drivers -- --nocapture
	$(CARGO) test --locked --no-fail-fast -p ringway-tests $(LONG_SUITES:%=--test %)

# Drivers, ORMs and PostgreSQL's own programs, through the gateway and against one PostgreSQL. Installs the drivers that are missing.
# RINGWAY_DRIVERS=psycopg,JDBC chooses some.
test-drivers: postgresql
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked -p ringway-tests --test drivers -- --nocapture

# More generated statements than CI has time for: SOAK_STATEMENTS of them, over schemas and rows made of SOAK_SEED and the numbers after it.
# What differs is made small and printed as paragraphs of a .slt file.
soak: postgresql
	$(CARGO) build --locked --workspace --bins
	RINGWAY_DIFFERENTIAL_SEED=$(SOAK_SEED) RINGWAY_DIFFERENTIAL_STATEMENTS=$(SOAK_STATEMENTS) \
		$(CARGO) test --locked -p ringway-tests --test differential generated_statements -- --nocapture

# How much of PostgreSQL's own regression tests the gateway can parse: of the sources unpacked in POSTGRESQL_SOURCE, else of those that
# apt-get fetches (it needs no deb-src line). The statements are PostgreSQL's and stay out of this repository.
grammar: postgresql
	$(CARGO) build --locked -p ringway-tests --bin ringway-grammar
	bash scripts/postgresql-source.sh | xargs -d '\n' $(or $(CARGO_TARGET_DIR),target)/debug/ringway-grammar

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

bench: postgresql gateway-dist
	$(CARGO) build --release --locked
	RINGWAY_GATEWAY_BIN=$(abspath $(DIST))/ringway-gateway $(BIN)/ringway-bench $(BENCH_ARGS)

# What the gateway does for every query, one operation at a time.
microbench:
	$(CARGO) bench --locked -p ringway-tests --bench micro -- $(MICROBENCH_ARGS)

# Instructions per operation and per query, counted by valgrind: they repeat.
callgrind: postgresql gateway-dist
	$(CARGO) build --release --locked
	RINGWAY_GATEWAY_BIN=$(abspath $(DIST))/ringway-gateway $(BIN)/ringway-bench --callgrind

# Every fuzz target for FUZZ_SECONDS; needs a nightly toolchain and cargo-fuzz. What it finds becomes a file in fuzz/seeds, which
# `make test` checks (tests/tests/corpus.rs).
fuzz:
	@cargo fuzz --version || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked"; exit 1; }
	cargo +nightly fuzz build -s none
	ulimit -s 131072; for target in $$(cargo +nightly fuzz list); do \
		mkdir -p fuzz/corpus/$$target; \
		nice -n 19 cargo +nightly fuzz run -s none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=512 -max_len=4096 -timeout=10 -print_final_stats=1 || exit 1; \
	done

build:
	$(CARGO) build --release --locked

# The gateway as it is shipped.
gateway-dist:
	$(CARGO) build --profile dist --locked -p ringway-gateway

install: gateway-dist
	$(CARGO) build --release --locked -p shardctl
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(BIN)/shardctl $(DIST)/ringway-gateway $(DESTDIR)$(PREFIX)/bin

postgresql:
	@bash scripts/install-postgresql.sh

fmt:
	$(CARGO) fmt --all
