FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the layer, so a change to the sources rebuilds the sources alone.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin frontrow \
    && install -m 755 target/release/frontrow /usr/local/bin/frontrow

FROM debian:bookworm-slim
# A number, so that an orchestrator can tell that it is not root.
USER 10001:10001
COPY --from=build /usr/local/bin/frontrow /usr/local/bin/frontrow
ENV FRONTROW__HTTP__ADDR=0.0.0.0:8080
EXPOSE 8080
# Alive, not ready: an instance without its database must be left alone, not restarted.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["frontrow", "healthcheck"]
ENTRYPOINT ["frontrow"]
CMD ["serve"]
