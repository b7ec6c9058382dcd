# Every process of SMCP from one image; docker-compose.yml says which.
FROM python:3.11.13-slim-bookworm

WORKDIR /app
COPY requirements.txt requirements-redis.txt ./
COPY edge/package.json edge/package-lock.json edge/
COPY smcp/__init__.py smcp/
COPY smcp/stack/__init__.py smcp/stack/install.py smcp/stack/errors.py smcp/stack/
RUN python3 -m smcp.stack.install

COPY . .
RUN useradd --system --uid 10001 smcp && mkdir -p /data && chown smcp /data
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 DJANGO_SETTINGS_MODULE=smcp.settings
USER smcp
VOLUME /data
