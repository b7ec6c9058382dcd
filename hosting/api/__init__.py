"""Hosting's part of the REST door, one router a noun."""

from hosting.api.catalog import router as catalog
from hosting.api.deployments import router as deployments
from hosting.api.environments import router as environments
from hosting.api.events import router as events
from hosting.api.health import router as health
from hosting.api.operations import router as operations
from hosting.api.remotes import router as remotes
from hosting.api.resources import router as resources
from hosting.api.secrets import router as secrets
from hosting.api.servers import router as servers
from hosting.api.sessions import router as sessions
from hosting.api.versions import router as versions

ROUTERS = (
    catalog,
    servers,
    versions,
    environments,
    remotes,
    secrets,
    deployments,
    operations,
    events,
    resources,
    health,
    sessions,
)
