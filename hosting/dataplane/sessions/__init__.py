"""MCP sessions: sealed in their own ids, and what Redis remembers of them besides."""
