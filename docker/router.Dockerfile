# syntax=docker/dockerfile:1
# The router, and every command but the engines': no torch.   docker build -f docker/router.Dockerfile -t tercet-router:0.1.0 .
FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tercet
WORKDIR /src
COPY docker/router.txt ./
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/tercet/bin/pip install --constraint router.txt '.[otel]'

FROM python:3.11.13-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin tercet
COPY --from=build /opt/tercet /opt/tercet
ENV PATH=/opt/tercet/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
# Alive, not ready: a router without workers is not to be killed for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["tercet"]
CMD ["router", "--help"]
