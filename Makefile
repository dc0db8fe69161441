# make demo      set everything up and rerank real text with the bundled model
# make test      set everything up and run the tests
# make check     lint, types, and the tests that need no torch, no Ray, no browser and no second environment
# make promises  the promises of speed, memory and agreement that take less than ten minutes to measure
# make lint      style, types
# make docs      the site of docs/ and the public docstrings, in build/site
# make screenshots  the pictures of docs/playground.md, taken anew
# make format    rewrite the code in the project's style
# make sanitize  the C++ under the thread sanitizer, then the C++ and its Python tests under the address and
#                undefined-behaviour sanitizers (Linux, GCC)
# make aarch64   the kernels and the encoder cross-compiled, and tested under qemu
# make musl      the same for Linux with musl (Alpine), by another compiler
# make windows   the same for Windows, under Wine; and what mypy says of the Python there
# make wheel     this machine's wheel and the sdist, in dist/, and the wheel used where there is no compiler
# make licenses  the licenses of what the wheel in dist/ brings with it, and an SBOM
# make image     the image, built and used without Docker (buildah and debootstrap, as root)
# make release-check  all that is checked before a release, but for what other processors and systems need
# make attack    attacks on a server for ten minutes, with good clients beside them (MINUTES=1: a try)
# make peers     the engines that benchmarks/peers.py compares with

