"""The web application: routes as data, micro-batching, access, metrics. Imports no torch."""
