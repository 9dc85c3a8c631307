# Two steps: build a wheel with everything it needs, then install it into a slim image that runs as nobody special.
#   docker run -v queue:/data -e DOUBLEWORD_API_KEY orchestrator
# Optional parts of the package are named by --build-arg EXTRAS='[name]'.
# The root file system may be read-only. Give `docker stop` more than shutdown.grace_seconds: `--time 40`.
FROM python:3.13-slim AS build
ARG EXTRAS=""
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY orchestrator ./orchestrator
COPY migrations ./migrations
RUN pip wheel --no-cache-dir --wheel-dir /wheels -c constraints.txt ".${EXTRAS}"

FROM python:3.13-slim
ARG EXTRAS=""
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "orchestrator${EXTRAS}" \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin orchestrator \
    && install -d -o orchestrator -g orchestrator /data
# By number, so that a cluster can see that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
ENV ORCHESTRATOR_DATABASE__URL=sqlite:////data/orchestrator.db \
    ORCHESTRATOR_WEB__LISTEN=127.0.0.1:8080 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Whether every loop ticks. It asks port 8080, so another address in web.listen must keep that port. The start-up time
# covers a migration, before which it must fail.
HEALTHCHECK --interval=30s --timeout=10s --retries=4 --start-period=5m CMD ["python", "-c", "\
from http.client import HTTPConnection as To; \
to = To('127.0.0.1', 8080, timeout=5); to.request('GET', '/healthz'); raise SystemExit(to.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["orchestrator"]
CMD ["run"]
