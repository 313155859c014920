# make study | make test | make theory | make bench | make interop: each makes its own environment in .venv first.
# PYTHON picks the interpreter (3.10 to 3.13); CONSTRAINTS= (empty) leaves the versions to pip, for a torch of your own.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
RUN = $(VENV)/bin/python
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

.PHONY: study test theory bench interop lint clean
study: $(VENV)/plots
	$(RUN) -m recycle study two-hop --preset quick

test: $(VENV)/dev
	$(RUN) -m pytest -q

theory: $(VENV)/plots
	$(RUN) -m theory

bench: $(VENV)/plots
	$(RUN) -m bench

interop: $(VENV)/dev $(VENV)/interop
	$(RUN) -m pytest -q -m interop

lint: $(VENV)/dev
	$(RUN) -m ruff check .
	$(RUN) -m mypy

$(RUN):
	$(PYTHON) -m venv $(VENV)

$(VENV)/plots: setup.cfg $(CONSTRAINTS) | $(RUN)
	$(INSTALL) --editable .[plots]
	@touch $@

$(VENV)/interop: setup.cfg $(CONSTRAINTS) | $(RUN)
	$(INSTALL) --editable .[interop]
	@touch $@

$(VENV)/dev: setup.cfg $(CONSTRAINTS) | $(RUN)
	$(INSTALL) --editable .[plots,stats,dev]
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
