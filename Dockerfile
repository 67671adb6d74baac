# The same file for both builds of torch: TORCH_BACKEND is cpu, or a CUDA version as uv names it.
ARG BASE=python:3.13.9-slim-bookworm

# Python's own modules come without bytecode, and nobody may write any at run time. Not checked
# against the sources' times, which some builders round.
FROM ${BASE} AS base
RUN python -m compileall -q -x site-packages --invalidation-mode unchecked-hash /usr/local/lib/python3.*

FROM base AS build
ARG TORCH_BACKEND=cpu
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    VIRTUAL_ENV=/opt/venv
WORKDIR /src
RUN pip install --no-cache-dir uv==0.13.9 && uv venv /opt/venv
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache \
    uv pip install --torch-backend="${TORCH_BACKEND}" --requirements requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY app ./app
RUN --mount=type=cache,target=/root/.cache uv pip install --no-deps .

FROM base
LABEL org.opencontainers.image.title="lamina" \
      org.opencontainers.image.description="Neural-network layers over HTTP, with their gradients" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2 \
    HOME=/tmp \
    LAMINA_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
    CMD ["python", "-m", "app.server.health"]
ENTRYPOINT ["lamina"]
CMD ["serve"]
