"""What granian serves: the REST API or the console, by SMCP_DOOR. Bodies are bounded here, before anybody collects them."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smcp.settings")
# Every request runs in a thread of its own; a pool, not the threads, keeps the connections.
os.environ.setdefault("SMCP_DB_POOL", "16")

from django.core.asgi import get_asgi_application

from smcp.bodies import BoundedBodies

application = BoundedBodies(get_asgi_application())
