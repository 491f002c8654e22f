# natgate: `make demo` shows it, `make test` proves it, `make install` puts it in place.

PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR    ?= /lib/systemd/system
CARGO      ?= cargo

# Building needs no privileges; namespaces and raw sockets do. A user other than root is asked by sudo.
ifneq ($(shell id -u),0)
SUDO := sudo -E
AS_ROOT := --config 'target."cfg(unix)".runner="sudo -E"'
endif

# Debian keeps administration programs where an ordinary user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin

# Set, it would leave out half of the namespace tests; it serves work on the tests, not their verdict.
unexport NATGATE_LAB

.PHONY: all setup build demo test test-deep test-vm mutants lint unit end-to-end instructions bench install

all: build

# Packages that are missing; prints how to get Rust when that is.
setup:
	@tests/setup.sh

build: setup
	$(CARGO) build --release --locked

# A private network browses a public server through natgate; exit code 0 when everything shown is true.
demo: build
	$(SUDO) tests/demo/demo.sh target/release/natgate

# Everything, on a clean clone. Needs root or sudo for the namespaces.
test: lint unit end-to-end instructions

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

# Without DPDK: all that translates packets builds, and is tested, on any machine.
unit: setup
	$(CARGO) test --locked --no-default-features

# With DPDK: all that it can make a difference to, and the real binary between network namespaces. A file of tests that says
# `feature = "dpdk"`, or needs it by Cargo.toml, belongs here; the others have run.
end-to-end: setup
	$(CARGO) test --locked $(AS_ROOT) --lib --bins --test dpdk_ports --test garbage --test golden --test netns --test run \
		--test wire

# Real cards, emulated: QEMU with two igb behind an IOMMU. Downloads 100 MB once, installs nothing; needs root.
test-vm: build
	$(SUDO) tests/vm/run.sh target/release/natgate

# A minute for every parser and the whole data plane; a new seed each time, printed with a failure.
fuzz: setup
	NATGATE_FUZZ_SECONDS=$${NATGATE_FUZZ_SECONDS:-60} NATGATE_FUZZ_SEED=$${NATGATE_FUZZ_SEED:-$$(date +%s)} \
		$(CARGO) test --locked --no-default-features --test fuzz -- --nocapture

# The data plane against the reference NAT for long: fifty million random steps, every history of eight. Half an hour.
test-deep: setup
	NATGATE_MODEL_STEPS=$${NATGATE_MODEL_STEPS:-50000000} NATGATE_MODEL_DEPTH=$${NATGATE_MODEL_DEPTH:-8} \
		$(CARGO) test --release --locked --no-default-features --test model -- --nocapture

# What the tests would not notice in wire, flow and nat: every mutant of cargo-mutants (`cargo install --locked
# cargo-mutants`), in one build. An hour or two, to be stopped and taken up at will; see docs/mutants.md.
mutants: setup
	CARGO='$(CARGO)' tests/mutants/mutants.py $(MUTANTS)

# Instructions per packet, in the release profile: fails when they grow by more than 3 %.
instructions: setup
	$(CARGO) bench --locked --bench instructions

# Structures; the packet path alone, by every procedure; natgate beside its peers (root, for huge pages and namespaces).
# Tables, plots and figures are in benches/results afterwards.
bench: export NATGATE_REVISION := $(shell git describe --always --dirty 2>/dev/null)
bench: build
	$(CARGO) bench --locked --bench flow --bench ports
	mkdir -p benches/results
	target/release/natgate bench --all --rounds 3 --packets 2000000 --output benches/results/core.json > benches/results/core.txt
	cat benches/results/core.txt
	target/release/natgate bench throughput --family ipv4,ipv6 --sessions 1000,64512,1032192,4128768,16515072 --rounds 3 \
		--packets 2000000 --output benches/results/families.json > benches/results/families.txt
	cat benches/results/families.txt
	$(CARGO) bench --locked --bench peers $(AS_ROOT)

install: build
	install -Dm755 target/release/natgate $(DESTDIR)$(PREFIX)/bin/natgate
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSCONFDIR)/natgate/natgate.d
	sed 's|/usr/local/bin|$(PREFIX)/bin|' configs/natgate.service > $(DESTDIR)$(UNITDIR)/natgate.service
	install -Dm644 configs/default.toml $(DESTDIR)$(PREFIX)/share/doc/natgate/default.toml
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	target/release/natgate completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/natgate
