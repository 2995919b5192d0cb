# `make demo` and `make test` are all it takes beside a Rust toolchain (https://rustup.rs).
# Every target installs the system packages that are missing, and asks for nothing when all is there.

CARGO ?= cargo
# Queries are checked against .sqlx/; building needs no database.
export SQLX_OFFLINE = true

.PHONY: demo run test check counts system-packages help
.DEFAULT_GOAL := help

help: ## Says what there is.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

demo: system-packages ## A whole call with simulated far ends: transcript, lead, latencies.
	$(CARGO) run --quiet -- demo

run: system-packages ## The server, with a private PostgreSQL unless DATABASE_URL is set.
	$(CARGO) run --quiet -- serve

test: system-packages ## All tests.
	@scripts/test

check: system-packages ## What CI asks of every commit, without the tests.
	@scripts/check

counts: ## Instructions per frame against the committed baseline; BLESS=1 writes a new one.
	@scripts/system-packages valgrind
	$(CARGO) bench --quiet --bench instructions -- $(if $(BLESS),--bless)

system-packages:
	@scripts/system-packages
