"""MCP servers that can be deployed by a click: one folder each. See `catalog.py`."""
