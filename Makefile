# Every target is one line of `kintsugi` or of a tool; `make help` lists them. A subcommand has the name of its target.
.DEFAULT_GOAL := help
.PHONY: help setup lock sbom scan demo up unpause down docker-up docker-down status incident recreate-cluster replace-node scale-fleet sequential-recovery bench soak-kill fault-matrix chaos-campaign stall-test chaos-stop chaos-resume mttr crash-test false-positive-test release-trials rotation-test restore-drill scaling-drill version-drill fleet-simulation rotate-secrets backup restore reconcile signals test lint test-unit test-integration test-e2e test-system test-browser screenshots clean

BIN := .venv/bin
KINTSUGI := $(BIN)/python -m kintsugi.cli
BENCHMARKS := $(BIN)/python -m benchmarks
export PYTHONPATH := $(CURDIR)/plugins

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install what is missing
	@bin/bootstrap

lock: setup  ## write the hashes of Python packages and jars again, after a change of pyproject.toml or a pom.xml
	@bin/lock

sbom: setup  ## write the software bill of materials, build/sbom.json (CycloneDX)
	@$(BIN)/python -m supply_chain.sbom

scan: sbom  ## compare it with a vulnerability database, without a network (OSV_DATABASE=directory)
	@$(BIN)/python -m supply_chain.scan

demo: setup  ## start everything, kill two nodes, show their recovery and the reconciliation (7 minutes)
	@$(BENCHMARKS) demo

up: setup  ## start the control plane and the fleet
	@$(KINTSUGI) up

unpause:  ## unpause watches, stream, ingest and drift check; needed once after the first `make up`
	@$(KINTSUGI) unpause

down:  ## stop and remove control plane, fleet and all data, also after a crash
	@if [ -x $(BIN)/python ]; then $(KINTSUGI) down; fi

docker-up:  ## build the image and start the docker environment: each node is a container
	@bin/docker-image && bin/docker-up

docker-down:  ## stop and remove the docker environment; the image stays
	@docker compose stop && docker compose run --rm control kintsugi down && docker compose down

status:  ## show nodes, DAGs, lag and incidents (FORMAT=json)
	@$(KINTSUGI) status

incident:  ## show one incident (ID=<id that `make status` lists>)
	@$(KINTSUGI) incident "$(ID)"

recreate-cluster:  ## recreate a cluster whose disks are all lost, and replay S3 (ROLE=kafka or cassandra, YES=1)
	@$(KINTSUGI) recreate-cluster $(ROLE) $(if $(YES),--yes)

replace-node:  ## drain a healthy node and replace it (NODE=kafka-2; NEW_VOLUME=1, DRY_RUN=1)
	@$(KINTSUGI) replace-node "$(NODE)" $(if $(NEW_VOLUME),--new-volume) $(if $(DRY_RUN),--dry-run)

scale-fleet:  ## add and remove nodes as fleet.yaml declares (DRY_RUN=1; RATE_MIB=20 for Kafka's replicas)
	@$(KINTSUGI) scale-fleet $(if $(RATE_MIB),--rate-mib $(RATE_MIB)) $(if $(DRY_RUN),--dry-run)

sequential-recovery:  ## kill every node and its volume in turn, twice (25 minutes; ROUNDS=3, SEED=7)
	@$(BENCHMARKS) sequential-recovery $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))

bench: setup  ## measure throughput, ceiling, latency, a spike, growth and a rival (35 minutes, resumable)
	@$(BENCHMARKS) bench

soak-kill:  ## kill the streaming driver 20 times under load and compare its tables (15 to 25 minutes)
	@$(BENCHMARKS) soak-kill

fault-matrix:  ## run every scenario of the fault matrix (3 hours, resumable; SCENARIOS="hung power_off")
	@$(if $(CELLS),echo 'kintsugi: `CELLS=` is called `SCENARIOS=` now' >&2; )$(BENCHMARKS) fault-matrix $(or $(SCENARIOS),$(CELLS))

chaos-campaign:  ## inject 100 faults in random order (4 hours, resumable; INJECTIONS=20, SEED=7)
	@$(BENCHMARKS) chaos-campaign $(if $(INJECTIONS),--injections $(INJECTIONS)) $(if $(SEED),--seed $(SEED))

stall-test:  ## stall each role and the fleet for 6 to 60 s (1 hour, resumable; SECONDS_STALLED="17 24")
	@$(BENCHMARKS) stall-test $(foreach seconds,$(SECONDS_STALLED),--seconds $(seconds))

