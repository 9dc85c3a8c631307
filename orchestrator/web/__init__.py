"""What the daemon shows over HTTP, read-only: the status page, health and readiness. Off unless `web.listen` is set.

It runs inside the daemon's event loop and never at its expense: what costs SQL is remembered for some seconds and asked
once for all who wait, connections are bounded, and a page that cannot be served is told in the log and tried again
while the work goes on.

`routes.py` lists every address; `access.py` decides who may see it; `site.py` is what every address is given.
"""
