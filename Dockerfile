# The image of portcullis: the binary, a configuration to try it with, and nothing else; see docs/operations.md.
#
# Dependencies come from vendor/, which `make vendor` fills; nothing but cmake is fetched, where the builder has none.
# It needs no more than the classic builder of Docker, and takes the better ones as well.

# With cargo, rustc and a C compiler. Its C library must not be newer than that of the runtime image.
ARG BUILDER_IMAGE=docker.io/library/rust:1.95-bookworm
# With the C library and libgcc; that is all the binary links. A shell is not needed.
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILDER_IMAGE} AS builder
RUN command -v cmake >/dev/null || \
    { apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*; }
WORKDIR /build

# The workspace without its sources: a change of them leaves this stage's result, and so the layer of dependencies, as is.
FROM builder AS manifests
COPY Cargo.toml Cargo.lock ./
COPY crates crates
COPY bench/Cargo.toml bench/
RUN find crates -type f ! -path 'crates/*/Cargo.toml' -delete && find . -type d -empty -delete && \
    for manifest in crates/*/Cargo.toml bench/Cargo.toml; do \
        mkdir "${manifest%Cargo.toml}src" && \
        touch "${manifest%Cargo.toml}src/lib.rs" && echo 'fn main() {}' >"${manifest%Cargo.toml}src/main.rs"; \
    done

FROM builder AS dependencies
COPY vendor vendor
COPY vendor/config.toml .cargo/config.toml
COPY --from=manifests /build .
RUN cargo build --release --locked --offline --package portcullis

FROM dependencies AS build
COPY config config
COPY crates crates
# The copies are as old as the checkout, hence older than what was just built of empty sources.
RUN find crates -name '*.rs' -exec touch {} + && \
    cargo build --release --locked --offline --package portcullis && \
    install -d -m 0750 /image/run/portcullis /image/run/portcullis/agents

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="portcullis" \
      org.opencontainers.image.description="A reverse proxy for the edge that asks agents about requests" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE /usr/share/doc/portcullis/LICENSE
COPY deploy/container.kdl /etc/portcullis/portcullis.kdl
COPY --from=build /build/target/release/portcullis /usr/local/bin/portcullis
# Sockets: those of the proxy's own agents in the folder above, those of agents in other containers below.
COPY --from=build --chown=65532:65532 /image/run/portcullis /run/portcullis
# So that it can be written when the rest cannot.
VOLUME /run/portcullis
USER 65532:65532
EXPOSE 8080 8443 9902
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/portcullis", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["run", "-c", "/etc/portcullis/portcullis.kdl"]
