# `make demo` shows the main job, `make test` checks everything. Both work on a fresh Debian 12 with Rust and git.

TARGET := x86_64-unknown-linux-gnu
BIN := target/static/$(TARGET)/release
BACKEND ?=

.PHONY: help build demo test hello-image agent-image agent-clients python-image kernel qemu bench reproducible doctor clean

help:
	@echo "make demo [BACKEND=local|qemu]  build, boot, serve, verify, and see a changed byte found out"
	@echo "make test                       format, lints, docs, licences, unit and end-to-end tests"
	@echo "make build                      the commands, static, in $(BIN)"
	@echo "make kernel                     the pinned enclave kernel, into the cache"
	@echo "make qemu                       QEMU with the nitro-enclave machine, into the cache"
	@echo "make reproducible               build the commands and the kernel twice and compare"
	@echo "make bench                      measure against the peers and print the ratios"

build:
	@tools/build

demo: build
	@tools/demo $(BACKEND)

test:
	@tools/test

hello-image: build
	@tools/images hello

agent-image: build
	@tools/images agent

# Clients that others wrote, for tests that use them if they are there: reference_apps/tee_agent/clients.
agent-clients:
	@tools/agent-clients

python-image: build
	@tools/images python

kernel:
	@tools/kernel/build

qemu:
	@tools/qemu/build

bench: build
	@tools/bench

reproducible:
	@tools/reproducible

doctor: build
	@$(BIN)/glasshouse doctor

clean:
	cargo clean
