"""What granian serves: the REST API or the console, by SMCP_DOOR."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smcp.settings")
application = get_asgi_application()
