# One image for all roles: `docker build -t turnkeep .`, then `docker run --rm turnkeep --help`.
#
# Pin the base by digest where you build for others:
#   docker build --build-arg PYTHON=python:3.13-slim@sha256:… -t turnkeep .
# Everything else is pinned by the lock files, with hashes.
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
ARG UV=0.13.9
RUN python -m pip install --no-cache-dir "uv==${UV}"
WORKDIR /src
COPY pyproject.toml requirements.lock requirements-dev.lock README.md LICENSE NOTICE ./
COPY src ./src
RUN uv venv /opt/turnkeep && \
    uv pip sync --python /opt/turnkeep/bin/python --require-hashes requirements.lock && \
    uv pip install --python /opt/turnkeep/bin/python --no-deps --build-constraints requirements-dev.lock .

FROM ${PYTHON}
# git and the sandbox of the workspace tools; a runtime that forbids namespaces leaves them off (see docs/how-to/go-public.md)
RUN apt-get update && \
    apt-get install --yes --no-install-recommends bubblewrap git && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 10001 --home-dir /data --shell /usr/sbin/nologin turnkeep && \
    install --directory --mode 0700 --owner 10001 --group 10001 /data
COPY --from=build /opt/turnkeep /opt/turnkeep
ENV PATH=/opt/turnkeep/bin:$PATH PYTHONDONTWRITEBYTECODE=1
# Without Redis the data is here, and nothing else is written: mount a volume, and the rest can be read-only.
WORKDIR /data
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/readyz', timeout=3)"]
ENTRYPOINT ["turnkeep"]
CMD ["serve", "--host", "0.0.0.0"]
