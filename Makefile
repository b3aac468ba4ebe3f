# `make demo` and `make test` need nothing else to be run first. `make help` lists all targets.
#
# They need gcc, make, Python with its headers, and a package index. The demo and the tests use
# what users run: the sdist, installed in $(VENV).

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
CHAOS_ARGS ?= --seconds 180 --soak 10000000

bin = $(VENV)/bin
freethreaded = .python3.13t/bin/python3.13t
TEST_GROUP = test
package := $(shell find fastlog -name '*.py' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \
                        -o -name '*.h' -o -name py.typed)
sources = setup.py pyproject.toml MANIFEST.in README.md LICENSE $(package)

# The debug build is an in-place build of a copy of the package, so that its modules never mix
# with those of `make build`.
debug = build/debug
debug_sources = $(addprefix $(debug)/,setup.py pyproject.toml README.md LICENSE $(package))

# These tests run in a single process, because a sanitizer's library is loaded before the
# interpreter. None of them forks: gcc 12's libasan copies its allocator's lock into the child,
# which hangs if a thread of the parent holds the lock.
sanitized_tests = overflow oversize delivery format handler journal logger options outages protocols

.PHONY: help demo build debug check lint test test-fast test-freethreaded sanitize chaos bench \
        docs sdist setup clean daemons libsystemd

# Prints the comments that begin with "##".
help:
	@sed -n 's/^## \{0,1\}//p' Makefile

## The demonstration
##   make demo               log 200,000 records through a private rsyslogd
##
## Development
##   make build              build in place, only what changed
##   make debug              build in build/debug for gdb, with bounds checks and
##                           pages that show the generated C
##   make check              ruff, cython-lint, codespell and mypy; builds nothing
##   make test-fast          build, then the unit tests that are not slow
##
## Tests and measurements of the installed sdist
##   make test               the whole test suite
##   make test-freethreaded  the suite on CPython 3.13 without a GIL, which is
##                           built first (about 6 minutes)
##   make lint               make check, stubtest and cibuildwheel's configuration
##   make sanitize           the unit tests with AddressSanitizer and UBSanitizer
##                           (about 4 minutes)
##   make chaos              stop daemons and kill processes, then check that no
##                           loss is unreported (about 6 minutes);
##                           CHAOS_ARGS="--seed N --seconds N --soak N"
##   make bench              the benchmarks (about 30 minutes);
##                           BENCH_ARGS=--quick for a smoke test
##
## Everything else
##   make docs               build the documentation as a site in $VENV/docs
##   make sdist              build the source distribution in dist/
##   make setup              install what demo, test, lint, chaos and sanitize
##                           need, including the daemons
##   make daemons            install the Debian packages that the tests use
##   make libsystemd         install the headers that make bench needs
##   make clean              remove everything that these targets built
##   make help               print this list
##
## Variables
##   PYTHON=python3.13 VENV=.venv-3.13   use another interpreter
##   PYTEST_ARGS="-k spool"              pass arguments to pytest

demo: $(VENV)/installed daemons
	$(bin)/fastlog demo

# The generated C is stored in build/temp.*, where it does not clutter the source tree.
build: $(VENV)/tools-build
	$(bin)/python setup.py --quiet build_ext --inplace --cython-c-in-temp

debug: $(VENV)/tools-build $(debug_sources)
	@cd $(debug) && find fastlog -name '*.p*' | while read -r file; do \
	    test -e "$(CURDIR)/$$file" || rm "$$file"; done
	cd $(debug) && FASTLOG_DEBUG=1 "$(abspath $(bin))/python" setup.py --quiet build_ext --inplace
	@echo 'Import it with PYTHONPATH="$(CURDIR)/$(debug)"'

# Copies a file into the debug tree. A directive on a file's first line takes precedence over any
# option, so bounds checks are enabled there.
$(debug)/%: %
	@mkdir -p $(@D)
	@sed -E '1s/(boundscheck|initializedcheck)=False/\1=True/g' $< > $@

check: $(VENV)/tools-lint
	PATH="$(abspath $(bin)):$$PATH"; set -e; \
	ruff check .; \
	cython-lint fastlog tests/native; \
	codespell; \
	mypy

lint: check $(VENV)/installed
	PATH="$(abspath $(bin)):$$PATH" \
	    cibuildwheel --platform linux --print-build-identifiers > /dev/null
	cd $(VENV) && bin/python -m mypy.stubtest fastlog --ignore-missing-stub \
	    --ignore-unused-allowlist --allowlist "$(CURDIR)/tests/native/stubtest-allowlist"

test: $(VENV)/installed $(VENV)/tools-$(TEST_GROUP) daemons
	$(bin)/pytest $(PYTEST_ARGS)

# Tests the in-place build, because installing the sdist takes longer than these tests do. The
# path is absolute because tests start processes in other directories.
test-fast: build $(VENV)/tools-test
	PYTHONPATH="$(CURDIR)" $(bin)/pytest -m "not slow" $(PYTEST_ARGS) tests/unit