PYTHON ?= python3
VENV := .venv
# FlagEmbedding needs an older transformers than sentence-transformers: an environment of its own.
FLAG_VENV := .venv-flagembedding
# The clients of other rerank services need older libraries than the rest: an environment of their own.
CLIENTS_VENV := .venv-clients
# litellm needs a newer httpx than they do.
LITELLM_VENV := .venv-litellm
# The engines of benchmarks/peers.py; those that go through Optimum need an older transformers, and fastembed none.
PEERS_VENVS := .venv-peers .venv-peers-optimum .venv-peers-fastembed
# The compiler for musl.
MUSL_VENV := .venv-musl
# What builds and repairs wheels.
WHEEL_VENV := .venv-wheel
BIN := $(VENV)/bin
CXX_FILES := $(wildcard native/*.cpp native/*.h)
PIP := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check promises docs browser screenshots lint format sanitize aarch64 musl windows wheel licenses image release-check attack peers clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	@$(BIN)/crossrank demo

test: $(VENV)/.dev $(FLAG_VENV)/.ready $(CLIENTS_VENV)/.ready $(LITELLM_VENV)/.ready browser
	$(BIN)/python -m pytest

check: lint
	$(BIN)/python -m pytest --core

promises: $(VENV)/.dev
	$(BIN)/python -m benchmarks.promises

# Chromium for the tests of the page, where there is none.
browser: $(VENV)/.dev
	@PLAYWRIGHT=$(BIN)/playwright sh tests/browser/chromium.sh

screenshots: $(VENV)/.dev browser
	CROSSRANK_SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/browser/test_screenshots.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/mypy

docs: $(VENV)/.dev
	@$(BIN)/python docs/build.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CXX_FILES)

SANITIZE := build/sanitize
# The interpreter that the environment was made from: the environment's own imports the editable install.
BASE = $$($(BIN)/python -c 'import sys; print(sys._base_executable)')
PACKAGES = $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

SANITIZED = -DCMAKE_CXX_COMPILER=g++ -DCROSSRANK_KERNEL_TEST=ON -DCROSSRANK_TEST_MODULE=ON

# Python is built without the sanitizer, so its library comes first, and libstdc++ with it, or it finds no __cxa_throw.
# Leaks are looked for in kernel_test alone: at its end the interpreter leaves much that it never frees.
sanitize: $(VENV)/.dev
	$(BIN)/cmake -S . -B $(SANITIZE)/thread $(SANITIZED) -DCROSSRANK_SANITIZE=thread -DCROSSRANK_MODULE=OFF
	$(BIN)/cmake --build $(SANITIZE)/thread --parallel 2
	$(BIN)/ctest --test-dir $(SANITIZE)/thread --output-on-failure
	$(BIN)/cmake -S . -B $(SANITIZE)/address $(SANITIZED) -DCROSSRANK_SANITIZE=address \
	    -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir)
	$(BIN)/cmake --build $(SANITIZE)/address --parallel 2
	$(BIN)/ctest --test-dir $(SANITIZE)/address --output-on-failure
	rm -rf $(SANITIZE)/site
	$(BIN)/cmake --install $(SANITIZE)/address --prefix $(SANITIZE)/site
	cp -R src/crossrank $(SANITIZE)/site
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    PYTHONPATH=$(CURDIR)/$(SANITIZE)/site:$(PACKAGES) \
	    $(BASE) -m pytest -p no:cacheprovider --capture=sys tests/engines/test_native*.py tests/models/test_weight_cache.py

AARCH64 := build/aarch64

aarch64: $(VENV)/.dev
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool >/dev/null || \
	    { echo "$$tool is missing: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }; done
	$(BIN)/cmake -S . -B $(AARCH64) -DCMAKE_TOOLCHAIN_FILE=native/aarch64-linux-gnu.cmake \
	    -DCROSSRANK_MODULE=OFF -DCROSSRANK_KERNEL_TEST=ON -DCROSSRANK_WARNINGS_AS_ERRORS=ON
	$(BIN)/cmake --build $(AARCH64) --parallel 2
	$(BIN)/ctest --test-dir $(AARCH64) --output-on-failure

MUSL := build/musl

musl: $(VENV)/.dev $(MUSL_VENV)/.ready
	zig=$$($(MUSL_VENV)/bin/python -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__))')/zig; \
	export ZIG="$$zig" ZIG_GLOBAL_CACHE_DIR=$(CURDIR)/$(MUSL)/cache; \
	$(BIN)/cmake -S . -B $(MUSL) -DCMAKE_TOOLCHAIN_FILE=native/x86_64-linux-musl.cmake \
	    -DCROSSRANK_MODULE=OFF -DCROSSRANK_KERNEL_TEST=ON -DCROSSRANK_WARNINGS_AS_ERRORS=ON && \
	$(BIN)/cmake --build $(MUSL) --parallel 2
	$(BIN)/ctest --test-dir $(MUSL) --output-on-failure

WINDOWS := build/windows

windows: $(VENV)/.dev
	@command -v x86_64-w64-mingw32-g++-posix >/dev/null && { command -v wine64 || command -v wine || \
	    test -x /usr/lib/wine/wine64; } >/dev/null || \
	    { echo "MinGW or Wine is missing: apt-get install g++-mingw-w64-x86-64-posix wine64" >&2; exit 1; }
	$(BIN)/cmake -S . -B $(WINDOWS) -DCMAKE_TOOLCHAIN_FILE=native/x86_64-w64-mingw32.cmake \
	    -DCROSSRANK_MODULE=OFF -DCROSSRANK_KERNEL_TEST=ON -DCROSSRANK_WARNINGS_AS_ERRORS=ON
	$(BIN)/cmake --build $(WINDOWS) --parallel 2
	@# Wine's folder has a link to /, which whoever walks through build/ would follow.
	prefix=$$(mktemp -d) && WINEDEBUG=-all WINEPREFIX=$$prefix $(BIN)/ctest --test-dir $(WINDOWS) --output-on-failure; \
	    code=$$?; rm -rf $$prefix; exit $$code
	$(BIN)/mypy --platform win32 src

wheel: $(WHEEL_VENV)/.ready
	$(WHEEL_VENV)/bin/python -m release.wheel

licenses: $(WHEEL_VENV)/.ready
	$(WHEEL_VENV)/bin/python -m release.licenses

image:
	$(PYTHON) -m release.image

# One after another: several of them measure.
release-check:
	for check in test docs wheel licenses image promises; do $(MAKE) $$check || exit 1; done

MINUTES := 10

attack: $(VENV)/.dev
	$(BIN)/python -m benchmarks.attack --minutes $(MINUTES)

peers: $(VENV)/.dev $(PEERS_VENVS:%=%/.ready)

clean:
	rm -rf $(VENV) $(FLAG_VENV) $(CLIENTS_VENV) $(LITELLM_VENV) $(MUSL_VENV) $(WHEEL_VENV) $(PEERS_VENVS) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# What the C++ module is built from: a change builds it anew.
NATIVE := CMakeLists.txt $(wildcard native/*.cpp native/*.h)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt $(NATIVE)
	@echo "Setting up $(VENV); the first time takes a few minutes."
	@$(BIN)/python $(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt $(NATIVE)
	@echo "Setting up $(VENV) for development."
	@$(BIN)/python $(PIP) --config-settings=cmake.define.CROSSRANK_TEST_MODULE=ON --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(FLAG_VENV)/.ready: tests/parity/requirements-flagembedding.txt constraints.txt
	@echo "Setting up $(FLAG_VENV), for the parity tests."
	@$(PYTHON) -m venv $(FLAG_VENV)
	@$(FLAG_VENV)/bin/python $(PIP) --requirement tests/parity/requirements-flagembedding.txt
	@touch $@

$(CLIENTS_VENV)/.ready: tests/server/requirements-clients.txt
	@echo "Setting up $(CLIENTS_VENV), for the tests of the server with other services' clients."
	@$(PYTHON) -m venv $(CLIENTS_VENV)
	@$(CLIENTS_VENV)/bin/python $(PIP) --no-compile --requirement tests/server/requirements-clients.txt
	@touch $@

$(LITELLM_VENV)/.ready: tests/server/requirements-litellm.txt
	@echo "Setting up $(LITELLM_VENV), for the test of the server with litellm."
	@$(PYTHON) -m venv $(LITELLM_VENV)
	@$(LITELLM_VENV)/bin/python $(PIP) --requirement tests/server/requirements-litellm.txt
	@touch $@

$(WHEEL_VENV)/.ready: release/requirements.txt
	@echo "Setting up $(WHEEL_VENV), for make wheel."
	@$(PYTHON) -m venv $(WHEEL_VENV)
	@$(WHEEL_VENV)/bin/python $(PIP) --requirement release/requirements.txt
	@touch $@

$(MUSL_VENV)/.ready: release/requirements-musl.txt
	@echo "Setting up $(MUSL_VENV), for make musl."
	@$(PYTHON) -m venv $(MUSL_VENV)
	@$(MUSL_VENV)/bin/python $(PIP) --requirement release/requirements-musl.txt
	@touch $@

.venv-%/.ready: benchmarks/requirements-%.txt constraints.txt
	@echo "Setting up .venv-$*, for benchmarks/peers.py; llama.cpp is compiled, which takes minutes."
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python $(PIP) --requirement benchmarks/requirements-$*.txt
	@touch $@
