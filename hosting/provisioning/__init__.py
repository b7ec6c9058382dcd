"""How what tenants run comes to be: Operations as journals of steps that survive crashes.

`states.py` decides (pure) · `engine.py` claims, runs and records · `deploy.py`, `retire.py` are the steps · `plan.py` says what a
deployment would do · `checking.py`, `janitor.py`, `probing.py` are errands of the steps · `reconciler.py` compares the ledger with the
account · `accounts.py` opens accounts.
"""