chaos-stop:  ## stop all fault injection at once and undo its faults (REASON="why")
	@$(KINTSUGI) chaos-stop $(if $(REASON),--reason "$(REASON)")

chaos-resume:  ## allow fault injection again
	@$(KINTSUGI) chaos-resume

mttr:  ## measure 12 recoveries of each role under load (2 to 3 hours, resumable; ROLES="kafka", RATE=300)
	@$(BENCHMARKS) mttr $(foreach role,$(ROLES),--role $(role)) $(if $(RATE),--rate $(RATE))

crash-test:  ## kill the recovery at each step (1.5 hours, resumable; STEPS="fence", VICTIMS="worker", ALL=1)
	@$(BENCHMARKS) crash-test $(foreach step,$(STEPS),--step $(step)) $(foreach victim,$(VICTIMS),--victim $(victim)) $(if $(ALL),--all)

false-positive-test:  ## pause nodes for up to 5 s under load; no recovery may start (1 hour)
	@$(BENCHMARKS) false-positive-test

release-trials:  ## roll out three bad releases; each must stop after at most one node (15 minutes)
	@$(BENCHMARKS) release-trials

rotation-test:  ## renew certificates and passwords at 1,000 trades a second, and look for gaps (15 minutes)
	@$(BENCHMARKS) rotation-test

restore-drill:  ## destroy the control plane while the fleet streams, and restore it (10 minutes; NODE=kafka-2)
	@$(BENCHMARKS) restore-drill $(if $(NODE),--node "$(NODE)")

scaling-drill:  ## add a node of each role at 1,000 trades a second, and remove them again (10 minutes)
	@$(BENCHMARKS) scaling-drill

version-drill:  ## raise Kafka's version by a release that fails and by one that holds, under load (15 minutes)
	@$(BENCHMARKS) version-drill

fleet-simulation:  ## simulate 10, 100 and 1,000 nodes; needs no fleet (7 minutes; NODES="10 100", ONLY=probes, SEED=7)
	@$(BENCHMARKS) fleet-simulation $(foreach nodes,$(NODES),--nodes $(nodes)) $(if $(ONLY),--only $(ONLY)) $(if $(SEED),--seed $(SEED))

rotate-secrets:  ## renew Airflow's keys (restarts it), then all else node by node (AUTHORITY=1: the authority too)
	@$(KINTSUGI) rotate-secrets $(if $(AUTHORITY),--authority)

backup:  ## back up the control plane to S3, encrypted; it runs each night by itself
	@$(KINTSUGI) backup

restore: setup  ## restore a lost control plane from a backup (BACKUP=<time>, DIRECTORY=<copy of the bucket>)
	@$(KINTSUGI) restore $(if $(BACKUP),--backup "$(BACKUP)") $(if $(DIRECTORY),--directory "$(DIRECTORY)")

reconcile:  ## check that every trade is stored once, and every derived row is right (REPAIR=1 corrects rows)
	@$(KINTSUGI) reconcile $(if $(REPAIR),--repair)

signals:  ## measure precision and recall of the four signals; needs no fleet (10 minutes)
	@$(BENCHMARKS) signals

test: setup  ## run every check that a change must pass
	@bin/run-tests lint unit integration e2e

lint: setup  ## check style, types, rooms, Ansible and Terraform
	@bin/run-tests lint

test-unit: setup  ## run the fast tests, without servers
	@bin/run-tests unit

test-integration: setup  ## run the tests against real servers
	@bin/run-tests integration

test-e2e: setup  ## ingest, kill a node, and check that it is recovered and nothing is lost
	@bin/run-tests e2e

test-system: setup  ## run the long tests on six real servers, on Airflow and on containers (20 minutes)
	@bin/run-tests system

test-browser: setup  ## test the page Pipeline Health in headless Chromium
	@bin/with-chromium bin/run-tests browser

screenshots: setup  ## take the pictures of the README again, light and dark
	@bin/with-chromium $(BIN)/python -m tests.browser.screenshots

clean:  ## delete what builds and tests left in this directory
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis spark-warehouse

# Targets that had another name in the last release. They work for one release more.
new_name_of_form-anew := recreate-cluster
new_name_of_rounds := sequential-recovery
new_name_of_faults := fault-matrix
new_name_of_walk := crash-test
new_name_of_calm := false-positive-test
new_name_of_test-trials := test-system
.PHONY: form-anew rounds faults walk calm test-trials
form-anew rounds faults walk calm test-trials:
	@echo 'kintsugi: `make $@` is called `make $(new_name_of_$@)` now' >&2
	@$(MAKE) --no-print-directory $(new_name_of_$@)
