"""Legacy clients at modern servers: the gateway keeps the session, and asks the client what the server asks for."""
