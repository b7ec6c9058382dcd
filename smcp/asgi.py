"""What granian serves: the REST API or the console, by SMCP_DOOR. Bodies are bounded here, before anybody collects them."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smcp.settings")
# Every request runs in a thread of its own; a pool, not the threads, keeps the connections.
os.environ.setdefault("SMCP_DB_POOL", "16")

from django import db
from django.core.asgi import get_asgi_application
from django.core.signals import request_started

from smcp.bodies import BoundedBodies

application = BoundedBodies(get_asgi_application())

# These two would give every request a thread before it needs one: an event stream would hold it, idle, for as long as it is
# read. There is nothing for them to do, because a request's thread, and so its connection, is new.
request_started.disconnect(db.reset_queries)
request_started.disconnect(db.close_old_connections)
