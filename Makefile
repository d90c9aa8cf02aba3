# make run: the whole path on the embedded set    make test: export, clean, notebooks, pytest    make app: the page
PYTHON ?= python3
DATA ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MPLBACKEND ?= Agg
.DEFAULT_GOAL := help
.PHONY: help install run test test-all app bench bundles clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 18

$(INSTALLED): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"audiotag needs Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: install one and run make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

install: $(INSTALLED) ## make .venv and install the project there

run: $(INSTALLED) ## the whole path: clips, images, training, fine-tuning, bundles, tags (DATA=folder: on real archives)
	@audiotag run $(if $(DATA),--data "$(DATA)") $(if $(WEIGHTS),--weights "$(WEIGHTS)")

test: $(INSTALLED) ## export and clean leave no diff, notebooks pass, pytest passes
	@bash tests/run.sh

test-all: $(INSTALLED) ## the same with the slow cells and tests
	@bash tests/run.sh slow

app: $(INSTALLED) ## the page, on the shipped bundles
	@python app.py

bench: $(INSTALLED) ## every comparison with its peers; rewrites benchmarks/RESULTS.md (11 minutes; DEVICE=cuda on a GPU)
	@python -W ignore benchmarks/run.py $(if $(DEVICE),--device "$(DEVICE)")

bundles: $(INSTALLED) ## write the shipped bundles again from their weights and config.json
	@python -W ignore -c "from audiotag.bundle import find_bundles; from audiotag.export import reexport_bundle; [print(reexport_bundle(folder)) for folder in find_bundles('models').values()]"

clean: ## remove the environment and what make run made
	rm -rf $(VENV) data/synthetic models/synthetic-*
