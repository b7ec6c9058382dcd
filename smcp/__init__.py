"""The wiring. Imports nothing: `smcp.stack.install` runs from here before anything is installed."""
