# The exporter. Build it in the repository's root:
#
#     docker build -f deployment/exporter.Dockerfile .

# On Alpine, Rust links statically against musl.
FROM rust:1.95.0-alpine3.23 AS build
WORKDIR /source
COPY . .
RUN cargo build --locked --release --package functional-scaffold-exporter && mkdir /data

# Only the static binary, and a folder for the positions in followed logs.
FROM scratch
COPY --from=build /source/target/release/functional-scaffold-exporter /functional-scaffold-exporter
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
ENV EXPORTER_LISTEN=0.0.0.0:8001
EXPOSE 8001
ENTRYPOINT ["/functional-scaffold-exporter"]
HEALTHCHECK --interval=30s --timeout=3s \
    CMD ["/functional-scaffold-exporter", "health"]
