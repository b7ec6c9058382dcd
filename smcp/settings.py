"""Django's settings, from `env`. One file for every process; SMCP_DB_ROLE says which database role it acts as."""

from __future__ import annotations

import secrets

from kombu import Queue

from hosting.dataplane.contract import parse_keyring, unb64url
from hosting.dataplane.remotes import parse_allowed, public_ring
from smcp import env
from smcp.console.theme import UNFOLD as UNFOLD
from smcp.queues import queues_of

DEBUG = env.flag("SMCP_DEBUG")
SECRET_KEY = env.text("SMCP_SECRET_KEY") or secrets.token_urlsafe(48)
DOOR = env.text("SMCP_DOOR")  # which URLs this process serves: api, console, or none
if DOOR not in {"", "api", "console"}:
    raise env.BadEnvironment("SMCP_DOOR must be api or console")
INSTALLATION = env.text("SMCP_INSTALLATION", "dev")

# ── Where things are ─────────────────────────────────────────────────────────────────────────────────────────────────
API_URL = env.text("SMCP_API_URL", "http://127.0.0.1:8000")
CONSOLE_URL = env.text("SMCP_CONSOLE_URL", "http://127.0.0.1:8001")
GATEWAY_URL = env.text("SMCP_GATEWAY_URL", "http://127.0.0.1:8080")
PROBE_URL = env.text("SMCP_PROBE_URL", GATEWAY_URL)  # the gateway as the monitors reach it
try:  # private places that servers elsewhere may be at, and by whom their names are told
    REMOTE_ALLOW = parse_allowed(env.text("SMCP_GATEWAY_REMOTE_ALLOW"))
except ValueError as exc:
    raise env.BadEnvironment(f"SMCP_GATEWAY_REMOTE_ALLOW: {exc}") from exc
NAME_SERVERS = [name for name in env.text("SMCP_GATEWAY_NAME_SERVERS").split(",") if name]
GATEWAY_DOMAIN = env.text("SMCP_GATEWAY_DOMAIN", "mcp.localhost")
REDIS_URL = env.text("REDIS_URL", "redis://127.0.0.1:6380/0")
DATAPLANE_REDIS_URL = env.text("SMCP_DATAPLANE_REDIS_URL", REDIS_URL)
CLOUDFLARE_API_BASE_URL = env.text("CLOUDFLARE_API_BASE_URL", "https://api.cloudflare.com/client/v4")
CLOUDFLARE_API_TOKEN = env.text("CLOUDFLARE_API_TOKEN")
CLOUDFLARE_ACCOUNT_ID = env.text("CLOUDFLARE_ACCOUNT_ID")
CLOUDFLARE_REQUESTS = env.number("SMCP_CLOUDFLARE_REQUESTS", 1200)  # per CLOUDFLARE_WINDOW_S and account
CLOUDFLARE_WINDOW_S = env.number("SMCP_CLOUDFLARE_WINDOW_S", 300)
CLOUDFLARE_TIMEOUT_S = env.number("SMCP_CLOUDFLARE_TIMEOUT_S", 30)  # of one request
SESSION_IDLE_S = env.number("SMCP_GATEWAY_SESSION_IDLE_S", 24 * 3600)  # as the gateways have it
LEASE_S = env.number("SMCP_LEASE_S", 75)  # how long a silent worker keeps an Operation
if LEASE_S < 2 * CLOUDFLARE_TIMEOUT_S:
    raise env.BadEnvironment("SMCP_LEASE_S must be at least twice SMCP_CLOUDFLARE_TIMEOUT_S")
DRAIN_S = env.number("SMCP_DRAIN_S", 15)  # how long code that lost its traffic may finish what it does
DISPATCH_URL = env.text("SMCP_DISPATCH_URL")
DISPATCH_HOST = env.text("SMCP_DISPATCH_HOST")

# ── Keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
# Without keys of its own a process makes some up: good for one-off commands, useless for two processes, and safe.
SEALING_KEYS = parse_keyring(env.text("SMCP_SEALING_KEYS", "dev:" + secrets.token_urlsafe(32)))
DISPATCH_KEYS = parse_keyring(
    env.text("SMCP_DISPATCH_KEYS", "dev:" + secrets.token_urlsafe(32))
)  # Ed25519 seeds
# What the gateways alone can open: servers' headers in the Routes. Processes that hold their keys need not be told the public ones.
_dataplane_keys = env.text("SMCP_DATAPLANE_KEYS")
ROUTE_KEYS = parse_keyring(env.text("SMCP_ROUTE_KEYS")) if env.text("SMCP_ROUTE_KEYS") else {}
if not ROUTE_KEYS and _dataplane_keys:
    ROUTE_KEYS = public_ring(parse_keyring(_dataplane_keys))
PROBE_KEY = unb64url(env.text("SMCP_PROBE_KEY", secrets.token_urlsafe(32)))

# ── Django ───────────────────────────────────────────────────────────────────────────────────────────────────────────
DB_ROLE = env.text(
    "SMCP_DB_ROLE", "owner"
)  # app: the REST API; system: everything else that runs; owner: migrations
if DB_ROLE not in {"owner", "app", "system"}:
    raise env.BadEnvironment("SMCP_DB_ROLE must be app, system or owner")
