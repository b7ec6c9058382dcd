"""How the console looks and what its menu holds: the settings of django-unfold. Imported by settings, so no models here."""

from __future__ import annotations

from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy


def _lazy_static(path: str) -> Any:
    return lambda request: static(path)


def _item(title: str, icon: str, link: str) -> dict[str, Any]:
    return {"title": title, "icon": icon, "link": reverse_lazy(f"admin:{link}")}


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "SMCP",
    "SITE_HEADER": "SMCP",
    "SITE_SUBHEADER": "Operator console",
    "SITE_URL": None,
    "SITE_ICON": _lazy_static("console/icon.svg"),
    "SITE_FAVICONS": [
        {"rel": "icon", "sizes": "any", "type": "image/svg+xml", "href": _lazy_static("console/icon.svg")}
    ],
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "8px",
    "STYLES": [_lazy_static("console/console.css")],
    "SCRIPTS": [_lazy_static("console/console.js")],
    "COLORS": {
        "primary": {
            "50": "oklch(96.2% .018 272.314)",
            "100": "oklch(93% .034 272.788)",
            "200": "oklch(87% .065 274.039)",
            "300": "oklch(78.5% .115 274.713)",
            "400": "oklch(67.3% .182 276.935)",
            "500": "oklch(58.5% .233 277.117)",
            "600": "oklch(51.1% .262 276.966)",
            "700": "oklch(45.7% .24 277.023)",
            "800": "oklch(39.8% .195 277.366)",
            "900": "oklch(35.9% .144 278.697)",
            "950": "oklch(25.7% .09 281.288)",
        }
    },
    "SIDEBAR": {
        "show_search": False,
        "navigation": [
            {
                "items": [
                    _item("Dashboard", "space_dashboard", "index"),
                    _item("Deploy from the catalog", "rocket_launch", "console_deploy"),
                ]
            },
            {
                "title": "What runs",
                "separator": True,
                "items": [
                    _item("Tenants", "domain", "tenants_tenant_changelist"),
                    _item("Servers", "dns", "hosting_server_changelist"),
                    _item("Environments", "lan", "hosting_environment_changelist"),
                    _item("Versions", "deployed_code", "hosting_version_changelist"),
                    _item("Sessions", "conversion_path", "hosting_session_changelist"),
                ],
            },
            {
                "title": "What happens",
                "separator": True,
                "items": [
                    _item("Operations", "sync_alt", "hosting_operation_changelist"),
                    _item("Health", "monitor_heart", "hosting_healthstate_changelist"),
                    _item("Incidents", "crisis_alert", "hosting_incident_changelist"),
                    _item("Audit", "history", "common_auditevent_changelist"),
                ],
            },
            {
                "title": "What it stands on",
                "separator": True,
                "items": [
                    _item("Resources", "inventory_2", "hosting_resource_changelist"),
                    _item("Accounts", "cloud", "hosting_account_changelist"),
                ],
            },
        ],
    },
}
