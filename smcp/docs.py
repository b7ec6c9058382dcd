"""The REST API's reference as a page, drawn by Swagger UI from `openapi.json`. Everything comes from this door, nothing from elsewhere.

The files are those django-ninja ships; the policy lets nothing else in, and its one inline script by hash.
"""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from pathlib import Path
from typing import Final

import ninja
from django.http import FileResponse, HttpRequest, HttpResponse
from django.urls import URLPattern, path

SHIPPED: Final = Path(ninja.__file__).parent / "static" / "ninja"
FILES: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
DRAW: Final = (
    'SwaggerUIBundle({url: "openapi.json", dom_id: "#reference", deepLinking: true, validatorUrl: null})'
)
PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SMCP REST API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="swagger-ui.css">
</head>
<body style="margin: 0">
<div id="reference"></div>
<script src="swagger-ui-bundle.js"></script>
<script>{DRAW}</script>
</body>
</html>
"""
_HASH: Final = base64.b64encode(hashlib.sha256(DRAW.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; script-src 'self' 'sha256-{_HASH}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def docs(request: HttpRequest) -> HttpResponse:
    return HttpResponse(PAGE, headers={"Content-Security-Policy": POLICY})


def shipped(request: HttpRequest, *, name: str) -> FileResponse:
    headers = {"Cache-Control": "public, max-age=86400"}
    return FileResponse((SHIPPED / name).open("rb"), content_type=FILES[name], headers=headers)


urlpatterns: list[URLPattern] = [
    path("docs", docs),
    *(path(name, partial(shipped, name=name)) for name in FILES),
]
