"""One Version: an upload, exactly as it is. Nothing here can be changed, by anybody."""

from __future__ import annotations

import json
from typing import Any

from hosting.models import Release, Version
from smcp.console.pages.people import describe


def context(version: Version) -> dict[str, Any]:
    contract = version.contract or {}
    return {
        "title": f"{version.server.slug} {version}",
        "version": version,
        "server": version.server,
        "modules": version.modules,
        "bindings": version.bindings,
        "migrations": json.dumps(version.migrations, indent=2) if version.migrations else "",
        "annotations": version.annotations,
        "tools": [t for t in contract.get("tools", []) if isinstance(t, dict)],
        "releases": Release.objects.filter(tenant_id=version.tenant_id, version=version).select_related(
            "environment__server"
        )[:20],
        "people": describe([version.created_by]),
    }
