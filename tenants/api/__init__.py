"""The tenants' part of the REST door, one router a noun."""

from tenants.api.api_keys import router as api_keys
from tenants.api.audit import router as audit
from tenants.api.members import router as members
from tenants.api.tenants import router as tenants

ROUTERS = (tenants, members, api_keys, audit)
