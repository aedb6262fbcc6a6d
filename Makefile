# Everything a user or a contributor runs. `make help` lists it.
#
# Whatever links RocksDB is built in the release profile and in no other: RocksDB takes minutes to
# compile per profile. Cargo resolves features per selection of packages, so the release commands all
# make the same selection and share what they compile.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/flotilla
export CARGO_TARGET_DIR ?= $(CACHE)/target
export RUSTDOCFLAGS ?= -D warnings

CARGO := cargo
FLOTILLA := $(CARGO_TARGET_DIR)/release/flotilla

# Without RocksDB, threads and sockets: built and tested in `dev`, with debug assertions.
PURE := proto raft engine mailbox router raftstore kv pd pd-plan pd-client tests
pure := $(PURE:%=-p flotilla-%)

# With them.
linked := --release -p flotilla-engine -p flotilla-router -p flotilla-tls -p flotilla-pd-client -p flotilla-benches -p flotilla -p flotilla-bin \
	--features flotilla-engine/rocks,flotilla-router/threads,flotilla-pd-client/transport

.PHONY: help
help: ## List what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---- running ----

.PHONY: run
run: build ## Build, start three nodes, run a short YCSB load, kill one meanwhile, print the figures
	@$(FLOTILLA) demo

DATA ?= ./data
ADDR ?= 127.0.0.1:20160
.PHONY: serve
serve: build ## Start three nodes that stay: make serve DATA=./data ADDR=127.0.0.1:20160
	@$(FLOTILLA) demo --stay --data-dir $(DATA) --addr $(ADDR)

.PHONY: build
build: system ## Build the release binary
	@$(CARGO) build $(linked) --bin flotilla

# `make install PREFIX=/usr/local`
PREFIX ?= $(HOME)/.local
.PHONY: install
install: build ## Copy the binary to PREFIX/bin, by default ~/.local/bin
	@mkdir -p "$(PREFIX)/bin"
	@install -m 755 $(FLOTILLA) "$(PREFIX)/bin/flotilla"
	@echo "installed $(PREFIX)/bin/flotilla"
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) echo "$(PREFIX)/bin is on the PATH" ;; \
		*) echo "$(PREFIX)/bin is not on the PATH: export PATH=\"$(PREFIX)/bin:\$$PATH\"" ;; esac

.PHONY: bench
bench: build ## Measure: the figures of docs/performance.md
	@$(CARGO) build $(linked) --bins --examples
	@$(CARGO) build --release -p flotilla-raft --example steps
	@FLOTILLA=$(FLOTILLA) benches/run.sh

.PHONY: bench-peers
bench-peers: build ## Measure three nodes side by side with three members of etcd (Debian's etcd-server)
	@FLOTILLA=$(FLOTILLA) benches/peers.sh

# ---- checking ----

.PHONY: test
test: system format lint edges docs-check loom test-pure test-planted test-linked test-python ## The whole gate; changes nothing

.PHONY: format
format:
	$(CARGO) fmt --all --check

.PHONY: lint
lint: system ## Clippy, warnings as errors
	CLIPPY_CONF_DIR=$(CURDIR) $(CARGO) clippy $(pure) --all-targets -- -D warnings
	$(CARGO) clippy $(linked) --all-targets -- -D warnings

.PHONY: edges
edges: ## Which package may use which; that each guarantee names a test
	tests/edges.sh
	tests/guarantees.sh

.PHONY: docs-check
docs-check: system
	$(CARGO) doc $(pure) --no-deps
	$(CARGO) doc $(linked) --no-deps

.PHONY: loom
loom: ## The mailbox under every interleaving
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/loom $(CARGO) test -p flotilla-mailbox --release

.PHONY: test-pure
test-pure: ## Tests of the pure packages, with debug assertions
	$(CARGO) test $(pure)

SIM := $(CARGO_TARGET_DIR)/debug/sim
SEEDS ?= 1000
.PHONY: sim
sim: ## Simulate clusters under faults: make sim SEEDS=1000, or a single one: make sim SEED=42
	@$(CARGO) build --quiet -p flotilla-tests $(if $(BUG),--features planted) --bin sim
ifdef SEED
	@$(if $(BUG),FLOTILLA_SIM_BUG=$(BUG)) $(SIM) replay $(SEED)
else
	@$(SIM) run --seeds $(SEEDS) $(if $(LEDGER),--ledger $(LEDGER) --date $$(date +%F))
endif

.PHONY: shrink
shrink: ## Take away from a failing seed's world what its failure does not need: make shrink SEED=42
	@$(if $(BUG),FLOTILLA_SIM_BUG=$(BUG)) $(CARGO) run --quiet -p flotilla-tests $(if $(BUG),--features planted) --bin sim -- shrink $(SEED)

.PHONY: planted
planted: ## Break one rule after the other: which check notices, after how many seeds; make planted BUG=Lease
	@$(CARGO) run --quiet -p flotilla-tests --features planted --bin sim -- planted $(BUG) $(PLANTED)

.PHONY: test-planted
test-planted: ## That the model of raft and the simulator notice bugs that are planted
	$(CARGO) test -p flotilla-raft --features planted --test model planted -- --nocapture
	$(CARGO) test -p flotilla-tests --features planted --test scenarios
	$(CARGO) run --quiet -p flotilla-tests --features planted --bin sim -- planted --short --seeds 300
	@refused=$$($(CARGO) check --quiet --release -p flotilla-raft --features planted 2>&1) \
		&& { echo "a release can be built with planted bugs"; exit 1; }; \
		grep -q "for tests only" <<<"$$refused" || { echo "$$refused"; exit 1; }

.PHONY: test-linked
test-linked: system ## Tests of everything that links RocksDB, opens sockets or starts threads
	@scripts/system-packages.sh --browser
	$(CARGO) test $(linked)

# What `make test` does a few times, often; with figures.
KILLS ?= 500
GAPS ?= 50
CUTS ?= 50
.PHONY: crash
crash: system ## Strike clusters of real processes, long: make crash KILLS=500 GAPS=50 CUTS=50 REPORT=gaps.json
	@$(CARGO) build $(linked) --features flotilla-bin/failpoints --bin flotilla-crash
	@FLOTILLA_CRASH=$(CARGO_TARGET_DIR)/release/flotilla-crash FLOTILLA_KILLS=$(KILLS) FLOTILLA_GAPS=$(GAPS) FLOTILLA_FAULTS=$(CUTS) $(if $(REPORT),FLOTILLA_REPORT=$(abspath $(REPORT))) \
		$(CARGO) test $(linked) --test cluster -- --nocapture --test-threads 1

.PHONY: test-python
test-python: build ## The stock Python client against a node; says so if it cannot be installed here
	@scripts/test-python.sh $(FLOTILLA)

.PHONY: fix
fix: ## Format and apply what clippy can; the only target that edits files
	$(CARGO) fmt --all
	$(CARGO) clippy $(linked) --all-targets --fix --allow-dirty --allow-staged

# ---- the machine ----

# RocksDB needs a C++ compiler, its bindings need libclang.
.PHONY: system
system:
	@scripts/system-packages.sh
