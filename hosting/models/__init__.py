"""What tenants run, one file a question. Model rows stay in this room; what crosses is a frozen dataclass."""

from hosting.models.account import Account
from hosting.models.health import Flip, HealthState, Incident, LatencySample, Probe, ReportCursor
from hosting.models.operation import UNFINISHED, Operation, Step
from hosting.models.release import Deployment, DeploymentTarget, Release
from hosting.models.remote import Remote
from hosting.models.resource import Binding, Resource, Secret
from hosting.models.server import Environment, Server
from hosting.models.session import Session, UnlistedSessions
from hosting.models.version import Version

__all__ = [
    "UNFINISHED",
    "Account",
    "Binding",
    "Deployment",
    "DeploymentTarget",
    "Environment",
    "Flip",
    "HealthState",
    "Incident",
    "LatencySample",
    "Operation",
    "Probe",
    "Release",
    "Remote",
    "ReportCursor",
    "Resource",
    "Secret",
    "Server",
    "Session",
    "Step",
    "UnlistedSessions",
    "Version",
]
