# The exporter, built in the repository's root:
#
#     docker build -f deployment/exporter.Dockerfile .

# On Alpine, Rust links against musl, and statically.
FROM rust:1.95-alpine AS build
WORKDIR /source
COPY . .
RUN cargo build --locked --release --package functional-scaffold-exporter

FROM busybox:1.37-musl AS busybox

# Two static programs and no file that is written.
FROM scratch
COPY --from=build /source/target/release/functional-scaffold-exporter /functional-scaffold-exporter
COPY --from=busybox /bin/busybox /busybox
USER 65532:65532
ENV EXPORTER_LISTEN=0.0.0.0:8001
EXPOSE 8001
ENTRYPOINT ["/functional-scaffold-exporter"]
HEALTHCHECK --interval=30s --timeout=3s \
    CMD ["/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8001/healthz"]
