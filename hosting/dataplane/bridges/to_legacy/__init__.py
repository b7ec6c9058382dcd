"""Modern clients before servers that speak only legacy revisions.

`bridge.py` takes a request; `requests.py`, `answers.py`, `asks.py`, `facts.py` and `headers.py` say it in the other era's words and
do no I/O; `talk.py`, `session.py` and `pool.py` own the sessions with the servers; `run.py` is one call there, `parking.py` keeps it
while its client is asked something, `listening.py` brings what servers say by themselves.
"""
