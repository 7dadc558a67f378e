# `make up` starts everything; `make test` proves everything. Both set up what they need, in .cache/ and target/ only.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:

PYTHON ?= python3
MODEL ?= .cache/models/all-MiniLM-L6-v2
ARGS ?=
BIN := target/release/forebay
# What the tests run: it has everything that the system tests may switch on, and its models are optimised like a release's.
TEST_BIN := target/debug/forebay
VENV_PYTHON := .cache/venv/bin/python
STEP := scripts/step.sh

# What setup chose goes first: it has looked at the versions on PATH.
export PATH := $(CURDIR)/.cache/bin:$(CURDIR)/.cache/cargo/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export CARGO_TERM_PROGRESS_WHEN := never

.PHONY: help setup build cuda up test quick fuzz chaos chaos-replicated bench bench-setup bench-path bench-embed bench-aggregator bench-scaling bench-recovery bench-fairness bench-overload bench-batch bench-durability bench-metrics bench-gpu clean distclean
.PHONY: check-setup check-fmt check-clippy check-deny check-doc check-build check-reference check-rust check-doctests check-once check-clients check-monitoring check-cuda summary monitoring alert-test load

help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## fetch nats-server, the model, Prometheus, Alertmanager and the test tools into .cache/ (does nothing when they are there)
	@$(PYTHON) scripts/fetch.py

build: ## the release binary
	@cargo build --release --locked

cuda: ## the release binary for NVIDIA GPUs: FOREBAY_CUDA_ARCH=80,90a chooses them [90a]; it runs on machines without one too
	@scripts/cuda.sh build --release --locked

up: ## set up, build and run the whole system: make up ARGS="--workers 2"; CUDA=1 for GPUs
	@$(PYTHON) scripts/fetch.py nats-server model
	@$(if $(filter-out 0,$(CUDA)),scripts/cuda.sh,cargo) build --release --locked
	exec $(BIN) up --model $(MODEL) $(ARGS)

test: check-setup check-fmt check-deny check-clippy check-doc check-build check-reference check-once check-doctests check-rust check-clients check-monitoring check-cuda summary ## everything that must hold, from formatting to dashboards

fuzz: ## the property tests against arbitrary input for FUZZ_SECONDS=300; SEED=… repeats a round
	@scripts/fuzz.sh

quick: check-fmt check-clippy check-rust ## formatting, lints and Rust tests

bench: bench-path bench-embed bench-aggregator bench-scaling bench-recovery bench-fairness bench-overload bench-batch bench-durability bench-metrics ## every table of the docs; QUICK=1 for a smoke run

# --- the steps of `make test` ---

check-setup:
	@$(STEP) "set up" $(PYTHON) scripts/fetch.py

check-fmt:
	@$(STEP) "formatting" cargo fmt --all --check

check-deny:
	@$(STEP) "licences, bans and sources of dependencies" cargo deny --log-level error check --hide-inclusion-graph bans licenses sources

check-clippy:
	@$(STEP) "lints" cargo clippy --workspace --all-targets --locked -- -D warnings

check-doc:
	@RUSTDOCFLAGS="-D warnings" $(STEP) "documentation builds" cargo doc --workspace --no-deps --document-private-items --locked

check-build:
	@$(STEP) "development build, with all tests" scripts/rust_tests.sh --locked --no-run

# Generated pages must be the ones that the code would generate now.
check-reference:
	@$(STEP) "reference pages are current" $(TEST_BIN) reference --check docs/reference
	@$(STEP) "rules and dashboards are current" cargo run -q --locked -p forebay-monitoring-gen -- --check

# Ports and a store of its own, which begins empty: a system that runs in this checkout is not disturbed.
check-once:
	@rm -rf .cache/once
	@$(STEP) "forebay up --once" $(TEST_BIN) up --once --model $(MODEL) --api-addr 127.0.0.1:0 --aggregator-addr 127.0.0.1:0 --store .cache/once

check-doctests:
	@if scripts/has_doctests.sh; then $(STEP) "documentation tests" cargo test --doc --workspace --locked; fi

check-rust:
	@STEP_LOG=rust $(STEP) "Rust tests" scripts/rust_tests.sh --locked

check-clients:
	@FOREBAY_BIN=$(TEST_BIN) STEP_LOG=clients $(STEP) "unmodified clients and metrics pages" $(VENV_PYTHON) -m pytest -q -p no:cacheprovider tests/clients

check-monitoring:
	@FOREBAY_BIN=$(TEST_BIN) STEP_LOG=monitoring $(STEP) "monitoring and deployment" $(VENV_PYTHON) -m pytest -q -p no:cacheprovider tests/monitoring

# Kernels and driver on the CPU: the binary of the tests has the feature `cuda` where there is a C++ compiler.
check-cuda:
	@if command -v $${CXX:-c++} >/dev/null; then \
	    FOREBAY_BIN=$(CURDIR)/$(TEST_BIN) STEP_LOG=cuda $(STEP) "CUDA on an emulated device" $(VENV_PYTHON) -m pytest -q -p no:cacheprovider tests/gpu; \
	else echo "-- CUDA is not tested: it needs a C++ compiler (Debian: g++)"; fi

