# `make demo` and `make test` set everything up by themselves, in a private .venv.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
RUN := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: help demo test clean

help:
	@echo "make demo    a made-up city, prepared and trained on: minutes on a laptop, no account"
	@echo "make test    style, layering and every truth the tests state"
	@echo "make clean   remove .venv (data and runs stay)"

.venv/.ready: requirements.lock
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) has no venv module; on Debian: apt install python3-venv" >&2; exit 1; }
	@.venv/bin/pip install --quiet --disable-pip-version-check uv==0.13.8
	.venv/bin/uv pip sync --quiet --python $(RUN) requirements.lock
	@touch $@

test: .venv/.ready
	ruff check .
	ruff format --check .
	$(RUN) -m pytest -n 2

clean:
	rm -rf .venv
