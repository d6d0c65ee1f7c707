# All images, one target each: `docker build --target operator|gateway|runner .`
# With plain docker the stage `build` compiles everything. dev/up passes ARTIFACTS, an image that holds the same
# files made on the host, and BASE, so that no registry is needed.
ARG BASE=docker.io/library/debian:bookworm-slim
ARG ARTIFACTS=build

FROM docker.io/library/node:24-bookworm-slim AS launcher
WORKDIR /launcher
COPY runner/launcher/package.json runner/launcher/package-lock.json ./
RUN npm ci --omit=dev --no-audit --no-fund
COPY runner/launcher/*.js runner/launcher/firefox.sh ./

FROM docker.io/library/node:24-bookworm-slim AS ui
WORKDIR /ui
COPY ui/package.json ui/package-lock.json ./
COPY ui/generate/package.json generate/
RUN npm ci --no-audit --no-fund
COPY ui .
RUN npm run build

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p camofleet-operator -p camofleet-gateway -p camofleet-runner \
    && mkdir -p /artifacts/bin \
    && cp target/release/camofleet-operator target/release/camofleet-gateway target/release/camofleet-runner /artifacts/bin/
COPY --from=launcher /usr/local/bin/node /artifacts/bin/node
COPY --from=launcher /launcher /artifacts/launcher
COPY --from=ui /ui/dist /artifacts/ui

FROM ${ARTIFACTS} AS artifacts

FROM ${BASE} AS operator
COPY --from=artifacts /artifacts/bin/camofleet-operator /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["camofleet-operator"]

FROM ${BASE} AS gateway
COPY --from=artifacts /artifacts/ui /usr/share/camofleet/ui
COPY --from=artifacts /artifacts/bin/camofleet-gateway /usr/local/bin/
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["camofleet-gateway"]

FROM ${BASE} AS runner
# ffmpeg records videos (`recordVideo`). Noto's fonts have the scripts of Asia. Liberation, Croscore, Carlito and Caladea
# have the metrics of Windows' fonts, so pages break lines as there.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       firefox-esr tigervnc-standalone-server tini ffmpeg fonts-noto-core fonts-noto-cjk \
       fonts-liberation fonts-croscore fonts-crosextra-carlito fonts-crosextra-caladea fonts-dejavu-core fonts-noto-color-emoji \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*
RUN useradd --uid 1000 --no-create-home --home-dir /tmp camofleet
# What changes most comes last: a new binary is one small layer.
COPY --from=artifacts /artifacts/bin/node /usr/local/bin/
COPY --from=artifacts /artifacts/launcher /opt/camofleet/launcher
# A third of a launch is work that is the same each time. An image with another browser does this again after installing it.
RUN node /opt/camofleet/launcher/template.js Firefox /usr/bin/firefox-esr /opt/camofleet/templates/Firefox \
    && chmod -R a+rX /opt/camofleet/templates
COPY --from=artifacts /artifacts/bin/camofleet-runner /usr/local/bin/
ENV RUNNER_NODE=/usr/local/bin/node
USER 1000:1000
EXPOSE 8070 8071
ENTRYPOINT ["tini", "--", "camofleet-runner"]
