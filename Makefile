# Ringway. `make demo` and `make test` do everything on a fresh Debian or Ubuntu machine with Rust.

CARGO ?= cargo
DATA ?= data
LISTEN ?= 127.0.0.1:6432
GRPC ?= 127.0.0.1:7432
PREFIX ?= /usr/local

QUICK_SUITES = tidy tokens auth tls bad_input cli schema_changes computed_keys insert_select user_types session pools
LONG_SUITES = differential split direct_writer stale_gateway sick_target faults engine_faults
BIN = $(or $(CARGO_TARGET_DIR),target)/release

.PHONY: demo test test-drivers up down bench build postgresql install fmt lint

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

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

bench: postgresql
	$(CARGO) build --release --locked
	$(BIN)/ringway-bench $(BENCH_ARGS)

build:
	$(CARGO) build --release --locked

install: build
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(BIN)/shardctl $(BIN)/ringway-gateway $(DESTDIR)$(PREFIX)/bin

postgresql:
	@bash scripts/install-postgresql.sh

fmt:
	$(CARGO) fmt --all
