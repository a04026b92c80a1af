# syntax=docker/dockerfile:1
# One image for every role: `docker run till ROLE`; without a command it is a whole shop (`till up`).
# docker build --tag till:0.2.0 .

FROM rust:1.95.0-slim-bookworm AS rust
# The image's own toolchain, without the components that rust-toolchain.toml asks for. The names of functions
# stay in the executable for backtraces; debug information does not.
ENV RUSTUP_TOOLCHAIN=1.95.0 \
    CARGO_PROFILE_RELEASE_DEBUG=false \
    CARGO_PROFILE_DIST_DEBUG=false
WORKDIR /src

# Cargo's files over empty sources. The next stage is built again only when one of these files changes.
FROM rust AS manifests
COPY . .
RUN find . -type f -not -name 'Cargo.*' -not -regex '.*/\(src/\(lib\|main\)\|build\|\(benches\|tests\)/[^/]*\)\.rs' \
        -delete \
    && find . -name '*.rs' -exec sh -c 'for file; do echo "fn main() { }" >"$file"; done' sh {} +

# The dependencies, compiled: a layer that builders keep and registries can (--cache-to).
FROM rust AS dependencies
# dist is the published profile; release builds faster.
ARG PROFILE=dist
COPY --from=manifests /src .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    cargo build --locked --package till --profile "$PROFILE"

FROM dependencies AS build
# `docker buildx build --sbom=true` lists our crates too, from the Cargo.lock in here.
ARG BUILDKIT_SBOM_SCAN_STAGE=true
COPY . .
# Cargo compares times, and the sources may be older than the output of the empty ones.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    find . -name target -prune -o -name '*.rs' -exec touch {} + \
    && cargo build --locked --package till --profile "$PROFILE" \
    && install -D "target/$PROFILE/till" out/bin/till \
    && mkdir -p out/data

# The same Debian as above, without a shell or a package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="till" \
      org.opencontainers.image.description="A checkout that never loses a cent" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY LICENSE /usr/share/doc/till/LICENSE
COPY --from=build /src/out/bin/till /usr/local/bin/till
# The only directory that `till up` writes to. In a real deployment no role writes here.
COPY --from=build --chown=65532:65532 /src/out/data /data
ENV TILL_DATA_DIR=/data
USER 65532:65532
EXPOSE 8000
# For `up` and `http-bridge`. Compose and the chart have the checks of the other roles.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/till", "health", "--http", "--endpoint", "127.0.0.1:8000"]
ENTRYPOINT ["/usr/local/bin/till"]
# Nobody outside reaches a container's loopback. This is a flag because every role would inherit a variable.
CMD ["up", "--listen", "[::]", "--listen", "0.0.0.0"]
