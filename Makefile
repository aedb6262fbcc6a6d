# `make run` and `make test` are all a user needs; `make help` lists the rest.
#
# RocksDB takes minutes to compile for each cargo profile: whatever links it is built, linted and tested
# in `release`, the pure crates in `dev`. Build products live outside the clone and are shared.

SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/flotilla/target
export CARGO_TERM_COLOR ?= auto

FLOTILLA := $(CARGO_TARGET_DIR)/release/flotilla
DATA ?= data
ADDR ?= 127.0.0.1:20160

PURE := $(addprefix -p flotilla-,proto mailbox raft engine router raftstore kv pd-client pd tests) \
	--features flotilla-router/threads
LINKED := -p flotilla -p flotilla-benches -p flotilla-engine -p flotilla-pd-client \
	--features flotilla-engine/rocks,flotilla-pd-client/transport

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## a node in a temporary folder, a short YCSB load through the stock client, the figures
	@$(FLOTILLA) bench ycsb --embedded --workload a --records 20000 --duration 10s --threads 64

.PHONY: serve
serve: build ## a node on $(ADDR) with its data in $(DATA), until Ctrl-C
	@$(FLOTILLA) server --data-dir $(DATA) --addr $(ADDR)

.PHONY: test
test: system fmt edges clippy docs loom test-pure test-linked ## everything that must hold

.PHONY: build
build: system ## the release binary
	cargo build --locked --release -p flotilla

.PHONY: system
system:
	@scripts/system.sh

.PHONY: fmt
fmt: ## is everything formatted?
	cargo fmt --all --check

.PHONY: fix
fix: ## formats; the only target that edits files
	cargo fmt --all

.PHONY: edges
edges: ## does each crate use only what it may?
	@scripts/edges.sh

.PHONY: clippy
clippy: system ## lints, warnings as errors
	cargo clippy --locked --all-targets $(PURE) -- -D warnings
	cargo clippy --locked --release --all-targets $(LINKED) -- -D warnings

.PHONY: docs
docs: system ## do the docs build, links and all?
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps $(PURE)
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --release --no-deps $(LINKED)

.PHONY: loom
loom: ## the mailbox under every interleaving; a target folder of its own, since the flag breaks others
	RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/loom \
		cargo test --locked --release -p flotilla-mailbox

.PHONY: test-pure
test-pure: ## the pure crates: transcripts, models, the simulator
	cargo test --locked $(PURE)

.PHONY: test-linked
test-linked: system ## RocksDB, the server, the stock client
	cargo test --locked --release $(LINKED)

.PHONY: bench
bench: build ## the figures of docs/performance.md
	@scripts/bench.sh
