# Two stages: the build, and an image that holds the binary and the web's certificate authorities, nothing else.

# The very compiler by which what runs often was counted: docs/decisions/0020-laid-out-by-what-runs.md.
FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake gcc g++ libc6-dev make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock config.yaml ./
COPY .cargo .cargo
COPY benches benches
COPY policies policies
COPY src src
COPY tests tests
RUN cargo build --release --locked --bin portcullis --config 'build.rustflags=["-Cprofile-use=/src/benches/portcullis.profdata","-Cllvm-args=-no-pgo-warn-mismatch"]'

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/portcullis /usr/local/bin/portcullis
# Mount config.yaml, and policies/ beside it, here.
WORKDIR /etc/portcullis
ENV PORTCULLIS_CONFIG=/etc/portcullis/config.yaml
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s CMD ["/usr/local/bin/portcullis", "health"]
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["serve"]
