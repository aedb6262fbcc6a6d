# Everything a user or a contributor runs. `make help` lists it.
#
# Whatever links RocksDB is built in the release profile and nothing else: RocksDB takes minutes to
# compile per profile. Cargo resolves features for the packages a command selects, so the release
# commands select the whole workspace, each time: another selection would compile RocksDB again.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/flotilla
export CARGO_TARGET_DIR ?= $(CACHE)/target
export RUSTDOCFLAGS ?= -D warnings

FLOTILLA := $(CARGO_TARGET_DIR)/release/flotilla
CARGO := cargo
RELEASE := --release --workspace

# Packages without RocksDB, threads or sockets: built and tested in `dev`, with debug assertions.
PURE := flotilla-proto flotilla-raft flotilla-engine flotilla-mailbox flotilla-router flotilla-raftstore \
	flotilla-kv flotilla-pd flotilla-tests
# Packages that link RocksDB or need the whole stack: release only.
LINKED := flotilla-engine flotilla-router flotilla-pd-client flotilla-benches flotilla

pure := $(addprefix -p ,$(PURE))

.PHONY: help
help: ## List what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---- running ----

.PHONY: run
run: build ## Build, start a node, drive a short YCSB load through the stock client, print the figures
	@$(FLOTILLA) demo

DATA ?= ./data
ADDR ?= 127.0.0.1:20160
.PHONY: serve
serve: build ## Start a node that stays: make serve DATA=./data ADDR=127.0.0.1:20160
	@$(FLOTILLA) server --data-dir $(DATA) --addr $(ADDR)

.PHONY: build
build: system ## Build the release binary
	@$(CARGO) build $(RELEASE) --bin flotilla

.PHONY: bench
bench: build ## Measure: the figures of docs/performance.md
	@$(CARGO) build $(RELEASE) --bins --examples
	@FLOTILLA=$(FLOTILLA) benches/run.sh

# ---- checking ----

.PHONY: test
test: system format lint edges docs-check loom test-pure test-linked test-docs ## The whole gate; changes nothing

.PHONY: format
format:
	$(CARGO) fmt --all --check

.PHONY: lint
lint: system
	$(CARGO) clippy $(pure) --all-targets -- -D warnings
	$(CARGO) clippy $(RELEASE) --all-targets --features flotilla-engine/rocks,flotilla-router/threads,flotilla-pd-client/transport -- -D warnings

.PHONY: edges
edges:
	tests/edges.sh

.PHONY: docs-check
docs-check: system
	$(CARGO) doc $(RELEASE) --no-deps --features flotilla-engine/rocks,flotilla-router/threads,flotilla-pd-client/transport

.PHONY: loom
loom: ## The mailbox under every interleaving
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/loom $(CARGO) test -p flotilla-mailbox --release

.PHONY: test-pure
test-pure: ## Tests of the pure crates, with debug assertions
	$(CARGO) test $(pure) --all-targets

.PHONY: test-linked
test-linked: system ## Tests of everything that links RocksDB, opens sockets or starts threads
	$(CARGO) test $(RELEASE) --all-targets --features flotilla-engine/rocks,flotilla-router/threads,flotilla-pd-client/transport

.PHONY: test-docs
test-docs: system
	$(CARGO) test $(RELEASE) --doc --features flotilla-engine/rocks,flotilla-router/threads,flotilla-pd-client/transport

.PHONY: test-python
test-python: build ## The stock Python client against a node, if python3 can install it
	@server/tests/python/run.sh $(FLOTILLA)

.PHONY: fix
fix: ## Format and apply what clippy can; the only target that edits files
	$(CARGO) fmt --all
	$(CARGO) clippy $(RELEASE) --all-targets --fix --allow-dirty --allow-staged

# ---- the machine ----

# RocksDB needs a C++ compiler, its bindings need libclang.
.PHONY: system
system:
	@scripts/system-packages.sh
