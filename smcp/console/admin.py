"""Registers every page. Django looks for this file."""

from smcp.console.lists import audit, health, operations, platform, servers, sessions, tenants

__all__ = ["audit", "health", "operations", "platform", "servers", "sessions", "tenants"]
