# Every target is one line of `kintsugi` or of a tool; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo up unpause down docker-up docker-down status incident form-anew rounds faults chaos-campaign stall-test chaos-stop chaos-resume mttr walk calm bench soak-kill release-trials reconcile signals test lint test-unit test-integration test-e2e test-trials test-browser screenshots clean

BIN := .venv/bin
KINTSUGI := $(BIN)/python -m kintsugi.cli
BENCHMARKS := $(BIN)/python -m benchmarks
export PYTHONPATH := $(CURDIR)/plugins

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install what is missing; quick when nothing is
	@bin/bootstrap

demo: setup  ## from nothing to two servers killed and healed, and the account (about 7 minutes)
	@$(BENCHMARKS) demo

up: setup  ## start the control plane and the fleet
	@$(KINTSUGI) up

unpause:  ## let every watch, the stream, the ingest and the look for drift run; a new installation waits for this
	@$(KINTSUGI) unpause

down:  ## stop and remove everything, also after a crash
	@if [ -x $(BIN)/python ]; then $(KINTSUGI) down; fi

docker-up:  ## the docker environment: build the image, start the control plane, which makes every node a container
	@bin/docker-image && bin/docker-up

docker-down:  ## stop and remove all of the docker environment; the image stays
	@docker compose stop && docker compose run --rm control kintsugi down && docker compose down

status:  ## fleet, DAGs, lag, incidents; FORMAT=json for programs
	@$(KINTSUGI) status

incident:  ## the story of one incident: make incident ID=<as `make status` lists it>
	@$(KINTSUGI) incident "$(ID)"

form-anew:  ## when a role's disks are gone: an empty cluster, and all trades again from S3 (ROLE=kafka or cassandra; YES=1 doesn't ask)
	@$(KINTSUGI) form_anew $(ROLE) $(if $(YES),--yes)

rounds:  ## on the running fleet: every node's plug pulled in turn, twice (about 25 minutes; ROUNDS=3 for more), with medians by role
	@$(BENCHMARKS) rounds $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))

bench: setup  ## on the running fleet: rates, ceiling, latency, spike, growth (about 20 minutes)
	@$(BENCHMARKS) bench

soak-kill:  ## on the running fleet: the streaming driver killed twenty times, tables compared (15 to 25 minutes)
	@$(BENCHMARKS) soak

faults:  ## on the running fleet: the table of faults, cell by cell (about three hours, goes on where it was ended; CELLS="hung power_off" for some)
	@$(BENCHMARKS) faults $(CELLS)

chaos-campaign:  ## on the running fleet: 100 injections in random order, a quarter of them two at once (about four hours, goes on where it was ended; INJECTIONS=20 SEED=7)
	@$(BENCHMARKS) chaos-campaign $(if $(INJECTIONS),--injections $(INJECTIONS)) $(if $(SEED),--seed $(SEED))

stall-test:  ## on the running fleet: every role and the fleet stand still for 6, 12, 17, 24 and 60 s (about an hour, goes on where it was ended; SECONDS_STALLED="17 24")
	@$(BENCHMARKS) stall-test $(foreach seconds,$(SECONDS_STALLED),--seconds $(seconds))

chaos-stop:  ## stop all chaos at once and take its faults back (REASON="a word to the others")
	@$(KINTSUGI) chaos stop $(if $(REASON),--reason "$(REASON)")

chaos-resume:  ## allow chaos again
	@$(KINTSUGI) chaos resume

mttr:  ## on the running fleet: 12 repairs a role under load, beside starts by hand (two to three hours; ROLES="kafka" RATE=300 for some)
	@$(BENCHMARKS) mttr $(foreach role,$(ROLES),--role $(role)) $(if $(RATE),--rate $(RATE))

walk:  ## on the running fleet: the recoverer killed at every step (about an hour and a half, goes on where it was ended; STEPS="fence rejoin" VICTIMS="worker", ALL=1 for every part at every step, about three hours)
	@$(BENCHMARKS) walk $(foreach step,$(STEPS),--step $(step)) $(foreach victim,$(VICTIMS),--victim $(victim)) $(if $(ALL),--all)

calm:  ## on the running fleet: an hour under load with nodes paused for up to 5 s, in which nothing may be repaired
	@$(BENCHMARKS) calm

release-trials:  ## on the running fleet: three bad releases, each caught with one node touched at most (about 15 minutes)
	@$(BENCHMARKS) release-trials

reconcile:  ## account for every trade and every row that follows from them (REPAIR=1: repair derived tables)
	@$(KINTSUGI) reconcile $(if $(REPAIR),--repair)

signals:  ## how well the four signals find planted behaviour: table, build/signals.json, PNG (about 10 minutes)
	@$(BENCHMARKS) signals

test: setup  ## everything that a change must pass
	@bin/run-tests lint unit integration e2e

lint: setup  ## style, types, Ansible and Terraform
	@bin/run-tests lint

test-unit: setup  ## fast tests, no servers
	@bin/run-tests unit

test-integration: setup  ## tests against real servers, one kind at a time
	@bin/run-tests integration

test-e2e: setup  ## ingest, kill a node, healed, nothing lost
	@bin/run-tests e2e

test-trials: setup  ## releases on six real servers; full disks, wrong clocks; a living Airflow that tells; containers, where an engine answers (about 20 minutes)
	@bin/run-tests trials

test-browser: setup  ## Pipeline Health in headless Chromium: made-up pipeline, then a real Airflow
	@bin/with-chromium bin/run-tests browser

screenshots: setup  ## the README's pictures, light and dark, into docs/images/
	@bin/with-chromium $(BIN)/python -m tests.browser.screenshots

clean:  ## delete what builds and tests left in this directory
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis spark-warehouse
