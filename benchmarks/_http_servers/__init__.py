"""One service, written for each server: a gradient-boosted model asked about one row.

Each module runs alone, ``python -m benchmarks._http_servers.bare PORT``, in the interpreter
that has its server.  They all take the same body, that of the Open Inference Protocol, as
far as their server lets them.
"""
