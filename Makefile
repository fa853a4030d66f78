# Every target sets up what it needs; a fresh machine needs Python (3.11 or newer, with its headers), a C compiler
# and make.
#
#   make test                          build and run the tests        (make test ARGS="-k ring -x")
#   make demo                          build, make and check a checksum manifest of Python's own library
#   make test PYTHON=python3.13        the same on another Python, in a virtual environment of its own
#
#   make docs                          the documentation, in build/docs
#   make wheel                         a wheel for this Python, in dist/, that machines with an older glibc can install
#   make types                         stubs against modules, examples and a program that uses everything against stubs
#   make examples                      every example
#
#   build  lint  format  stubs  hints  package  bench  bench-quick  bench-smoke  instructions  test-long
#   test-free-threaded  verify  foreign  ci  clean  distclean
#
#   make verify VERIFY_MINUTES=30      the long form of the proofs; see docs/reliability.md

PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
ARGS ?=

PY := $(VENV)/bin/python
# An older wheel rather than a newer source archive, which may need a toolchain that is not here.
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --upgrade --prefer-binary
NAME := $(notdir $(VENV))
JOBS := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
SOURCES := setup.py pyproject.toml $(wildcard spdkthread/*.p[yx][xd] spdkthread/*/*.p[yx][xd] spdkthread/*/*.h)

# What changes the build without changing a source.
BUILD_FLAGS := $(foreach name,SANITIZE COVERAGE FAULTS BREAK_ORDERING ANNOTATE CFLAGS,$(SPDKTHREAD_$(name));)$(CC);$(CFLAGS)

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: build test test-long demo examples lint format stubs types docs hints wheel package bench bench-quick bench-smoke instructions \
	test-free-threaded verify verify-deps foreign ci clean distclean FORCE
.DEFAULT_GOAL := test

# ---- set-up --------------------------------------------------------------------------------------------------------

# Stamps, not directories, are the targets: an interrupted step is done again.
$(VENV)/.deps: pyproject.toml tools/requirements.py tools/check_machine.py
	@command -v "$(PYTHON)" >/dev/null || { echo "make: no $(PYTHON) here; pass one with PYTHON=" >&2; exit 1; }
	@"$(PYTHON)" tools/check_machine.py
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@echo "Installing what the build and the tests need into $(VENV)"
	@$(PY) tools/requirements.py build run test >$(VENV)/requirements.txt
	@$(PIP_INSTALL) -r $(VENV)/requirements.txt
	@# The tree itself goes on the path: an editable install would compile every module again each time.
	@echo "$(CURDIR)" >"$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/spdkthread-tree.pth"
	@touch $@

$(VENV)/.lint-deps: $(VENV)/.deps
	@$(PY) tools/requirements.py lint >$(VENV)/requirements-lint.txt
	@$(PIP_INSTALL) -r $(VENV)/requirements-lint.txt
	@touch $@

$(VENV)/.flags: FORCE | $(VENV)/.deps
	@echo '$(BUILD_FLAGS)' | cmp -s - $@ || echo '$(BUILD_FLAGS)' >$@

# Compiled modules carry their Python's ABI tag, so several Pythons share the tree; the object files do not, so each
# environment has its own. Cython and setuptools rebuild what is out of date by themselves, but do not look at flags.
$(VENV)/.built: $(SOURCES) $(VENV)/.deps $(VENV)/.flags
	@echo "Building spdkthread for $$($(PY) -V)"
	@$(if $(and $(wildcard $@),$(filter setup.py $(VENV)/.flags,$?)),CYTHON_FORCE_REGEN=1) \
		$(PY) setup.py --quiet build_ext --inplace --build-temp build/temp$(NAME) --parallel $(JOBS) \
		$(if $(and $(wildcard $@),$(filter setup.py $(VENV)/.flags,$?)),--force)
	@touch $@

build: $(VENV)/.built

# ---- for users -----------------------------------------------------------------------------------------------------

test: build
	$(PY) -m pytest $(ARGS)

# What takes minutes: models, and CPython's own tests of asyncio on our loop.
test-long: build
	$(PY) -m pytest $(or $(ARGS),tests/long)

# Bytecode is not written meanwhile, so that the tree stays as it was when the manifest was made.
demo: export PYTHONDONTWRITEBYTECODE = 1
demo: build
	@mkdir -p build
	@tree=$$($(PY) -c "import sysconfig; print(sysconfig.get_path('stdlib'))") && \
	echo "Hashing $$tree" && \
	$(PY) examples/checksum_tree.py "$$tree" -o build/demo.sha256 && \
	(cd "$$tree" && sha256sum -c --quiet "$(CURDIR)/build/demo.sha256") && \
	echo "make demo: OK, sha256sum agrees on all $$(wc -l <build/demo.sha256) files of $$tree"

# ---- for developers ------------------------------------------------------------------------------------------------

# Each example ends by itself within seconds when it gets no argument; the demo runs the one that needs one.
EXAMPLES := $(filter-out examples/checksum_tree.py,$(wildcard examples/[a-z]*.py))
examples: build
	@test -n "$(EXAMPLES)" || { echo "make: no examples found" >&2; exit 1; }
	@for example in $(EXAMPLES); do \
		echo "== $$example"; timeout 120 $(PY) $$example </dev/null || { echo "make: $$example failed" >&2; exit 1; }; \
	done

lint: $(VENV)/.lint-deps
	@VENV=$(VENV) tools/lint.sh

format: $(VENV)/.lint-deps
	@VENV=$(VENV) tools/lint.sh --fix

# The stubs against the compiled modules. The allow-list names what Cython adds to every class.
stubs: build $(VENV)/.lint-deps
	MYPYPATH=. $(PY) -m mypy.stubtest --ignore-disjoint-bases --allowlist tools/stubtest_allowlist.txt --ignore-unused-allowlist \
		--mypy-config-file pyproject.toml spdkthread

$(VENV)/.types-deps: $(VENV)/.lint-deps
	@$(PY) tools/requirements.py types >$(VENV)/requirements-types.txt
	@$(PIP_INSTALL) -r $(VENV)/requirements-types.txt
	@touch $@

# What a user's type checker sees: the stubs, every example, a program that uses every public name, and one of mistakes.
types: stubs $(VENV)/.types-deps
	$(PY) -m mypy --strict --follow-imports=silent examples/*.py tests/typing/*.py
	$(PY) -m pyright --pythonpath $(PY) examples tests/typing

$(VENV)/.docs-deps: $(VENV)/.deps
	@$(PY) tools/requirements.py docs >$(VENV)/requirements-docs.txt
	@$(PIP_INSTALL) -r $(VENV)/requirements-docs.txt
	@touch $@

# A warning is an error, and so is a reference to what is not there.
docs: build $(VENV)/.docs-deps
	$(PY) -m sphinx -b html -W -n --keep-going -q -d build/doctrees docs build/docs
	@echo "make docs: build/docs/index.html"

hints: $(VENV)/.deps
	$(PY) tools/performance_hints.py

$(VENV)/.wheel-deps: $(VENV)/.deps
	@$(PY) tools/requirements.py wheel >$(VENV)/requirements-wheel.txt
	@$(PIP_INSTALL) -r $(VENV)/requirements-wheel.txt
	@touch $@

# tools/wheel.sh says how, and why so.
wheel: $(VENV)/.wheel-deps
	VENV=$(VENV) tools/wheel.sh . dist

# An sdist, the wheel made of it, installed into an empty environment; each is looked into, and a program runs there.
package: $(VENV)/.wheel-deps
	VENV=$(VENV) tools/check_package.sh

$(VENV)/.bench-deps: $(VENV)/.deps
	@$(PY) tools/requirements.py bench >$(VENV)/requirements-bench.txt
	@$(PIP_INSTALL) -r $(VENV)/requirements-bench.txt
	@touch $@

bench: build $(VENV)/.bench-deps
	$(PY) -m benchmarks $(ARGS)

bench-quick: build $(VENV)/.bench-deps
	$(PY) -m benchmarks --quick $(ARGS)

bench-smoke: build $(VENV)/.bench-deps
	$(PY) -m benchmarks --smoke $(ARGS)

# Counted by valgrind, so a busy machine does not matter; ARGS=--update takes what is counted for what is right.
instructions: build $(VENV)/.bench-deps
	$(PY) -m benchmarks.instructions $(ARGS)

# Builds that interpreter first, once, where there is none (tools/free_threaded_python.sh says where it is kept).
test-free-threaded:
	python=$$(tools/free_threaded_python.sh | tail -n 1) && \
	$(MAKE) test PYTHON="$$python" VENV=.venv-3.13t

# Races, leaks, faults: every stage, then a table. From 15 minutes on also what takes minutes however little it does.
VERIFY_MINUTES ?= 1
verify: verify-deps
	$(PY) -m verify --minutes $(VERIFY_MINUTES) $(ARGS)

verify-deps: build $(VENV)/.verify-deps

$(VENV)/.verify-deps: $(VENV)/.deps
	@$(PY) tools/requirements.py verify >$(VENV)/requirements-verify.txt
	@$(PIP_INSTALL) -r $(VENV)/requirements-verify.txt
	@touch $@

# Other projects' tests on our event loop: ARGS=--quick, ARGS="--only tornado"; see docs/asyncio.md.
foreign: build
	$(PY) -m verify.foreign $(ARGS)

ci:
	.ci/run

# ---- cleaning ------------------------------------------------------------------------------------------------------

clean:
	rm -rf build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage* htmlcov
	rm -f spdkthread/*.so spdkthread/*.c spdkthread/*.html spdkthread/*/*.so spdkthread/*/*.c spdkthread/*/*.html tests/cython/*.c tests/cython/*.so tests/cython/*.html
	rm -f .venv*/.built
	find . -name .venv\* -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-*
