# Every process of SMCP from one image; docker-compose.yml says which.
FROM python:3.11.13-slim-bookworm

# nginx for the service `balancer`: Debian's, as the tests use it. Its logs are the container's.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nginx-light \
    && rm -rf /var/lib/apt/lists/* \
    && ln -sf /dev/stdout /var/log/nginx/smcp.log \
    && ln -sf /dev/stderr /var/log/nginx/smcp-error.log

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