_database = (
    env.database(
        {"owner": "DATABASE_URL", "app": "SMCP_APP_DATABASE_URL", "system": "SMCP_SYSTEM_DATABASE_URL"}[
            DB_ROLE
        ]
    )
    or env.database("DATABASE_URL")
    or env.Database(name="smcp", user="smcp_owner", password="", host="127.0.0.1", port="5433")
)
_options: dict[str, object] = {}
if DB_ROLE != "owner":
    # A process that hangs in the middle of a transaction must not keep its rows locked for ever.
    _options["options"] = f"-c role=smcp_{DB_ROLE} -c idle_in_transaction_session_timeout={LEASE_S * 1000}"
_pool = env.number("SMCP_DB_POOL", 0)  # connections kept for many threads; 0: each thread keeps its own
if _pool:
    _options["pool"] = {"min_size": 1, "max_size": _pool, "timeout": 5}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.name,
        "USER": _database.user,
        "PASSWORD": _database.password,
        "HOST": _database.host,
        "PORT": _database.port,
        "CONN_MAX_AGE": 0 if _pool else 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": _options,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "tenants.User"
LOGIN_REDIRECT_URL = "/"  # the console; Django would send people to a page we do not have

INSTALLED_APPS = [
    "smcp.console.apps.ConsoleConfig",  # before the theme: some of its templates are ours
    "unfold.apps.BasicAppConfig",
    "smcp.console.apps.ConsoleSiteConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "smcp.common",
    "tenants",
    "hosting",
    "smcp.stack",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "smcp.common.middleware.RequestIds",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
if DOOR == "console":
    MIDDLEWARE[1:1] = [
        "servestatic.middleware.ServeStaticMiddleware",
        "smcp.console.headers.content_security_policy",
    ]
if DOOR == "api":
    # No cookies, no pages: callers are known by their key, and every error is problem+json.
    MIDDLEWARE = ["smcp.common.middleware.RequestIds", "smcp.common.middleware.Problems"]
ROOT_URLCONF = "smcp.urls"
ASGI_APPLICATION = "smcp.asgi.application"
ALLOWED_HOSTS = env.text("SMCP_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1],.localhost").split(",")
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = env.text("SMCP_STATIC_DIR", str(env.ROOT / "var" / "static"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "smcp.console.static.FingerprintedStorage"},
    "blobs": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": env.text("SMCP_BLOB_DIR", str(env.ROOT / "var" / "blobs"))},
    },
}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_MAX_AGE = 30 * 24 * 3600  # addresses carry the content's digest
SERVESTATIC_ALLOW_ALL_ORIGINS = False
SESSION_COOKIE_NAME = "smcp_console"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = CONSOLE_URL.startswith("https://")
CSRF_COOKIE_NAME = "smcp_console_csrf"
CSRF_COOKIE_HTTPONLY = True
CSRF_TRUSTED_ORIGINS = [CONSOLE_URL]
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    # At INFO they tell of every request, every tick of the clock and every task.
    "loggers": {
        name: {"level": "WARNING"}
        for name in ("httpx", "celery.beat", "celery.app.trace", "celery.worker.strategy")
    },
    "root": {"handlers": ["stderr"], "level": env.text("SMCP_LOG_LEVEL", "INFO")},
}

# ── Celery ───────────────────────────────────────────────────────────────────────────────────────────────────────────
CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A Redis that takes connections and says nothing must not hold a request for ever.
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 10, "socket_connect_timeout": 5}
_queues = queues_of(INSTALLATION)
CELERY_TASK_DEFAULT_QUEUE = _queues.operations
CELERY_TASK_QUEUES = [Queue(_queues.operations), Queue(_queues.checks), Queue(_queues.probes)]
CELERY_TASK_ROUTES = {
    "hosting.tasks.check_upload": {"queue": _queues.checks},
    "hosting.tasks.probe_environments": {"queue": _queues.probes},
    "hosting.tasks.check_remotes": {"queue": _queues.probes},
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BEAT_SCHEDULE = {
    "sweep-operations": {
        "task": "hosting.tasks.sweep_operations",
        "schedule": 3.0,
        "options": {"expires": 3},
    },
    "republish-routes": {
        "task": "hosting.tasks.republish_routes",
        "schedule": 10.0,
        "options": {"expires": 10},
    },
    "collect-reports": {"task": "hosting.tasks.collect_reports", "schedule": 5.0, "options": {"expires": 5}},
    "probe-environments": {
        "task": "hosting.tasks.probe_environments",
        "schedule": 5.0,
        "options": {"expires": 5},
    },
    "check-remotes": {"task": "hosting.tasks.check_remotes", "schedule": 15.0, "options": {"expires": 15}},
    "expire-sessions": {
        "task": "hosting.tasks.expire_sessions",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "prune-history": {
        "task": "hosting.tasks.prune_history",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "reconcile-accounts": {
        "task": "hosting.tasks.reconcile_accounts",
        "schedule": 600.0,
        "options": {"expires": 600},
    },
}
