"""The addresses of the console."""

from __future__ import annotations

LISTS = (
    "/tenants/tenant/",
    "/hosting/server/",
    "/hosting/environment/",
    "/hosting/version/",
    "/hosting/session/",
    "/hosting/operation/",
    "/hosting/healthstate/",
    "/hosting/incident/",
    "/hosting/flip/",
    "/hosting/probe/",
    "/hosting/resource/",
    "/hosting/account/",
    "/common/auditevent/",
)
