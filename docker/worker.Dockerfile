# syntax=docker/dockerfile:1
# A worker of the built-in engine.   docker build -f docker/worker.Dockerfile -t tercet-worker:0.1.0 .
# torch comes in its CPU build; for GPUs: --build-arg TORCH_INDEX=https://pypi.org/simple (several GB more).
FROM python:3.11.13-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tercet
WORKDIR /src
COPY docker/worker.txt ./
RUN /opt/tercet/bin/pip install --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/tercet/bin/pip install --constraint worker.txt '.[engine,vision]'

FROM python:3.11.13-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin tercet \
    && mkdir /cache && chown 10001:10001 /cache
COPY --from=build /opt/tercet /opt/tercet
ENV PATH=/opt/tercet/bin:$PATH HOME=/tmp USER=tercet TERCET_CACHE=/cache/tercet HF_HOME=/cache/huggingface \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
VOLUME /cache
# Alive, not ready: loading a model takes its time.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["tercet"]
CMD ["worker", "--host", "0.0.0.0", "--port", "8000", "--devices", "cpu"]
