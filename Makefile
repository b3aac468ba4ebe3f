# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
#
# They need gcc, make, Python with its headers, and a package index. What is
# demonstrated and tested is what users run: the sdist, installed in $(VENV).

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
CHAOS_ARGS ?= --seconds 180 --soak 10000000

bin = $(VENV)/bin
freethreaded = .python3.13t/bin/python3.13t
sources = setup.py pyproject.toml MANIFEST.in README.md LICENSE \
          $(shell find fastlog -name '*.py' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \
                       -o -name '*.h' -o -name py.typed)

# What runs in one process, so that a sanitizer's library can be loaded before the interpreter.
# Nothing that forks: gcc 12's libasan takes its allocator's lock into the child if a thread has it.
sanitized_tests = overflow oversize delivery format handler journal logger options outages protocols

.PHONY: help demo test test-freethreaded chaos sanitize bench docs lint sdist daemons libsystemd setup clean

help:
	@echo 'make demo    build, then log 200,000 records through a real rsyslogd and show them'
	@echo 'make test    the whole test suite, against the installed sdist'
	@echo 'make test-freethreaded  the suite on CPython 3.13 without a GIL, which is built first (6 minutes)'
	@echo 'make chaos   daemons in trouble, processes that are killed: is anything lost without a word?'
	@echo '             (about 6 minutes); CHAOS_ARGS="--seed N --seconds N --soak N"'
	@echo 'make sanitize  the whole extension with AddressSanitizer and UBSanitizer (about 4 minutes)'
	@echo 'make bench   the benchmarks (about 30 minutes); BENCH_ARGS=--quick for a look'
	@echo 'make docs    the documentation as a site, in $(VENV)/docs'
	@echo 'make lint    ruff, cython-lint, mypy, stubtest, and whether cibuildwheel takes its configuration'
	@echo 'make sdist   the source distribution, in dist/'
	@echo 'make setup   what demo, test, lint, chaos and sanitize need, daemons included'
	@echo 'make clean   remove what was built'
	@echo 'PYTHON=python3.13 VENV=.venv-3.13 choose another interpreter'

demo: $(VENV)/installed daemons
	$(bin)/fastlog demo

test: $(VENV)/installed $(VENV)/tools-test daemons
	$(bin)/pytest $(PYTEST_ARGS)

test-freethreaded: $(freethreaded)
	PYTHON_GIL=0 $(MAKE) test PYTHON="$(abspath $(freethreaded))" VENV=.venv-3.13t

$(freethreaded):
	tests/native/python-freethreaded .python3.13t

chaos: $(VENV)/installed daemons
	$(bin)/python tests/chaos $(CHAOS_ARGS)

sanitize: $(VENV)/installed $(VENV)/tools-test
	rm -rf $(VENV)/sanitized
	CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -O1 -g" \
	    $(bin)/pip install -q --no-deps --no-cache-dir --target $(VENV)/sanitized $(VENV)/dist/*.tar.gz
	PYTHONPATH="$(abspath $(VENV))/sanitized" LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" \
	    ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_abort=0 PYTHONMALLOC=malloc \
	    $(bin)/pytest $(sanitized_tests:%=tests/unit/test_%.py)

bench: $(VENV)/installed $(VENV)/tools-bench daemons
	$(bin)/python bench/run.py $(BENCH_ARGS)

docs: $(VENV)/installed $(VENV)/tools-docs
	$(bin)/mkdocs build --quiet --config-file docs/site/mkdocs.yml \
	    --site-dir "$(abspath $(VENV))/docs"

lint: $(VENV)/installed $(VENV)/tools-lint
	PATH="$(abspath $(bin)):$$PATH"; set -e; \
	ruff check .; \
	cython-lint fastlog tests/native; \
	mypy; \
	cibuildwheel --platform linux --print-build-identifiers > /dev/null
	cd $(VENV) && bin/python -m mypy.stubtest fastlog --ignore-missing-stub

sdist: $(VENV)/sdist

setup: $(VENV)/installed $(VENV)/tools-test $(VENV)/tools-lint daemons

clean:
	rm -rf .venv* .python3.13t dist build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what they are made of -----------------------------------------------------------------------

# A fresh environment's pip may be too old for dependency groups (25.1). Debian
# keeps the venv module's other half in a package of its own.
$(VENV)/created:
	$(PYTHON) -m venv $(VENV) || { test "$$(id -u)" = 0 && apt-get update -qq && \
	    apt-get install -y -qq python3-venv && $(PYTHON) -m venv --clear $(VENV); }
	$(bin)/pip install -q --upgrade pip build
	@touch $@

# Hypothesis is partly in Rust now; its last version that has a wheel for this Python will do.
$(VENV)/tools-%: $(VENV)/created pyproject.toml
	$(bin)/pip install -q --only-binary hypothesis --group $*
	@touch $@

# One of the handlers compared, systemd-python, is compiled.
$(VENV)/tools-bench: | libsystemd

$(VENV)/sdist: $(VENV)/created $(sources)
	$(bin)/python -m build --sdist --outdir $(VENV)/dist . > $(VENV)/sdist.log 2>&1 || \
	    { cat $(VENV)/sdist.log; exit 1; }
	mkdir -p dist && cp $(VENV)/dist/*.tar.gz dist/
	@touch $@

$(VENV)/installed: $(VENV)/sdist
	$(bin)/pip install -q --force-reinstall --no-deps $(VENV)/dist/*.tar.gz
	@touch $@

libsystemd:
	@if pkg-config --exists libsystemd 2> /dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends libsystemd-dev pkg-config > /dev/null; \
	else \
	    echo "libsystemd's headers are missing: the benchmarks' tools cannot be installed"; \
	fi

daemons:
	@PATH="$$PATH:/usr/sbin:/sbin:/lib/systemd:/usr/lib/systemd"; missing=; \
	command -v rsyslogd > /dev/null || missing=rsyslog; \
	for module in relp kafka elasticsearch; do \
	    ls /usr/lib*/rsyslog/om$$module.so /usr/lib/*/rsyslog/om$$module.so 2> /dev/null | \
	        grep -q . || missing="$$missing rsyslog-$$module"; \
	done; \
	command -v ip > /dev/null || missing="$$missing iproute2"; \
	command -v systemd-journald > /dev/null || missing="$$missing systemd"; \
	command -v redis-server > /dev/null || missing="$$missing redis-server"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends $$missing > /dev/null; \
	elif [ -n "$$missing" ]; then \
	    echo "not installed, and only root could: $$missing; some tests will be skipped"; \
	fi
