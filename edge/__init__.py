"""A local Cloudflare: API v4 for Workers, KV, R2 and D1, and Workers that really run, in workerd.

It knows nothing of who uses it; the only ways in are HTTP and the command line (`python -m edge --help`).
"""
