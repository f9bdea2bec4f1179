# Two commands do everything on a fresh machine: `make demo` and `make test`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
CARGO := cargo
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release/portcullis
# What runs often, by which release builds are laid out; with `PROFILE=` they are not. No build warns of functions that
# were written anew after they were counted: .ci/instructions tells when that costs.
PROFILE := benches/portcullis.profdata
LAID_OUT := $(if $(PROFILE),$(foreach flag,profile-use=$(CURDIR)/$(PROFILE) llvm-args=-no-pgo-warn-mismatch,--config 'build.rustflags=["-C$(flag)"]'))

# Programs that the build and the tests need, and the Debian packages they come in.
BUILD_NEEDS := cmake:cmake cc:gcc
TEST_NEEDS := nginx:nginx-light curl:curl openssl:openssl python3:python3 python3-venv:python3-venv node:nodejs npm:npm c++:g++ wrk:wrk h2load:nghttp2-client postgres:postgresql redis-server:redis-server rsyslogd:rsyslog promtool:prometheus valgrind:valgrind
# What a service in Java needs that verifies assertions.
TEST_NEEDS += javac:default-jdk-headless jackson:libjackson2-databind-java
# What Helm's templates are made of, in Go.
TEST_NEEDS += go:golang-go gocode/github.com/Masterminds/sprig:golang-github-masterminds-sprig-dev gocode/github.com/ghodss/yaml:golang-github-ghodss-yaml-dev gocode/github.com/xeipuuv/gojsonschema:golang-github-xeipuuv-gojsonschema-dev

.PHONY: demo test build bench bench-micro profile lint unit interop image audit fuzz needs-build needs-test

demo: build
	$(RELEASE) demo --config config.yaml

build: needs-build
	$(CARGO) build --release --locked $(LAID_OUT)

# In this order, so that what is quick fails first.
test: needs-build needs-test lint unit audit interop image fuzz

lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	$(CARGO) check --locked --lib --no-default-features
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet

unit:
	PORTCULLIS_TEST_SKIPS_NOTHING=1 $(CARGO) test --locked --lib --test it --test tidy
	$(CARGO) test --locked --bench decision --bench policies

# Licences, sources and duplicates always; advisories where their database can be fetched.
audit:
	bash .ci/audit

# Issuers, a verifier, clients and upstreams that nobody here wrote, around the release binary.
interop: build
	$(RELEASE) demo --once --config config.yaml
	.ci/instructions $(RELEASE)
	bash tests/interop/cognito/run.sh $(RELEASE)
	bash tests/interop/oidc-provider/run.sh $(RELEASE)
	bash tests/interop/jwt-oracle/run.sh $(RELEASE)
	bash tests/interop/reload/run.sh $(RELEASE)
	bash tests/interop/flood/run.sh $(RELEASE)
	bash tests/interop/replay/run.sh $(RELEASE)
	bash tests/interop/syslog/run.sh $(RELEASE)
	bash tests/interop/assertion/run.sh $(RELEASE)
	bash tests/interop/grpc/run.sh $(RELEASE)
	bash tests/interop/otlp/run.sh $(RELEASE)
	bash tests/interop/transport/run.sh $(RELEASE)
	bash tests/interop/rolling/run.sh $(RELEASE)
	bash tests/interop/helm/run.sh $(RELEASE)
	bash tests/interop/prometheus/run.sh $(RELEASE)

# The container image, where a builder of images is at hand.
image: build
	bash .ci/image $(RELEASE)

# A smoke minute; longer with SECONDS_EACH=….
fuzz: needs-build
	bash .ci/fuzz

# What a request costs the gate beside what it stands on and what would stand in its place, as it grows, and under attack; writes
# docs/benchmarks.md. A quarter of an hour; OPTIONS as benches/peers/run.sh tells them, such as "--rounds 9 --seconds 3".
bench: build needs-test
	@bash .ci/needs haproxy:haproxy nginx-js:libnginx-mod-http-js
	$(CARGO) build --release --locked $(LAID_OUT) --package floor
	bash benches/peers/run.sh $(RELEASE) $(dir $(RELEASE))floor --docs $(OPTIONS)

# What the parts of a request cost.
bench-micro: needs-build
	$(CARGO) bench --locked $(LAID_OUT) --bench decision --bench policies

# Counts anew what runs often, where the code that does has changed much: a quarter of an hour.
profile: needs-build needs-test
	bash benches/peers/profile.sh

needs-build:
	@bash .ci/needs $(BUILD_NEEDS)

needs-test:
	@bash .ci/needs $(TEST_NEEDS)
