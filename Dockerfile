# Two steps: build a wheel with everything it needs, then install it into a slim image that runs as nobody special.
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY orchestrator ./orchestrator
COPY migrations ./migrations
RUN pip wheel --no-cache-dir --wheel-dir /wheels -c constraints.txt .

FROM python:3.13-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels orchestrator \
    && useradd --system --uid 10001 --home-dir /data orchestrator \
    && install -d -o orchestrator -g orchestrator /data
USER orchestrator
WORKDIR /data
VOLUME /data
ENV ORCHESTRATOR_DATABASE__URL=sqlite:////data/orchestrator.db \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
HEALTHCHECK --interval=60s --timeout=20s --start-period=20s CMD ["orchestrator", "status", "--json"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["orchestrator"]
CMD ["run"]
