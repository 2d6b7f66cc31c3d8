# The verbs of this project. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help test conformance policies lint fmt docs quickstart bench deny clean

CARGO ?= cargo
# As in the packages.
FEATURES := --features jemalloc
# Most black-box tests wait for time to pass, so that more of them can run at once than there are processors.
export RUST_TEST_THREADS ?= $(shell expr 3 '*' $$(nproc))

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

test: ## everything that must hold: unit, property, black-box and crash tests, examples, documentation tests
	tests/tools.sh
	$(CARGO) test --workspace --locked $(FEATURES)
	$(CARGO) build --workspace --bins --examples --locked $(FEATURES)
	tests/policies.sh
	tests/examples.sh
	tests/vectors.sh
	tests/schemathesis.sh
	tests/instructions.sh

conformance: ## regenerate docs/conformance.md: which tests prove which requirement
	WRIT_CONFORMANCE=write $(CARGO) test --locked --test service -- --exact requirements::the_page_is_as_generated

lint: ## format, clippy and documentation, with warnings as errors; no second cryptography provider
	tests/docs.sh
	@! $(CARGO) tree --workspace --locked --prefix none | grep -E '^(ring|openssl-sys|native-tls) v'
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked $(FEATURES) -- -D warnings
	$(CARGO) clippy --package writ --package writ-store --no-default-features --locked -- -D warnings
	@! $(CARGO) tree --package writ --no-default-features --edges normal --locked --prefix none | grep '^tokio-postgres v'
	$(CARGO) test --locked --test modules
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

fmt: ## format the code
	$(CARGO) fmt --all

policies: ## check the shipped policies and run their expectations
	$(CARGO) build --bins --locked
	tests/policies.sh

docs: ## the API documentation, in target/doc
	$(CARGO) doc --workspace --no-deps --locked

quickstart: ## the story in one command
	$(CARGO) run --release --locked -- quickstart --once

bench: ## measure Writ beside servers that do less; BENCH=quick takes a few minutes
	$(CARGO) bench --locked $(FEATURES) --bench steps
	$(CARGO) bench --locked $(FEATURES) --bench load
	benches/plots.py target/bench/load.json target/bench

deny: ## licences, sources and bans of dependencies (needs cargo-deny)
	cargo deny --locked check bans licenses sources

clean: ## forget what was built
	$(CARGO) clean
