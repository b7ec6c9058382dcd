"""The rules of the two eras of MCP: what a request of each becomes for the server behind."""
