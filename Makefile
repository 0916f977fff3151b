# `make run` and `make test` need cargo, and install what else they need (scripts/ensure-tools.sh).
export PATH := $(CURDIR)/target/tools/bin:$(PATH)
PROXY := target/debug/portcullis
FUZZ_SECONDS ?= 60

IMAGE ?= portcullis:latest
IMAGE_ARGS ?=
TEST_BUILDER := portcullis-test-builder:1.95.0
TEST_RUNTIME := portcullis-test-runtime:1

.PHONY: build run test lint e2e faults soak soak-bodies soak-websocket bench bench-envoy test-interop fuzz vendor image docker-test deploy-check

build: ; @scripts/ensure-tools.sh cc cmake
	cargo build --package portcullis

run: build
	$(PROXY) run --config config/quickstart.kdl

test: ; @scripts/ensure-tools.sh cc cmake curl python pytest
	cargo test --workspace
	scripts/test-python.sh

lint: ; @scripts/ensure-tools.sh cc cmake fmt deny
	cargo fmt --all --check && cargo fmt --manifest-path tests/interop/Cargo.toml --check
	cargo fmt --manifest-path crates/agent-protocol/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --all-features check --hide-inclusion-graph bans licenses sources

e2e: ; @scripts/ensure-tools.sh cc cmake curl python pytest
	cargo test --package portcullis --test e2e

# Much more of what `make test` asks a little of: verdicts while answers are spoilt, an agent that is killed again and again,
# and then all faults once more. About a quarter of an hour on two processors.
faults: ; @scripts/ensure-tools.sh cc cmake
	FAULT_REQUESTS=100000 cargo test --package portcullis --test e2e faults::crossing
	RESTARTS=20 cargo test --package portcullis --test e2e soon_after_each_return -- --nocapture
	cargo test --package portcullis --test e2e faults

# Much more of what `make test` asks a little of: reloads, ends and killed agents under load.
soak: ; @scripts/ensure-tools.sh cc cmake
	RELOADS=100 SIGTERMS=20 AGENT_KILLS=20 AGENT_RESTARTS=100 cargo test --package portcullis --test e2e -- under_load drain:: killed --nocapture

# Bodies of a gibibyte in both directions at once, in bounded memory.
soak-bodies: ; @scripts/ensure-tools.sh cc cmake
	BODY_MIB=1024 cargo test --package portcullis --test e2e large_bodies -- --nocapture

# A thousand sockets for a minute, each of whose messages has to come back, and in its order.
soak-websocket: ; @scripts/ensure-tools.sh cc cmake
	SOCKETS=1000 SOCKET_SECONDS=60 cargo test --package portcullis --test e2e many_sockets -- --nocapture

# More: make bench BENCH="--pairs 20 --scenarios floor,plain", make bench BENCH=isolation
bench: ; @scripts/ensure-tools.sh cc cmake
	cargo run --release --package portcullis-bench -- $(BENCH)

# What an agent adds to a request here and with Envoy, both with the same agent.
bench-envoy: ; @scripts/ensure-tools.sh cc cmake envoy
	cargo run --release --package portcullis-bench -- \
		--scenarios floor,plain,envoy,envoy-ext-authz,envoy-ext-proc,ext-authz,ext-proc $(BENCH)

# Not part of `make test`: it compiles other projects' agents and libraries, one of which asks for a newer Rust than it needs.
test-interop: build ; @scripts/ensure-tools.sh chromium protoc python
	cargo install --quiet --locked --debug --target-dir tests/interop/target --root tests/interop/target/published \
	    sentinel-agent-denylist --version =0.1.0
	cargo test --manifest-path tests/interop/Cargo.toml --ignore-rust-version --locked
	python3 -m venv target/interop-python
	target/interop-python/bin/pip install --quiet --disable-pip-version-check -r tests/interop/python/requirements.txt
	target/interop-python/bin/python -m unittest discover -s tests/interop/python

# Each decoder of the agent protocol for FUZZ_SECONDS; what is found lands in target/fuzz, what fails in fuzz/artifacts.
fuzz: ; @scripts/ensure-tools.sh cc c++ fuzz
	scripts/fuzz.sh $(FUZZ_SECONDS)

# The sources of all dependencies, for builds that fetch nothing.
vendor:
	mkdir -p target
	cargo vendor --locked vendor >target/vendor.toml 2>target/vendor.log || { cat target/vendor.log >&2; exit 1; }
	mv target/vendor.toml vendor/config.toml

# Other base images: make image IMAGE_ARGS="--build-arg BUILDER_IMAGE=… --build-arg RUNTIME_IMAGE=…"
image: vendor
	docker build --tag $(IMAGE) --build-arg VERSION=$(shell cargo pkgid --package portcullis | sed 's/.*[\#@]//') \
	    --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown) $(IMAGE_ARGS) .

# The image on base images made here, because it has to work where none can be pulled; then what it does, as containers.
docker-test: ; @scripts/ensure-tools.sh cc debootstrap
	scripts/docker-bases.sh $(TEST_BUILDER) $(TEST_RUNTIME)
	$(MAKE) image IMAGE=portcullis:test \
	    IMAGE_ARGS="--build-arg BUILDER_IMAGE=$(TEST_BUILDER) --build-arg RUNTIME_IMAGE=$(TEST_RUNTIME)"
	IMAGE=portcullis:test BASE=$(TEST_RUNTIME) cargo test --manifest-path tests/docker/Cargo.toml --locked -- --nocapture

# Whether systemd and Kubernetes understand the files that are made for them.
deploy-check: ; @scripts/ensure-tools.sh kubernetes-validate
	scripts/deploy-check.sh