summary:
	@scripts/summary.sh

ALERTMANAGER ?= http://127.0.0.1:9093
alert-test: ## a marked test alert through a real receiver: make alert-test RECEIVER=slack ALERTMANAGER=http://…
	@$(PYTHON) scripts/alert_test.py $${RECEIVER:?name one: pagerduty, slack, email, deadman} --alertmanager $(ALERTMANAGER)

load: ## Locust's four scenarios without its web page, with a table: make load LOAD_ARGS="--host http://127.0.0.1:8000 --users 50"
	@$(PYTHON) scripts/fetch.py nats-server model load
	@cargo build --release --locked
	@$(VENV_PYTHON) deploy/locust/load.py --model $(MODEL) $(LOAD_ARGS)

monitoring: ## write rules, dashboards and what Kubernetes gets of them, after a change of metrics or of monitoring/values.yml
	@cargo run -q --locked -p forebay-monitoring-gen
	@$(VENV_PYTHON) deploy/kubernetes/render.py

# A development build: it is the one whose clock can be put wrong, and it stops where a number overflows.
chaos: ## everything dies at random under load, for CHAOS_SECONDS=600; CHAOS_SEED=… repeats a run
	@$(PYTHON) scripts/fetch.py nats-server
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-600} cargo test --locked --workspace --test chaos -- --nocapture everything_dies_and

chaos-replicated: ## the same around three brokers that are one queue
	@$(PYTHON) scripts/fetch.py nats-server
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-600} cargo test --locked --workspace --test chaos -- --ignored --nocapture everything_dies_around

# --- benches: each prints a table, the machine and its own command line ---

bench-metrics: ## what counting and a page cost
	@cargo bench --locked -p forebay-shared --bench metrics

bench-setup:
	@$(PYTHON) scripts/fetch.py nats-server model wrk bench
	@cargo build --release --locked

bench-path: bench-setup ## what the path costs without a model, next to two peers
	@cargo build --release --locked --example bare_echo
	@$(VENV_PYTHON) benches/path.py $(BENCH_ARGS)

bench-embed: bench-setup ## sentences per second through the whole path
	@$(VENV_PYTHON) benches/embed.py --model $(MODEL) $(BENCH_ARGS)

bench-aggregator: ## what one aggregator costs with a large fleet
	@$(PYTHON) scripts/fetch.py nats-server
	@cargo bench --locked -p forebay-aggregator --bench fleet -- $(BENCH_ARGS)

bench-scaling: bench-setup ## throughput against the number of workers
	@$(VENV_PYTHON) benches/scaling.py $(BENCH_ARGS)

bench-recovery: bench-setup ## from the death or freeze of a worker to the next delivery of its work: KILLS=100 FREEZES=20
	@$(if $(filter-out 0,$(QUICK)),KILLS=$${KILLS:-3} FREEZES=$${FREEZES:-1} )FOREBAY_BIN=$(CURDIR)/$(BIN) cargo test --locked --workspace --test recovery -- --ignored --nocapture bench_recovery

bench-durability: bench-setup ## what each durability mode costs, and what it can lose
	@$(VENV_PYTHON) benches/durability.py $(BENCH_ARGS)

bench-fairness: bench-setup ## a victim beside a flooder, and lanes under overload
	@FOREBAY_BIN=$(CURDIR)/$(BIN) cargo test --locked --workspace --test fairness -- --ignored --nocapture --test-threads 1 $(BENCH_ARGS)

bench-overload: bench-setup ## answers within their deadline against offered load, with and without admission by deadline
	@FOREBAY_BIN=$(CURDIR)/$(BIN) cargo test --locked --workspace --test overload -- --ignored --nocapture --test-threads 1 $(BENCH_ARGS)

bench-batch: bench-setup ## a batch of BATCH_LINES (100000) lines, and the time lost to each kill
	@$(if $(filter-out 0,$(QUICK)),BATCH_LINES=$${BATCH_LINES:-20000} )FOREBAY_BIN=$(CURDIR)/$(BIN) cargo test --locked --workspace --test batches -- --ignored --nocapture bench_

# Not part of `make bench`: it needs no setup, and a machine with a GPU often has neither Rust nor a network.
DEVICE ?= cuda:0
bench-gpu: ## a device from its self-test to the whole system: make bench-gpu DEVICE=cuda:0 MODEL=… BIN=…; QUICK=1 for a smoke run
	@$(PYTHON) benches/gpu.py --device $(DEVICE) --model $(MODEL) --bin $(BIN) $(if $(filter-out 0,$(QUICK)),--quick) $(BENCH_ARGS)

clean: ## remove what was built
	@cargo clean

distclean: clean ## remove what was built and what was fetched
	@rm -rf .cache
