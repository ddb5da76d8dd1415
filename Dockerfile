# One image for all roles: `docker build -t turnkeep .`, then `docker run --rm turnkeep --help`.
FROM python:3.13-slim AS build
RUN python -m pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE NOTICE ./
COPY src ./src
RUN uv venv /opt/turnkeep && uv pip install --python /opt/turnkeep/bin/python --constraint requirements.lock ".[all]"

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 turnkeep
COPY --from=build /opt/turnkeep /opt/turnkeep
ENV PATH=/opt/turnkeep/bin:$PATH
# Without Redis the data is here: mount a volume.
WORKDIR /data
RUN chown turnkeep:turnkeep /data
USER turnkeep
EXPOSE 8080
ENTRYPOINT ["turnkeep"]
CMD ["serve", "--host", "0.0.0.0"]
