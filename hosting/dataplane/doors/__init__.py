"""Doors beside MCP's own: WebSockets, a server's other paths, and MCP 2024-11-05 over two connections (HTTP+SSE)."""
