ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

# The C compiler compiles the chain kernel for the processor that runs the image.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

# Packages change less often than the code, so they come first. One image for CPU and GPU: torch contains CUDA.
WORKDIR /app
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements.lock ./
RUN pip install --quiet --require-hashes --no-deps --requirement requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY ttlightning ttlightning
RUN pip install --quiet --no-deps --no-build-isolation --editable .

ARG GIT_SHA=unknown
LABEL org.opencontainers.image.title=ttlightning org.opencontainers.image.revision=${GIT_SHA}
ENV TTLIGHTNING_GIT_SHA=${GIT_SHA} TTLIGHTNING_DATA=/data TTLIGHTNING_RUNS=/runs WANDB_MODE=offline HOME=/tmp

RUN useradd --uid 1000 --no-create-home researcher && mkdir /data /runs && chown researcher /data /runs
USER 1000
# Both are places to mount a folder at. Only what a run writes must outlive a container that is started without one;
# and with two volumes declared, buildah 1.28 mounts neither.
VOLUME /runs
WORKDIR /runs
ENTRYPOINT ["python", "-m", "ttlightning"]
CMD ["--help"]
