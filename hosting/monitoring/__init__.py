"""Scheduled health monitors: is each Environment well, as its users would see it?

Real traffic is the best evidence and comes for free in the gateway's reports. Only where it is quiet do we probe, through the
gateway's real path, ever more rarely while all is well. A Worker that is asleep answers after a cold start: asleep is not
down.
"""
