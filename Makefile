# Every target installs what it needs into .venv first.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
RUN := .venv/bin/python
LOOPBACK := $(RUN) -m loopback
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export NO_ALBUMENTATIONS_UPDATE := 1
export TF_CPP_MIN_LOG_LEVEL := 2

.PHONY: help install demo report test clean

help:
	@echo "make install  install everything into .venv, in the exact versions of requirements.lock"
	@echo "make demo     a made-up city, a baseline, a sweep and its report: minutes on a laptop, no account"
	@echo "make report SWEEP=entity/project/sweep_id [DATA=data/prepared] [OUT=results/name]"
	@echo "              every figure of a sweep, and one page with all of them"
	@echo "make test     linting, types and all tests"
	@echo "make clean    remove .venv (data, runs and results stay)"

install: .venv/.ready
	@echo "Installed into .venv. Next:"
	@echo "  source .venv/bin/activate    once per terminal"
	@echo "  make demo                    a whole project in minutes, without an account"
	@echo "GPU, conda, notebooks and the real data: README.md"

# Compiled here: where Python may not write bytecode, each start would compile TensorFlow anew.
.venv/.ready: requirements.lock loopback/pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) has no venv module; on Debian: apt install python3-venv" >&2; exit 1; }
	@.venv/bin/pip install --quiet --disable-pip-version-check uv==0.13.8
	.venv/bin/uv pip sync --quiet --require-hashes --compile-bytecode --system-certs --python $(RUN) requirements.lock
	@.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --system-certs --python $(RUN) --editable ./loopback
	@touch $@

data/city: | .venv/.ready
	$(RUN) -m segmentation.synthetic $@

demo: .venv/.ready | data/city
	$(RUN) -m segmentation.prepare data/city data/demo --patch-size 64
	$(LOOPBACK) exec --project aerial-sweeps -- env WANDB_RUN_ID=demo-baseline python train.py --data data/demo --epochs 6
	$(LOOPBACK) sweep sweeps/demo.yaml --agents 2
	$(LOOPBACK) exec -- python -m analysis.report --data data/demo --out results/demo \
	  $$($(LOOPBACK) sweep sweeps/demo.yaml --print-path 2>/dev/null)

DATA ?= data/prepared
OUT ?= results/$(notdir $(SWEEP))
report: .venv/.ready
	@test -n "$(SWEEP)" || { echo "make: which sweep? make report SWEEP=entity/project/sweep_id" >&2; exit 1; }
	$(if $(filter loopback/%,$(SWEEP)),$(LOOPBACK) exec -- python,$(RUN)) -m analysis.report $(SWEEP) --data $(DATA) --out $(OUT)

test: .venv/.ready
	ruff check .
	ruff format --check .
	mypy
	$(RUN) -m pytest -n 4 --dist loadfile --no-loadscope-reorder  # conftest.py orders them

clean:
	rm -rf .venv
