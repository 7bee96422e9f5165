# The app. Build it in the repository's root, with one of two runtimes:
#
#     docker build -f deployment/app.Dockerfile --target spin .
#     docker build -f deployment/app.Dockerfile --target devhost .

# --- The components. Built one package at a time: in one build, cargo would
# unify the features of their dependencies.
FROM rust:1.95.0-bookworm AS components
RUN rustup target add wasm32-wasip2
WORKDIR /source
COPY . .
# Same profile as `cargo xtask build`: the service is optimised for size.
ENV CARGO_PROFILE_RELEASE_LTO=fat
RUN CARGO_PROFILE_RELEASE_OPT_LEVEL=s \
    cargo build --locked --release --target wasm32-wasip2 --package functional-scaffold \
    && cargo build --locked --release --target wasm32-wasip2 --package prime-check
# A crash of the algorithm is an error of one call. CARGO_PROFILE_RELEASE_LTO would take minutes.
RUN cargo run --locked --package functional-scaffold-guard -- \
    target/wasm32-wasip2/release/prime_check.wasm -o target/wasm32-wasip2/release/prime_check.guarded.wasm

FROM python:3.13.14-slim-bookworm AS python
WORKDIR /source
COPY . .
WORKDIR /source/algorithms/word-count-py
RUN python3 -m functional_scaffold.build

FROM node:22.23.2-bookworm-slim AS javascript
WORKDIR /source
COPY . .
WORKDIR /source/algorithms/statistics-js
RUN npm ci && npm run build

# --- On Spin. The base image is Debian slim; its entry point is
# /usr/local/bin/spin and its user root.
FROM ghcr.io/spinframework/spin:v4.1.0 AS spin
WORKDIR /app
COPY deployment/healthcheck deployment/keep-log deployment/with-variables /usr/local/bin/
# The log is kept here if a volume is mounted.
RUN install -d -o 65532 -g 65532 /log
COPY spin.toml ./
COPY --from=components /source/target/wasm32-wasip2/release/*.wasm target/wasm32-wasip2/release/
COPY --from=python /source/algorithms/word-count-py/*.wasm algorithms/word-count-py/
COPY --from=javascript /source/algorithms/statistics-js/*.wasm algorithms/statistics-js/
USER 65532:65532
# Bytes to which a memory of an instance can grow. Of a runaway algorithm, this is an
# error of that call.
ENV HOME=/tmp SPIN_MAX_INSTANCE_MEMORY=134217728
EXPOSE 8000
# Secrets in /run/secrets become variables, and instance_id is the container's host name
# unless it is set.
ENTRYPOINT ["/usr/local/bin/with-variables", "/usr/local/bin/spin"]
# No state directory: the container keeps nothing, and logs go to stderr.
# Compiled code is cached in /tmp while it runs. The request time-out is longer than
# body_timeout_ms and execution_limit_ms together.
CMD ["up", "--from", "spin.toml", "--state-dir", "", "--listen", "0.0.0.0:8000", "--request-timeout", "90s"]
# Kills an app whose worker threads are all stuck, if the container has an init process
# (`docker run --init`). The image has no HTTP client. The check is counted as a request to /healthz.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["/usr/local/bin/healthcheck", "/proc/1/task/1/children", "/tmp/failures", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ code _ <&3 && [[ $code == 200 ]]"]

# --- On the dev host.
FROM rust:1.95.0-bookworm AS devhost-build
WORKDIR /source
COPY . .
RUN cargo build --locked --release --package functional-scaffold-devhost

FROM debian:bookworm-20260824-slim AS devhost
WORKDIR /app
COPY --from=devhost-build /source/target/release/devhost /usr/local/bin/devhost
COPY deployment/healthcheck deployment/keep-log deployment/with-variables /usr/local/bin/
# The log is kept here if a volume is mounted.
RUN install -d -o 65532 -g 65532 /log
COPY spin.toml ./
COPY --from=components /source/target/wasm32-wasip2/release/*.wasm target/wasm32-wasip2/release/
COPY --from=python /source/algorithms/word-count-py/*.wasm algorithms/word-count-py/
COPY --from=javascript /source/algorithms/statistics-js/*.wasm algorithms/statistics-js/
USER 65532:65532
# As on Spin.
ENV SPIN_MAX_INSTANCE_MEMORY=134217728
EXPOSE 8000
ENTRYPOINT ["/usr/local/bin/with-variables", "/usr/local/bin/devhost"]
# No cache: the file system is read-only.
CMD ["up", "--from", "spin.toml", "--disable-cache", "--listen", "0.0.0.0:8000", "--request-timeout", "90s"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["/usr/local/bin/healthcheck", "/proc/1/task/1/children", "/tmp/failures", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ code _ <&3 && [[ $code == 200 ]]"]
