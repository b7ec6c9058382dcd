"""MCP as it stands on the wire: revisions, messages, events, errors. Pure: nothing here does I/O or knows a Session."""