test-freethreaded: $(freethreaded)
	PYTHON_GIL=0 $(MAKE) test TEST_GROUP=test-freethreaded PYTHON="$(abspath $(freethreaded))" \
	    VENV=.venv-3.13t

$(freethreaded):
	tests/native/python-freethreaded .python3.13t

sanitize: $(VENV)/installed $(VENV)/tools-test
	rm -rf $(VENV)/sanitized
	CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -O1 -g" \
	    $(bin)/pip install -q --no-deps --no-cache-dir --target $(VENV)/sanitized \
	        $(VENV)/dist/*.tar.gz
	PYTHONPATH="$(abspath $(VENV))/sanitized" LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" \
	    ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_abort=0 PYTHONMALLOC=malloc \
	    $(bin)/pytest $(sanitized_tests:%=tests/unit/test_%.py)

chaos: $(VENV)/installed daemons
	$(bin)/python tests/chaos $(CHAOS_ARGS)

bench: $(VENV)/installed $(VENV)/tools-bench daemons
	$(bin)/python bench/run.py $(BENCH_ARGS)

docs: $(VENV)/installed $(VENV)/tools-docs
	$(bin)/mkdocs build --quiet --config-file docs/site/mkdocs.yml \
	    --site-dir "$(abspath $(VENV))/docs"

sdist: $(VENV)/sdist

setup: $(VENV)/installed $(VENV)/tools-test $(VENV)/tools-lint daemons

clean:
	rm -rf .venv* .python3.13t dist build *.egg-info .pytest_cache .hypothesis .mypy_cache \
	    .ruff_cache .benchmarks
	find fastlog \( -name '*.so' -o -name '*.c' \) -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments --------------------------------------------------------------------------------

# Installs the Debian packages that are listed in the shell variable `missing`. Where that is not
# possible, prints the shell variable `effect`, which says what does not work without them.
define install_missing
names="$$(echo $$missing | sed 's/ /, /g')"; \
if [ -z "$$missing" ]; then :; \
elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
    echo "Installing Debian packages: $$names"; \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $$missing > /dev/null; \
else \
    echo "Missing Debian packages (root can install them with apt-get): $$names"; \
    printf '%b' "$$effect"; \
fi
endef

# Debian puts ensurepip, which venv needs, into a package of its own. The upgrade is needed because
# a new environment's pip may be too old for dependency groups (25.1).
$(VENV)/created:
	@missing=$$($(PYTHON) -c 'import ensurepip' 2> /dev/null || \
	    $(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	effect="  without it: no environment can be created in $(VENV)\n"; \
	$(install_missing)
	$(PYTHON) -m venv $(VENV)
	$(bin)/pip install -q --upgrade pip build
	@touch $@

# Newer versions of Hypothesis are partly written in Rust. pip takes the newest version that has a
# wheel for this Python.
$(VENV)/tools-%: $(VENV)/created pyproject.toml
	$(bin)/pip install -q --only-binary hypothesis --group $*
	@touch $@

# systemd-python, one of the handlers in the benchmarks, has no wheels and must be compiled.
$(VENV)/tools-bench: | libsystemd

$(VENV)/sdist: $(VENV)/created $(sources)
	$(bin)/python -m build --sdist --outdir $(VENV)/dist . > $(VENV)/sdist.log 2>&1 || \
	    { cat $(VENV)/sdist.log; exit 1; }
	mkdir -p dist && cp $(VENV)/dist/*.tar.gz dist/
	@touch $@

$(VENV)/installed: $(VENV)/sdist
	$(bin)/pip install -q --force-reinstall --no-deps $(VENV)/dist/*.tar.gz
	@touch $@

# Without libsystemd's headers, pip cannot compile systemd-python.
libsystemd:
	@missing=; pkg-config --exists libsystemd 2> /dev/null || missing="libsystemd-dev pkg-config"; \
	effect="  without them: make bench cannot install systemd-python\n"; \
	$(install_missing)

# Without the daemons the tests that need them are skipped.
daemons:
	@PATH="$$PATH:/usr/sbin:/sbin:/lib/systemd:/usr/lib/systemd"; missing=; effect=; \
	lacks() { missing="$$missing $$1"; effect="$$effect  without $$1: $$2\n"; }; \
	command -v rsyslogd > /dev/null || \
	    lacks rsyslog "tests that start rsyslogd are skipped, make demo uses a receiver"; \
	for module in relp kafka elasticsearch; do \
	    ls /usr/lib*/rsyslog/om$$module.so /usr/lib/*/rsyslog/om$$module.so 2> /dev/null | \
	        grep -q . || lacks rsyslog-$$module "tests that use om$$module are skipped"; \
	done; \
	command -v ip > /dev/null || \
	    lacks iproute2 "tests of forwarding use the loopback interface instead of namespaces"; \
	command -v systemd-journald > /dev/null || \
	    lacks systemd "tests that start journald are skipped"; \
	command -v redis-server > /dev/null || \
	    lacks redis-server "tests of RQ are skipped"; \
	command -v busybox > /dev/null || \
	    lacks busybox "tests of BusyBox's syslogd are skipped"; \
	$(install_missing)
