# Ringway. `make demo` and `make test` do everything on a fresh Debian or Ubuntu machine with Rust.

CARGO ?= cargo
DATA ?= data
LISTEN ?= 127.0.0.1:6432
GRPC ?= 127.0.0.1:7432
PREFIX ?= /usr/local

SUITES = tidy tokens auth bad_input cli schema_changes computed_keys differential split direct_writer stale_gateway sick_target
# Longer, or asking for more than is there yet (README.md, Limits).
SOAK_SUITES = session faults engine_faults

.PHONY: demo test up down bench build postgresql install fmt lint soak

# The live split, with its audit.
demo: postgresql
	$(CARGO) build --release --locked
	target/release/ringway-demo $(DEMO_ARGS)

# A local cluster for psql: make up, psql -h 127.0.0.1 -p 6432 -U postgres app, make down.
up: postgresql
	$(CARGO) build --release --locked
	target/release/shardctl dev --shards 2 --data $(DATA) --listen $(LISTEN) --grpc $(GRPC) --detach

down:
	target/release/shardctl dev stop --data $(DATA)

# Everything CI runs, quick suites first. Servers that tests start, they stop.
test: postgresql lint
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --no-fail-fast -p ringway-proto -p ringway-topology -p ringway-gateway -p shardctl
	$(CARGO) test --locked --no-fail-fast -p ringway-tests $(SUITES:%=--test %)

# The long suites: sessions, every kill at every step.
soak: postgresql
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --no-fail-fast -p ringway-tests $(SOAK_SUITES:%=--test %)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

bench: postgresql
	$(CARGO) build --release --locked
	target/release/ringway-bench $(BENCH_ARGS)

build:
	$(CARGO) build --release --locked

install: build
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 target/release/shardctl target/release/ringway-gateway $(DESTDIR)$(PREFIX)/bin

postgresql:
	@bash scripts/install-postgresql.sh

fmt:
	$(CARGO) fmt --all
