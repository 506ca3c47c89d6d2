# make reproduce: environment, data, training, notebooks, results/index.html     make test: the whole test suite
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
PRESET ?= small
JOBS ?= 2
SEEDS ?= 1
BIN := $(VENV)/bin
MODULES = $(sort $(filter-out unisr/run.py,$(shell find unisr -name '[!_]*.py')))
STAMP := $(VENV)/.installed

# One thread a process: the suite runs JOBS processes side by side, and tests compare floats bit for bit.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: reproduce report test test-slow test-browser test-faults first-contact notebooks docs lint clean

reproduce: $(STAMP)
	$(BIN)/unisr reproduce --preset $(PRESET) --seeds $(SEEDS) --jobs $(JOBS)

report: $(STAMP)
	$(BIN)/unisr report

# Tests and notebooks in one pytest session; loadfile keeps the cells of a notebook together and in order.
# Runs made by the notebooks go to a folder of their own, so that no stored run can stand in for a broken one.
test: $(STAMP)
	$(BIN)/unisr prepare ml-100k
	rm -rf .test-results
	UNISR_RESULTS=$(CURDIR)/.test-results $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval tests notebooks

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow tests

# Every notebook in JupyterLab and a real browser (Debian's chromium, or the one that UNISR_CHROMIUM names).
test-browser: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e .[browser]
	$(BIN)/python -m pytest -m browser tests/browser

# The long forms of kills, full disks, damage and generated bad inputs: half an hour of CPU time and more.
test-faults: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) -m faults tests/faults

# A newcomer's minutes: a fresh clone and environment, then the quickstart's table, plot and slider.
first-contact:
	rm -rf build/newcomer
	git clone -q . build/newcomer
	bash -c 'time $(MAKE) --no-print-directory -C build/newcomer .venv/.installed'
	bash -c 'cd build/newcomer && time .venv/bin/papermill --no-progress-bar notebooks/00_quickstart.ipynb 00.ipynb -k python3'

# Execute the notebooks in place: renews the stored outputs that nbval compares.
notebooks: $(STAMP)
	$(BIN)/python -m unisr.report.refresh

# The reference of all modules, from their docstrings, in build/api/index.html.
docs: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e .[docs]
	$(BIN)/python -m pdoc --math -d google -o build/api unisr $(subst /,.,$(basename $(MODULES)))

lint: $(STAMP)
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) .test-results build unisr.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# torch comes first, under its pin, so that no other package can pull a CUDA build (see constraints.txt).
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e .[test]
	touch $@
