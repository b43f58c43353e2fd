# One image for `shardctl serve` and `ringway-gateway`.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin shardctl && cargo build --profile dist --locked --bin ringway-gateway

FROM debian:bookworm-slim
# pg_dump and psql copy the schema when a shard joins.
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /var/lib/ringway ringway
COPY --from=build /src/target/release/shardctl /src/target/dist/ringway-gateway /usr/local/bin/
USER ringway
WORKDIR /var/lib/ringway
