"""Where requests come in: one HTTP exchange, whose Origin and caller it is, and what it may hold of memory."""
