# Two steps: build a wheel with everything it needs, then install it into a slim image that runs as nobody special.
#   docker run -v queue:/data -e DOUBLEWORD_API_KEY orchestrator
# The root file system may be read-only. Give `docker stop` more than shutdown.grace_seconds: `--time 40`.
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY orchestrator ./orchestrator
COPY migrations ./migrations
RUN pip wheel --no-cache-dir --wheel-dir /wheels -c constraints.txt .

FROM python:3.13-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels orchestrator \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin orchestrator \
    && install -d -o orchestrator -g orchestrator /data
# By number, so that a cluster can see that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
ENV ORCHESTRATOR_DATABASE__URL=sqlite:////data/orchestrator.db \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# It counts every prompt, seconds for each million. The start-up time covers a migration, before which it must fail.
HEALTHCHECK --interval=5m --timeout=60s --start-period=2m CMD ["orchestrator", "status", "--json"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["orchestrator"]
CMD ["run"]
