# `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# rustup installs here; a shell that was open before does not know it yet.
export PATH := $(HOME)/.cargo/bin:$(PATH)

program := $(or $(CARGO_TARGET_DIR),target)/release/frontrow

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## install what is missing, build, and run a demonstration on private servers
	scripts/setup.sh run
	cargo build --release --locked
	$(program) dev

.PHONY: test
test: ## run all tests on MySQL (ENGINE=mysql refuses anything else; ARGS goes to cargo test)
	scripts/setup.sh test
	scripts/test.sh $(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

# What is most about the database: its schema, statements, locks, transactions and clock. To the others it is the same whichever
# it is. ALL=1 runs them too.
about_sql := statements:: plans:: migrations:: audit:: conflicts:: units:: idempotency:: outbox:: jobs:: grants:: combiner:: \
  hold_model:: line_model:: card_model:: shared_payments:: bookkeeping:: cancellation:: aftermath::a_ journey:: \
  availability:: ownership:: blocks:: races::money tickets:: mails:: webhooks:: \
  crashes::payments_outlive_the_database --skip races::tickets

.PHONY: test-mariadb
test-mariadb: ## run the tests that are about SQL on MariaDB (ALL=1: all integration tests)
	scripts/setup.sh mariadb
	FRONTROW_HOLD_CASES=$(if $(ALL),300,40) FRONTROW_PAYMENT_CASES=$(if $(ALL),300,40) \
	  scripts/test.sh --engine mariadb $(or $(ARGS),$(if $(ALL),,-- $(about_sql)))

.PHONY: test-crowd
test-crowd: ## lobby, draw and waiting with 100,000 buyers (CROWD=), in a release build
	scripts/setup.sh test
	FRONTROW_CROWD=$(or $(CROWD),100000) scripts/test.sh $(if $(ENGINE),--engine $(ENGINE)) --release --test integration \
	  -- --nocapture lobby::a_large_lobby waiting::waiting_costs

.PHONY: test-stampede
test-stampede: ## 2,000 clients (CLIENTS=) before caches that are cold, old, slow to fill, or whose loader is killed
	scripts/setup.sh test
	FRONTROW_STAMPEDE=$(or $(CLIENTS),2000) scripts/test.sh $(if $(ENGINE),--engine $(ENGINE)) --test integration \
	  -- --nocapture --test-threads 1 stampede::

.PHONY: test-long
test-long: ## the model tests of holds and of payments by card with 10,000 cases (CASES=)
	scripts/setup.sh test
	FRONTROW_HOLD_CASES=$(or $(CASES),10000) FRONTROW_PAYMENT_CASES=$(or $(CASES),10000) \
	  scripts/test.sh $(if $(ENGINE),--engine $(ENGINE)) --test integration -- --nocapture hold_model:: card_model::

.PHONY: test-payments
test-payments: ## 2,000 buyers (PAYERS=) pay 1,000 seats by card at a provider that misbehaves, in a release build
	scripts/setup.sh test
	FRONTROW_PAYERS=$(or $(PAYERS),2000) scripts/test.sh $(if $(ENGINE),--engine $(ENGINE)) --release --test integration \
	  -- --nocapture card_fight::

.PHONY: test-losses
test-losses: ## each loss of a store with 500 clients and an outage of 30 s, one after the other (CLIENTS=, ENGINE=)
	scripts/setup.sh $(if $(filter mariadb,$(ENGINE)),mariadb,test)
	FRONTROW_CLIENTS=$(or $(CLIENTS),500) FRONTROW_OUTAGE_SECS=30 scripts/test.sh $(if $(ENGINE),--engine $(ENGINE)) \
	  --test integration -- --nocapture --test-threads 1 losses:: cache_away::without_mysql

.PHONY: test-upgrade
test-upgrade: ## upgrade a serving fleet of the previous version (ENGINE=mysql or mariadb)
	scripts/setup.sh $(if $(filter mariadb,$(ENGINE)),mariadb,test)
	scripts/test-upgrade.sh $(if $(ENGINE),--engine $(ENGINE))

.PHONY: lint
lint: ## check the formatting, and clippy without a warning
	scripts/setup.sh lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test upgrade -- -D warnings

.PHONY: contract
contract: ## test a running server against its own /openapi.json (settings: scripts/contract.sh)
	scripts/setup.sh contract
	cargo build --locked
	FRONTROW_BIN=$(or $(CARGO_TARGET_DIR),target)/debug/frontrow scripts/contract.sh

.PHONY: load-queue
load-queue: ## a minute of buyers joining the line (settings: scripts/load.sh)
	scripts/setup.sh load
	cargo build --release --locked
	FRONTROW_BIN=$(program) scripts/load.sh load-queue

.PHONY: load-reservation
load-reservation: ## a minute of buyers going all the way to a ticket (settings: scripts/load.sh)
	scripts/setup.sh load
	cargo build --release --locked
	FRONTROW_BIN=$(program) scripts/load.sh load-reservation

.PHONY: stampede
stampede: ## a crowd at the opening without a cache, with a cold one, and warmed (settings: scripts/stampede.sh)
	scripts/setup.sh load
	cargo build --release --locked
	FRONTROW_BIN=$(program) scripts/stampede.sh

.PHONY: bench
bench: ## compare with bare handlers, side by side (ROWS=poll,join to choose, ROUNDS=5, SECS=3)
	scripts/setup.sh bench
	cargo bench --locked --bench onsale -- $(if $(ROWS),--rows $(ROWS)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SECS),--secs $(SECS))

.PHONY: clean-data
clean-data: ## forget the demonstration's data; the next run starts anew
	@if [ -e .frontrow/dev/lock ]; then \
	  flock --nonblock .frontrow/dev/lock true || { echo "stop the running demonstration first" >&2; exit 1; }; \
	fi
	rm -rf .frontrow/dev
