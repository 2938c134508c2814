# The init container's image: Python, libiptc and libxtables, proxy-init, and nothing else: no shell,
# no package manager, no program of iptables or nftables. scripts/image builds it; `docker build .`
# does too.

# Debian stable, whose Python, iptables and libraries get their security fixes for years. Of this
# stage only what image/assemble names gets into the image.
FROM docker.io/library/debian:trixie-slim AS build

RUN export DEBIAN_FRONTEND=noninteractive \
    && apt-get -q update \
    && apt-get -q -y install --no-install-recommends \
        gcc iptables libc6-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

COPY requirements/build.txt requirements/run.txt requirements/sbom.txt requirements/
RUN python3 -m venv /sbom \
    && /sbom/bin/pip -q install --require-hashes -r requirements/sbom.txt
# -g0: what python-iptables' C library would hold for debuggers names a random directory.
RUN python3 -m venv /pip \
    && /pip/bin/pip -q install --require-hashes -r requirements/build.txt \
    && CFLAGS=-g0 /pip/bin/pip -q install --no-compile --require-hashes --no-build-isolation \
        --target /packages -r requirements/run.txt \
    && rm -r /packages/bin

COPY LICENSE README.md pyproject.toml ./
COPY proxy_init proxy_init
RUN /pip/bin/pip -q install --no-compile --no-index --no-deps --no-build-isolation \
        --target /packages . \
    && rm -r /packages/bin

COPY image image
ARG SOURCE_DATE_EPOCH=0
RUN export SOURCE_DATE_EPOCH \
    && mkdir -p /image/usr/share/sbom \
    && image/assemble /image /packages \
    && image/sbom /image /sbom/bin >/image/usr/share/sbom/proxy-init.cdx.json \
    && find /image -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +


FROM scratch

COPY --from=build /image /
ENV PATH=/usr/local/bin:/usr/bin
ENTRYPOINT ["proxy-init"]

LABEL org.opencontainers.image.title="proxy-init" \
    org.opencontainers.image.description="Redirects a pod's traffic to its Envoy sidecar" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0"
